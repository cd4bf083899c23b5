"""Random crops of one array, as a character model draws them; no DataLoader."""

import torch
from torch import nn
from torch.nn import functional as F

torch.manual_seed(0)
text = torch.randint(0, 20, (5000,))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.head = nn.Linear(16, 20)

    def forward(self, x, y):
        logits = self.head(self.embed(x))
        return logits, F.cross_entropy(logits.flatten(0, 1), y.flatten())


model = Model()
optimizer = torch.optim.AdamW(model.parameters())
for _ in range(120):
    start = torch.randint(0, 4900, (12,))
    x = torch.stack([text[s : s + 16] for s in start])
    y = torch.stack([text[s + 1 : s + 17] for s in start])
    _, loss = model(x, y)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
print(f"final loss {loss.item():.6f}")
