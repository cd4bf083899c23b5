"""A plain loop: two epochs, evaluation after each, accuracy printed, a checkpoint saved."""

import argparse

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=2)
parser.add_argument("--samples", type=int, default=640)
args = parser.parse_args()

torch.manual_seed(1)
features = torch.randn(args.samples, 8)
labels = (features.sum(dim=1) > 0).long()
train = TensorDataset(features, labels)
test = TensorDataset(features[:100], labels[:100])
model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
optimizer = torch.optim.Adam(model.parameters())
loader = DataLoader(train, batch_size=16, shuffle=True)
for epoch in range(args.epochs):
    for x, y in loader:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        correct = sum(
            (model(x).argmax(1) == y).sum().item() for x, y in DataLoader(test, batch_size=50)
        )
    print(f"epoch {epoch}: test accuracy {correct}/100")
torch.save(model.state_dict(), "model.pt")
