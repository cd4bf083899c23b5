"""A jitted step of JAX fed by a pipeline of tf.data, as arrays; a held-out one beside it."""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import tensorflow as tf

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=30)
parser.add_argument("--leaves-early", action="store_true", help="leave each epoch half way")
args = parser.parse_args()

tf.random.set_seed(0)
x = np.random.default_rng(0).normal(size=(128, 6)).astype("float32")
y = x.sum(axis=1)


def halved(row, label):
    return row / 2.0, label


train = tf.data.Dataset.from_tensor_slices((x, y)).map(halved).shuffle(128).batch(16)
held_out = tf.data.Dataset.from_tensor_slices((x[:32], y[:32])).map(halved).batch(16)


def loss_of(weights, rows, labels):
    return jnp.mean((rows @ weights - labels) ** 2)


@jax.jit
def step(weights, rows, labels):
    loss, gradient = jax.value_and_grad(loss_of)(weights, rows, labels)
    return weights - 0.1 * gradient, loss


weights = jnp.zeros(6)
for _ in range(args.epochs):
    for number, (rows, labels) in enumerate(train.as_numpy_iterator()):
        if args.leaves_early and number == 4:
            break
        weights, loss = step(weights, rows, labels)
    held = [loss_of(weights, rows, labels) for rows, labels in held_out.as_numpy_iterator()]
print(f"held-out loss {float(np.mean(held)):.6f}")
