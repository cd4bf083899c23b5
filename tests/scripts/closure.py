"""An optimizer that computes its loss in a closure, several times an update: L-BFGS."""

import torch
from torch import nn

torch.manual_seed(0)
x = torch.linspace(0, 6.28, 256).unsqueeze(1)
y = torch.sin(x)
model = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1))
optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=4)
evaluations = 0


def closure():
    global evaluations
    evaluations += 1
    optimizer.zero_grad()
    loss = (model(x) - y).square().mean()
    loss.backward()
    return loss


for _ in range(30):
    optimizer.step(closure)
print(f"{evaluations} evaluations, final loss {closure().item():.6f}")
