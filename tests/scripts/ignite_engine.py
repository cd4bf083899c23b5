"""Ignite's engines: a supervised trainer and an evaluator after each epoch."""

import torch
from ignite.engine import Events, create_supervised_evaluator, create_supervised_trainer
from ignite.metrics import Accuracy
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
rows, labels = torch.randn(800, 8), torch.randint(0, 3, (800,))
train = DataLoader(TensorDataset(rows[:640], labels[:640]), batch_size=16, shuffle=True)
valid = DataLoader(TensorDataset(rows[640:], labels[640:]), batch_size=80)
model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
trainer = create_supervised_trainer(model, optimizer, nn.functional.cross_entropy)
evaluator = create_supervised_evaluator(model, metrics={"accuracy": Accuracy()})
trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: evaluator.run(valid))
trainer.run(train, max_epochs=3)
