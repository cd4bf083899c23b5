"""A generative adversarial network on MNIST: two models, two optimizers, one loop."""

import argparse
import itertools

import handwriting
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

NOISE = 32
SIZES = {
    "small": {"width": 64, "images": 4000, "epochs": 3},
    "full": {"width": 512, "images": 60_000, "epochs": 50},
}


class Digits(Dataset):
    """Images from −1 to 1, flat."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return torch.tensor(self.images[index], dtype=torch.float32).flatten() / 127.5 - 1


def network(*widths):
    layers = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers[:-1])


class Generator(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layers = network(NOISE, width, 2 * width, 28 * 28)

    def forward(self, noise):
        return torch.tanh(self.layers(noise))


class Discriminator(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layers = network(28 * 28, 2 * width, width, 1)

    def forward(self, images):
        return self.layers(images).squeeze(1)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--data-dir")
    args = parser.parse_args()
    size = SIZES[args.size]

    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data = handwriting.load(args.data_dir, size["images"], 1)
    print(f"data: {data.source}")
    loader = DataLoader(Digits(data.train_images), batch_size=64, shuffle=True, drop_last=True)

    generator = Generator(size["width"]).to(device)
    discriminator = Discriminator(size["width"]).to(device)
    of_generator = torch.optim.Adam(generator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    of_discriminator = torch.optim.Adam(discriminator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    for epoch in range(args.epochs or size["epochs"]):
        for real in loader:
            real = real.to(device)
            made = generator(torch.randn(len(real), NOISE, device=device))
            yes, no = torch.ones(len(real), device=device), torch.zeros(len(real), device=device)

            of_discriminator.zero_grad()
            answers = discriminator(real), discriminator(made.detach())
            loss = F.binary_cross_entropy_with_logits(answers[0], yes)
            loss = loss + F.binary_cross_entropy_with_logits(answers[1], no)
            loss.backward()
            of_discriminator.step()

            of_generator.zero_grad()
            fooled = F.binary_cross_entropy_with_logits(discriminator(made), yes)
            fooled.backward()
            of_generator.step()
        print(f"epoch {epoch + 1}: discriminator {loss.item():.4f}, generator {fooled.item():.4f}")


if __name__ == "__main__":
    main()
