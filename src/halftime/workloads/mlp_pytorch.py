"""A small MLP on MNIST: its cost is its data path."""

import argparse

import handwriting
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset


class Digits(Dataset):
    """Decodes one image at a time and brings it to zero mean and unit variance."""

    def __init__(self, images, labels):
        self.images = images
        self.labels = labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        image = torch.tensor(self.images[index], dtype=torch.float32) / 255
        image = (image - image.mean()) / (image.std() + 1e-6)
        return image.flatten(), int(self.labels[index])


def count_correct(model, loader):
    model.eval()
    correct = 0
    with torch.no_grad():
        for images, labels in loader:
            correct += (model(images).argmax(dim=1) == labels).sum().item()
    return correct


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--train", type=int, default=20_000)
    parser.add_argument("--test", type=int, default=5_000)
    parser.add_argument("--data-dir")
    args = parser.parse_args()

    torch.manual_seed(0)
    data = handwriting.load(args.data_dir, args.train, args.test)
    print(f"data: {data.source}")
    train_loader = DataLoader(
        Digits(data.train_images, data.train_labels), batch_size=args.batch_size, shuffle=True
    )
    test_set = Digits(data.test_images, data.test_labels)
    test_loader = DataLoader(test_set, batch_size=500)

    model = nn.Sequential(nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for epoch in range(args.epochs):
        model.train()
        for images, labels in train_loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
        correct = count_correct(model, test_loader)
        print(f"epoch {epoch + 1}: loss {loss.item():.4f}, test accuracy {correct}/{len(test_set)}")


if __name__ == "__main__":
    main()
