"""A LightningModule fitted by Lightning's Trainer, with validation after each epoch."""

import lightning.pytorch as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

pl.seed_everything(0)
rows, labels = torch.randn(800, 8), torch.randint(0, 3, (800,))


class Classifier(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))

    def training_step(self, batch, number):
        x, y = batch
        return nn.functional.cross_entropy(self.model(x), y)

    def validation_step(self, batch, number):
        x, y = batch
        out = self.model(x)
        self.log("val_loss", nn.functional.cross_entropy(out, y))
        self.log("val_acc", (out.argmax(1) == y).float().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


trainer = pl.Trainer(
    max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False,
    enable_progress_bar=False, enable_model_summary=False,
)  # fmt: skip
trainer.fit(
    Classifier(),
    DataLoader(TensorDataset(rows[:640], labels[:640]), batch_size=16, shuffle=True),
    DataLoader(TensorDataset(rows[640:], labels[640:]), batch_size=80),
)
print("precision", trainer.precision)
