"""Samples that come from a database, by one query each."""

import sqlite3

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

torch.manual_seed(0)
connection = sqlite3.connect("rows.db")
connection.execute("create table if not exists rows (id integer primary key, x real, y real)")
if not connection.execute("select count(*) from rows").fetchone()[0]:
    numbers = torch.randn(160).tolist()
    rows = [(i, x, 2 * x + 1) for i, x in enumerate(numbers)]
    connection.executemany("insert into rows values (?, ?, ?)", rows)
    connection.commit()


class Rows(Dataset):
    def __len__(self):
        return connection.execute("select count(*) from rows").fetchone()[0]

    def __getitem__(self, index):
        query = "select x, y from rows where id = ?"
        x, y = connection.execute(query, (index,)).fetchone()
        return torch.tensor([x]), torch.tensor([y])


model = nn.Linear(1, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
loader = DataLoader(Rows(), batch_size=8, shuffle=True)
for _ in range(3):
    for x, y in loader:
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
print(f"loss {loss.item():.4f}")
