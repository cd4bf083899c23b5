"""Hugging Face's Trainer on a small model of the script's own."""

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

torch.manual_seed(0)
rows, labels = torch.randn(800, 8), torch.randint(0, 3, (800,))


class Rows(Dataset):
    def __init__(self, first, last):
        self.first, self.last = first, last

    def __len__(self):
        return self.last - self.first

    def __getitem__(self, i):
        return {"x": rows[self.first + i], "labels": labels[self.first + i]}


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))

    def forward(self, x, labels=None):
        logits = self.model(x)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


trainer = Trainer(
    model=Classifier(),
    args=TrainingArguments(
        output_dir="out",
        num_train_epochs=2,
        per_device_train_batch_size=16,
        use_cpu=True,
        eval_strategy="epoch",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    ),
    train_dataset=Rows(0, 640),
    eval_dataset=Rows(640, 800),
    compute_metrics=lambda p: {
        "accuracy": float((np.argmax(p.predictions, axis=1) == p.label_ids).mean())
    },
)
trainer.train()
print("bf16", trainer.args.bf16)
