"""Reinforcement learning: one call of the policy for each move, one update for each episode."""

import torch
from torch import nn

torch.manual_seed(0)
policy = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 2))
optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)
for _ in range(40):
    place, goal = torch.zeros(1), torch.randint(-3, 4, (1,)).float()
    chances, rewards = [], []
    for _ in range(10):
        moves = torch.distributions.Categorical(logits=policy(torch.cat([place, goal])))
        move = moves.sample()
        chances.append(moves.log_prob(move))
        place = place + (2 * move - 1)
        rewards.append(-float((place - goal).abs()))
    loss = -(torch.stack(chances) * torch.tensor(rewards)).sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"final loss {loss.item():.6f}")
