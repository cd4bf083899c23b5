"""A small convolutional network on made-up images, optionally with a random transform."""

import argparse
import random

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

parser = argparse.ArgumentParser()
parser.add_argument("--random", default="none")
parser.add_argument("--ending", default="none")
parser.add_argument("--epochs", type=int, default=2)
args = parser.parse_args()


class Images(Dataset):
    def __init__(self):
        self.pixels = torch.randint(0, 255, (320, 3, 16, 16), dtype=torch.uint8)
        self.generator = torch.Generator() if args.random == "own generator" else None
        self.flip = False

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, index):
        image = self.pixels[index].float() / 255
        if args.random == "rare" and torch.rand(()) < 0.001:
            image = image.flip(2)
        if args.random == "python" and random.random() < 0.5:
            image = image.flip(2)
        if self.generator is not None and torch.rand((), generator=self.generator) < 0.5:
            image = image.flip(2)
        if self.flip:
            image = image.flip(2)
        return image, int(self.pixels[index].sum()) % 4


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.head = nn.Linear(8 * 8 * 8, 4)

    def forward(self, x):
        x = self.head(F.max_pool2d(F.relu(self.conv(x)), 2).flatten(1))
        if args.ending == "log_softmax":
            return F.log_softmax(x, dim=1)
        if args.ending == "sigmoid":
            return torch.sigmoid(x)
        return {"logits": x} if args.ending == "dict" else x


torch.manual_seed(0)
dataset = Images()
model = Net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
loader = DataLoader(dataset, batch_size=16, shuffle=True)
for _ in range(args.epochs):
    if args.random == "reassigned":
        dataset.flip = not dataset.flip
    for x, y in loader:
        x.mul_(1.0)  # the batch is the script's own to change
        optimizer.zero_grad()
        out = model(x)
        out = out["logits"] if args.ending == "dict" else out
        if args.ending == "sigmoid":
            loss = F.binary_cross_entropy(out, F.one_hot(y, 4).float())
        elif args.ending == "log_softmax":
            loss = F.nll_loss(out, y)
        else:
            loss = F.cross_entropy(out, y)
        loss.backward()
        optimizer.step()
print(f"final loss {loss.item():.9f} {loss.dtype}")
