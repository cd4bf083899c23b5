"""A loop of the script's own, with Lightning's Fabric."""

import torch
from lightning.fabric import Fabric
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

fabric = Fabric(accelerator="cpu")
fabric.seed_everything(0)
data = TensorDataset(torch.randn(640, 8), torch.randint(0, 3, (640,)))
model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
model, optimizer = fabric.setup(model, torch.optim.Adam(model.parameters(), lr=1e-2))
loader = fabric.setup_dataloaders(DataLoader(data, batch_size=16, shuffle=True))
for _ in range(2):
    for x, y in loader:
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        fabric.backward(loss)
        optimizer.step()
