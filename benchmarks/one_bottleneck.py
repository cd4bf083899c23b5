"""A Keras training with one bottleneck, which is known because it was put there.

decode    photographs are opened one by one, in every epoch anew, for a small model
map       a cheap function runs once for each small row, in every epoch anew
python    the model is tiny: what a step takes is Python and calls into the graph
optimizer the weights are many and the batch is small
model     wide layers, and rows that lie in memory
padding   rows of uneven length are padded to the longest of their batch
"""

import argparse

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from halftime.workloads import photographs

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("kind", choices=["decode", "map", "python", "optimizer", "model", "padding"])
args = parser.parse_args()
keras.utils.set_random_seed(0)
numbers = np.random.default_rng(0)


def rows(count, width, classes=2):
    """Rows of numbers whose class a linear layer can tell."""
    x = numbers.normal(size=(count, width)).astype("float32")
    return x, np.argmax(x @ numbers.normal(size=(width, classes)), axis=1)


def split(data, held_out=10_000):
    """Rows to train on, and as many to look at afterwards as show half a point of accuracy."""
    return [part[:-held_out] for part in data], [part[-held_out:] for part in data]


def mlp(width, *hidden, classes=2):
    dense = [layers.Dense(units, activation="relu") for units in hidden]
    return keras.Sequential([keras.Input((width,)), *dense, layers.Dense(classes)])


def photographs_of(folder):
    paths = sorted(folder.rglob("*.jpg"))
    classes = sorted({path.parent.name for path in paths})
    return [*map(str, paths)], [classes.index(path.parent.name) for path in paths], len(classes)


def opened(path, label):
    image = tf.io.decode_jpeg(tf.io.read_file(path), channels=3)
    return tf.image.resize(image, (32, 32)) / 255.0, label


def sentences(count):
    """Rows of 1 to 200 words; those of one class come from a later part of the vocabulary."""
    lengths = np.minimum(numbers.lognormal(3, 1, count).astype(int) + 1, 200)
    labels = numbers.integers(0, 2, count)
    words = numbers.integers(1, 100, lengths.sum()) + np.repeat(20 * labels, lengths)
    return tf.RaggedTensor.from_row_lengths(words, lengths), labels


def scaled(row, label):
    return (row - 0.1) / 1.1, label


if args.kind == "decode":
    paths, labels, classes = photographs_of(photographs.find(None).train)
    data = tf.data.Dataset.from_tensor_slices((paths, labels)).shuffle(len(paths))
    data, epochs = data.map(opened).batch(25), 12
    held_out = None
    flat = [keras.Input((32, 32, 3)), layers.Flatten(), layers.Dense(32), layers.Dense(classes)]
    model = keras.Sequential(flat)
elif args.kind == "map":
    (x, y), held_out = split(rows(50_000, 16))
    data, epochs = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(40_000), 12
    data, model = data.map(scaled).batch(200), mlp(16, 32)
    held_out = scaled(*held_out)
elif args.kind == "python":
    (data, held_out), epochs, model = split(rows(18_000, 8)), 16, mlp(8, 8)
elif args.kind == "padding":
    data, held_out = split(sentences(8000), 2000)
    data, epochs = tf.data.Dataset.from_tensor_slices(tuple(data)).map(lambda *row: row), 3
    data, held_out = data.shuffle(6000).padded_batch(32), (held_out[0].to_tensor(), held_out[1])
    wide = [layers.Conv1D(128, 5, padding="same", activation="relu") for _ in range(2)]
    pooled = [*wide, layers.GlobalMaxPooling1D(), layers.Dense(2)]
    model = keras.Sequential([keras.Input((None,)), layers.Embedding(120, 64), *pooled])
elif args.kind == "optimizer":
    (data, held_out), epochs, model = split(rows(11_600, 64)), 4, mlp(64, *[768] * 6)
else:
    (data, held_out), epochs, model = split(rows(18_192, 512)), 3, mlp(512, 2048, 2048, 2048)
batch = {"python": 16, "optimizer": 8, "model": 512}.get(args.kind)
feed = (data,) if batch is None else data
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile("adam", loss, metrics=["accuracy"])
model.fit(*feed, batch_size=batch, epochs=epochs, verbose=2)
if held_out is not None:  # of photographs there are too few
    _, accuracy = model.evaluate(*held_out, batch_size=1000, verbose=0)
    print(f"held-out accuracy {round(accuracy * len(held_out[1]))}/{len(held_out[1])}")
