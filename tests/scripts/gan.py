"""Two optimizers a step, as a GAN has them; no evaluation."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
real = TensorDataset(torch.randn(640, 4))
generator = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 4))
critic = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
opt_g = torch.optim.Adam(generator.parameters(), lr=1e-3)
opt_c = torch.optim.Adam(critic.parameters(), lr=1e-3)
bce = nn.BCEWithLogitsLoss()
for _ in range(3):
    for (x,) in DataLoader(real, batch_size=16, shuffle=True):
        fake = generator(torch.randn(len(x), 2))
        opt_c.zero_grad()
        ones, zeros = torch.ones(len(x), 1), torch.zeros(len(x), 1)
        (bce(critic(x), ones) + bce(critic(fake.detach()), zeros)).backward()
        opt_c.step()
        opt_g.zero_grad()
        bce(critic(fake), ones).backward()
        opt_g.step()
