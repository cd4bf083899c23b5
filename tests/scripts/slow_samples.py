"""A loop whose cost is its data: each sample is made in slow Python, again in every epoch."""

import math
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset


class Slow(Dataset):
    def __init__(self, length, offset):
        self.length = length
        self.offset = offset

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        seed = index + self.offset
        values = [math.sin(seed * k) + math.cos(seed + k) for k in range(800)]
        return torch.tensor(values[:16]), int(values[0] + values[1] > 0)


torch.manual_seed(0)
model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
loader = DataLoader(Slow(800, 0), batch_size=16, shuffle=True)
test = Slow(100, 5000)
for _ in range(16):
    for x, y in loader:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
correct = sum(int(model(x[None]).argmax() == y) for x, y in (test[i] for i in range(100)))
print(f"test accuracy {correct}/100")
Path("written.txt").write_text("by a trial")
