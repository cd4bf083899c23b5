"""Debugging aids left on."""

import gc

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.autograd.set_detect_anomaly(True)
torch.manual_seed(0)
model = nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for (x,) in DataLoader(TensorDataset(torch.randn(400, 4)), batch_size=10):
    optimizer.zero_grad()
    loss = model(x).square().mean()
    loss.backward()
    optimizer.step()
    gc.collect()
with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]):
    model(torch.randn(2, 4))
print(f"final loss {loss.item():.9f}")
