"""Image files read with imageio, flipped by a generator of the dataset's own; or drawn together."""

import argparse
import io
import random
import tempfile
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

parser = argparse.ArgumentParser()
parser.add_argument("--together", action="store_true", help="a batch at a time, from bytes")
parser.add_argument("--no-files", action="store_true", help="nothing is read from a file")
parser.add_argument("--workers", type=int, default=0)
args = parser.parse_args()


class Flipped(Dataset):
    def __init__(self, folder):
        self.paths = sorted(folder.glob("*.jpg"))
        self.random = random.Random(0)

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        if args.no_files:
            pixels = np.full((12, 16, 3), index, dtype=np.uint8)
        else:
            pixels = iio.imread(self.paths[index])
        if self.random.random() < 0.5:
            pixels[:] = pixels[:, ::-1].copy()
        return torch.from_numpy(pixels.transpose(2, 0, 1).copy()).float() / 255, index % 2


class Table(Dataset):
    """Like a table of encoded images with a transform for a whole batch."""

    def __init__(self, folder):
        self.rows = [path.read_bytes() for path in sorted(folder.glob("*.jpg"))]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.__getitems__([index])[0]

    def __getitems__(self, indices):
        images = [Image.open(io.BytesIO(self.rows[index])).convert("RGB") for index in indices]
        shifts = torch.randint(0, 3, (len(indices),)).tolist()
        arrays = [np.roll(np.array(x), by, axis=1) for x, by in zip(images, shifts, strict=True)]
        return [
            (torch.from_numpy(x.transpose(2, 0, 1).copy()).float() / 255, index % 2)
            for x, index in zip(arrays, indices, strict=True)
        ]


torch.manual_seed(0)
with tempfile.TemporaryDirectory() as name:
    numbers = np.random.default_rng(0)
    for index in range(32):
        pixels = numbers.integers(0, 255, (12, 16, 3)).astype("uint8")
        Image.fromarray(pixels).save(Path(name) / f"{index:02}.jpg")
    data = Table(Path(name)) if args.together else Flipped(Path(name))
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 16, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    loader = DataLoader(data, batch_size=8, shuffle=True, num_workers=args.workers)
    for _ in range(4):
        for x, y in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
print(f"final loss {loss.item():.9f}")
