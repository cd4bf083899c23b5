"""A network of JAX that a DataLoader of torch feeds with NumPy batches."""

import jax
import jax.numpy as jnp
import numpy as np
from torch.utils.data import DataLoader, Dataset


class Rows(Dataset):
    def __init__(self, count):
        self.rows = np.random.default_rng(0).normal(size=(count, 8)).astype(np.float32)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        row = self.rows[index]
        return (row - row.mean()) / row.std(), np.int32(row[0] > 0)


def stacked(samples):
    rows, labels = zip(*samples, strict=True)
    return np.stack(rows), np.asarray(labels)


@jax.jit
def step(weights, x, y):
    def loss_of(weights):
        logits = x @ weights
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], axis=1).mean()

    loss, slope = jax.value_and_grad(loss_of)(weights)
    return weights - 0.1 * slope, loss


weights = jnp.zeros((8, 2))
loader = DataLoader(Rows(640), batch_size=16, shuffle=True, collate_fn=stacked)
for epoch in range(3):
    for x, y in loader:
        weights, loss = step(weights, x, y)
    print(f"epoch {epoch}: loss {float(loss):.6f}")
