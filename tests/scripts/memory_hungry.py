"""A loop whose batch does not fit in the memory that the process may have."""

import os
import resource
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

MORE_BYTES = 500_000_000
numbers = torch.Generator().manual_seed(0)
data = TensorDataset(
    torch.randn(2048, 64, generator=numbers), torch.randint(0, 4, (2048,), generator=numbers)
)
torch.manual_seed(0)
torch.set_num_threads(1)
model = nn.Sequential(nn.Linear(64, 40_000), nn.Tanh(), nn.Linear(40_000, 4))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
held = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
resource.setrlimit(resource.RLIMIT_AS, (held + MORE_BYTES, held + MORE_BYTES))
for _ in range(3):
    for x, y in DataLoader(data, batch_size=1024, shuffle=True):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
    print(f"loss {loss.item():.4f}")
