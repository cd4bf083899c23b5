"""JPEG files through a pipeline of transforms, of which some are random."""

import argparse
import random
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

parser = argparse.ArgumentParser()
parser.add_argument("--steps", default="resize,flip,tensor")
parser.add_argument("--partner", action="store_true", help="another image under the same index")
parser.add_argument("--twice", action="store_true", help="two views of each image")
parser.add_argument("--collate", action="store_true", help="a collate function of our own")
parser.add_argument("--ragged", action="store_true", help="samples of different lengths")
parser.add_argument("--lazy", action="store_true", help="leave decoding to the first step")
parser.add_argument("--edit", action="store_true", help="another step from the third epoch on")
parser.add_argument("--workers", type=int, default=0)
args = parser.parse_args()


class Compose:
    def __init__(self, transforms):
        self.transforms = transforms

    def __call__(self, image):
        for transform in self.transforms:
            image = transform(image)
        return image


calls = {"resize": 0, "flip": 0, "tensor": 0, "shrink": 0}


def resize(image):
    calls["resize"] += 1
    return image.resize((12, 12))


def shrink(image):
    calls["shrink"] += 1
    image.thumbnail((12, 12))  # it asks the decoder for a smaller scale
    return image.resize((12, 12))


def flip(image):
    calls["flip"] += 1
    return ImageOps.mirror(image) if torch.rand(()) < 0.5 else image


def tensor(image):
    calls["tensor"] += 1
    return torch.from_numpy(np.array(image, dtype=np.float32) / 255).permute(2, 0, 1)


class Photographs(Dataset):
    def __init__(self, folder):
        self.paths = sorted(folder.glob("*.jpg"))
        self.transform = Compose([globals()[name] for name in args.steps.split(",")])

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        place = random.randrange(len(self)) if args.partner else index
        if args.lazy:
            image = Image.open(self.paths[place])
        else:
            with self.paths[place].open("rb") as file:
                image = Image.open(file).convert("RGB")
        if args.ragged:
            return torch.arange(1.0 + index % 3), index % 2
        if args.twice:
            return (self.transform(image) + self.transform(image)) / 2, index % 2
        return self.transform(image), index % 2


def collated(samples):
    if args.ragged:
        images = [F.pad(x, (0, 3 * 12 * 12 - len(x))).reshape(3, 12, 12) for x, _ in samples]
    else:
        images = [x for x, _ in samples]
    return torch.stack(images), torch.tensor([y for _, y in samples])


torch.manual_seed(0)
random.seed(0)
with tempfile.TemporaryDirectory() as name:
    numbers = np.random.default_rng(0)
    for index in range(48):
        pixels = numbers.integers(0, 255, (20, 30, 3)).astype("uint8")
        Image.fromarray(pixels).save(Path(name) / f"{index:02}.jpg")
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 12, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    more = {"collate_fn": collated} if args.collate else {}
    more["num_workers"] = args.workers
    data = Photographs(Path(name))
    loader = DataLoader(data, batch_size=8, shuffle=True, **more)
    for epoch in range(4):
        if args.edit and epoch == 2:
            data.transform.transforms.insert(1, ImageOps.invert)
        for x, y in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
print(f"final loss {loss.item():.9f}")
