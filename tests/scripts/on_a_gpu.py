"""A loop on a GPU, as most are written: each batch goes `.to(device)`, losses are printed."""

import argparse
import time

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

parser = argparse.ArgumentParser()
parser.add_argument(
    "--model", choices=("linear", "convolutions", "chain", "large"), default="linear"
)
parser.add_argument("--samples", type=int, default=512)
parser.add_argument("--epochs", type=int, default=4)
parser.add_argument("--batch", type=int, default=32)
parser.add_argument("--slow-data", action="store_true")
parser.add_argument("--item-each-step", action="store_true")
parser.add_argument("--empties-cache", action="store_true")
parser.add_argument("--clip", action="store_true")
parser.add_argument("--pins", action="store_true")
parser.add_argument("--looks-at-batch", action="store_true")
parser.add_argument("--hoards", action="store_true")
args = parser.parse_args()

SIDE, CLASSES = 16, 10


class Shapes(Dataset):
    def __init__(self, count):
        generator = torch.Generator().manual_seed(1)
        self.labels = torch.randint(CLASSES, (count,), generator=generator)
        self.images = torch.randn(count, 1, SIDE, SIDE, generator=generator)
        self.images += self.labels[:, None, None, None] / CLASSES

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        if args.slow_data:
            time.sleep(0.002)
        return self.images[index], self.labels[index]


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.inside = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, x):
        return x + self.inside(x)


def make_model():
    if args.model == "convolutions":
        return nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, CLASSES),
        )  # fmt: skip
    width, blocks = {"linear": (128, 2), "chain": (32, 40), "large": (4096, 8)}[args.model]
    repeated = (Block(width) for _ in range(blocks))
    ends = nn.Linear(SIDE * SIDE, width), nn.Linear(width, CLASSES)
    return nn.Sequential(nn.Flatten(), ends[0], *repeated, ends[1])


device = torch.device("cuda")
torch.manual_seed(0)
model = make_model().to(device)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
loader = DataLoader(Shapes(args.samples), args.batch, shuffle=True, pin_memory=args.pins)
hoard = []
if args.hoards:
    torch.cuda.set_per_process_memory_fraction(0.05)
for epoch in range(args.epochs):
    for images, labels in loader:
        if args.looks_at_batch:
            images.numpy().sum()
        if args.hoards:
            hoard.append(torch.zeros(1_000_000_000, dtype=torch.uint8, device=device))
        images, labels = images.to(device), labels.to(device)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        if args.clip:
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if args.item_each_step:
            loss.item()
        if args.empties_cache:
            torch.cuda.empty_cache()
    print(f"epoch {epoch}: loss {loss.item():.4f}")
