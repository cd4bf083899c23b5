"""A residual network on photographs from an image folder, with random crops and flips."""

import argparse
import random

import numpy as np
import photographs
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

SIZES = {
    "small": {"side": 64, "width": 16, "blocks": (1, 1, 1), "epochs": 8, "batch": 25},
    "full": {"side": 224, "width": 64, "blocks": (2, 2, 2, 2), "epochs": 60, "batch": 64},
}


class Compose:
    """One transform after the other."""

    def __init__(self, transforms):
        self.transforms = transforms

    def __call__(self, image):
        for transform in self.transforms:
            image = transform(image)
        return image


class Resize:
    def __init__(self, side):
        self.side = side

    def __call__(self, image):
        scale = self.side / min(image.size)
        width, height = (round(length * scale) for length in image.size)
        return image.resize((width, height), Image.Resampling.BILINEAR)


class RandomCrop:
    def __init__(self, side):
        self.side = side

    def __call__(self, image):
        left = random.randint(0, image.width - self.side)
        top = random.randint(0, image.height - self.side)
        return image.crop((left, top, left + self.side, top + self.side))


class CenterCrop:
    def __init__(self, side):
        self.side = side

    def __call__(self, image):
        left, top = (image.width - self.side) // 2, (image.height - self.side) // 2
        return image.crop((left, top, left + self.side, top + self.side))


class RandomFlip:
    def __call__(self, image):
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if random.random() < 0.5 else image


class Normalise:
    def __call__(self, image):
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float()
        return (pixels / 255 - 0.45) / 0.25


class ImageFolder(Dataset):
    """One folder a class, one JPEG file a sample."""

    def __init__(self, folder, transform):
        self.classes = sorted(path.name for path in folder.iterdir())
        self.samples = [
            (path, label)
            for label, name in enumerate(self.classes)
            for path in sorted((folder / name).glob("*.jpg"))
        ]
        self.transform = transform

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        path, label = self.samples[index]
        with path.open("rb") as file:
            image = Image.open(file).convert("RGB")
        return self.transform(image), label


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x):
        out = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(out)) + self.shortcut(x))


class ResNet(nn.Module):
    def __init__(self, width, blocks, classes):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 7, 2, padding=3, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, padding=1),
        )
        stages, inputs = [], width
        for stage, count in enumerate(blocks):
            outputs = width * 2**stage
            for number in range(count):
                stride = 2 if stage > 0 and number == 0 else 1
                stages.append(Block(inputs, outputs, stride))
                inputs = outputs
        self.blocks = nn.Sequential(*stages)
        self.head = nn.Linear(inputs, classes)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)).mean(dim=(2, 3)))


def count_correct(model, loader, device):
    model.eval()
    correct = 0
    with torch.no_grad():
        for images, labels in loader:
            predicted = model(images.to(device)).argmax(dim=1)
            correct += (predicted == labels.to(device)).sum().item()
    return correct


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--data-dir")
    args = parser.parse_args()
    size = SIZES[args.size]

    random.seed(0)
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data = photographs.find(args.data_dir)
    print(f"data: {data.source}")
    side, larger = size["side"], size["side"] * 9 // 8
    random_views = Compose([Resize(larger), RandomCrop(side), RandomFlip(), Normalise()])
    centre = Compose([Resize(larger), CenterCrop(side), Normalise()])
    train_set = ImageFolder(data.train, random_views)
    test_set = ImageFolder(data.test, centre)
    train_loader = DataLoader(train_set, batch_size=size["batch"], shuffle=True)
    test_loader = DataLoader(test_set, batch_size=size["batch"])

    model = ResNet(size["width"], size["blocks"], len(train_set.classes)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    for epoch in range(args.epochs or size["epochs"]):
        model.train()
        for images, labels in train_loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images.to(device)), labels.to(device))
            loss.backward()
            optimizer.step()
        correct = count_correct(model, test_loader, device)
        print(f"epoch {epoch + 1}: loss {loss.item():.4f}, test accuracy {correct}/{len(test_set)}")


if __name__ == "__main__":
    main()
