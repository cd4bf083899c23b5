"""Keras on a tf.data pipeline: a map for each sample, a shuffle, batches, in any order."""

import argparse

import keras
import numpy as np
import tensorflow as tf

parser = argparse.ArgumentParser()
parser.add_argument("--order", default="map-shuffle")
parser.add_argument("--feed", default="tf.data")
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--policy")
parser.add_argument("--optimizer", default="Adam()")
parser.add_argument("--peek", action="store_true", help="read another pipeline whole beforehand")
args = parser.parse_args()

keras.utils.set_random_seed(3)
if args.policy:
    keras.config.set_dtype_policy(args.policy)
numbers = np.random.default_rng(0)
x = numbers.integers(0, 255, (100, 6, 6, 1)).astype("uint8")
y = (x.reshape(100, -1).mean(1) > 127).astype("int64")


def scaled(image, label):
    return tf.cast(image, tf.float32) / 255.0, label


def noisy(image, label):
    return tf.cast(image, tf.float32) / 255.0 + tf.random.normal(tf.shape(image)), label


class Sequence(keras.utils.PyDataset):
    def __len__(self):
        return 7

    def __getitem__(self, index):
        rows = slice(index * 16, index * 16 + 16)
        return x[rows].astype("float32") / 255, y[rows]


def forever():
    while True:
        yield x[:16].astype("float32") / 255, y[:16]


tuned = tf.data.Options()
tuned.autotune.enabled = True
source = tf.data.Dataset.from_tensor_slices((x, y))
pipelines = {
    "map-shuffle": lambda: source.map(scaled).shuffle(100).batch(16),
    "shuffle-map": lambda: source.shuffle(100).map(scaled).batch(16),
    "random": lambda: source.map(noisy).shuffle(100).batch(16),
    "map-random": lambda: source.map(scaled).map(noisy).shuffle(100).batch(16),
    "tuned": lambda: source.map(scaled).shuffle(100).batch(16).with_options(tuned),
}
model = keras.Sequential(
    [
        keras.Input((6, 6, 1)),
        keras.layers.Conv2D(4, 3, activation="relu"),
        keras.layers.Flatten(),
        keras.layers.Dense(2, activation="softmax"),
    ]
)
optimizer = eval(f"keras.optimizers.{args.optimizer}")
model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
held_out = (x[:32].astype("float32") / 255, y[:32])
if args.peek:
    print("rows", sum(len(rows) for rows, _ in source.batch(10)))
if args.feed == "tf.data":
    model.fit(pipelines[args.order](), epochs=args.epochs, validation_data=held_out, verbose=0)
elif args.feed == "arrays":
    model.fit(x.astype("float32") / 255, y, batch_size=16, epochs=args.epochs, verbose=0)
elif args.feed == "PyDataset":
    model.fit(Sequence(), epochs=args.epochs, verbose=0)
else:
    model.fit(forever(), steps_per_epoch=7, epochs=args.epochs, verbose=0)
loss, accuracy = model.evaluate(*held_out, verbose=0)
print("last layer", model.layers[-1].compute_dtype, model(held_out[0][:1]).dtype)
