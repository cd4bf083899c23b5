"""Two DataLoaders zipped, of labelled and unlabelled rows; epochs of different length."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
labelled = TensorDataset(torch.randn(320, 8), torch.randint(0, 3, (320,)))
unlabelled = TensorDataset(torch.randn(960, 8))
model = nn.Linear(8, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
with_labels = DataLoader(labelled, batch_size=16, shuffle=True)
without = DataLoader(unlabelled, batch_size=48, shuffle=True)
for epoch in range(3):
    for number, ((x, y), (z,)) in enumerate(zip(with_labels, without, strict=True)):
        if number == 20 - 5 * epoch:
            break
        loss = nn.functional.cross_entropy(model(x), y) + 0.1 * model(z).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
print(f"final loss {loss.item():.6f}")
