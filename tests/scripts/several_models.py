"""Two models of one class trained together; one ends in a sigmoid, one has dropout."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

torch.manual_seed(0)
images = torch.randn(160, 1, 8, 8)
labels = (images.mean(dim=(1, 2, 3)) > 0).float()
features = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
head = nn.Sequential(nn.Linear(4 * 36, 8), nn.Dropout(0.1), nn.Linear(8, 1), nn.Sigmoid())
optimizer = torch.optim.Adam([*features.parameters(), *head.parameters()])
data = TensorDataset(images, labels)
chosen = BatchSampler(RandomSampler(data), batch_size=16, drop_last=False)
for _ in range(3):
    for x, y in DataLoader(data, batch_sampler=chosen):
        optimizer.zero_grad()
        loss = F.binary_cross_entropy(head(features(x)).squeeze(1), y)
        loss.backward()
        optimizer.step()
print(f"final loss {loss.item():.9f}")
