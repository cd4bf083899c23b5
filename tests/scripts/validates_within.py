"""Validation every ten steps, inside the loop; the script sets its own number of threads."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
torch.set_num_threads(1)
rows, labels = torch.randn(800, 8), torch.randint(0, 3, (800,))
train = DataLoader(TensorDataset(rows[:640], labels[:640]), batch_size=16, shuffle=True)
valid = DataLoader(TensorDataset(rows[640:], labels[640:]), batch_size=40)
model = nn.Linear(8, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(2):
    for number, (x, y) in enumerate(train, start=1):
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if number % 10 == 0:
            with torch.no_grad():
                right = sum((model(a).argmax(1) == b).sum().item() for a, b in valid)
            print(f"validation accuracy {right}/160")
