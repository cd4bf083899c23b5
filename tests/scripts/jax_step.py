"""A network of JAX's own functions, trained by a jitted step; batches are cut from arrays."""

import argparse
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--ragged", action="store_true", help="the last batch is smaller")
args = parser.parse_args()
random = np.random.default_rng(0)
rows = random.normal(size=(650 if args.ragged else 640, 8)).astype(np.float32)
labels = (rows.sum(axis=1) > 0).astype(np.int32)


def initial(key):
    one, two = jax.random.split(key)
    return {
        "hidden": jax.random.normal(one, (8, 16)) / 3,
        "out": jax.random.normal(two, (16, 2)) / 4,
    }


@jax.jit
def logits(parameters, x):
    return jax.nn.relu(x @ parameters["hidden"]) @ parameters["out"]


def loss_of(parameters, x, y):
    chances = jax.nn.log_softmax(logits(parameters, x))
    return -jnp.take_along_axis(chances, y[:, None], axis=1).mean()


@partial(jax.jit, static_argnames="rate")
def step(parameters, x, y, rate):
    loss, gradients = jax.value_and_grad(loss_of)(parameters, x, y)
    moved = jax.tree_util.tree_map(lambda p, g: p - rate * g, parameters, gradients)
    return moved, loss


parameters = initial(jax.random.key(0))
for epoch in range(args.epochs):
    order = random.permutation(len(rows))
    for start in range(0, len(rows), 16):
        chosen = order[start : start + 16]
        parameters, loss = step(parameters, rows[chosen], labels[chosen], rate=0.1)
    accuracy = (np.asarray(logits(parameters, rows)).argmax(axis=1) == labels).mean()
    print(f"epoch {epoch}: loss {float(loss):.6f}, test accuracy {accuracy:.4f}")
