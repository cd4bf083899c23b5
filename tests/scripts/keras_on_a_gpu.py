"""A Keras model that needs no TensorFlow: on arrays, a PyDataset or a DataLoader of PyTorch."""

import argparse

import keras
import numpy as np

parser = argparse.ArgumentParser()
parser.add_argument("--feed", choices=["arrays", "py_dataset", "torch"], default="arrays")
parser.add_argument("--epochs", type=int, default=4)
parser.add_argument("--width", type=int, default=64)
parser.add_argument("--samples", type=int, default=512)
args = parser.parse_args()

keras.utils.set_random_seed(0)
numbers = np.random.default_rng(0)
x = numbers.normal(size=(args.samples + 64, 8, 8, 3)).astype("float32")
y = (x.mean(axis=(1, 2, 3)) > 0).astype("int32")


class Rows(keras.utils.PyDataset):
    def __init__(self, first, last):
        super().__init__()
        self.first, self.last = first, last

    def __len__(self):
        return (self.last - self.first) // 32

    def __getitem__(self, index):
        rows = slice(self.first + 32 * index, self.first + 32 * (index + 1))
        return x[rows], y[rows]


def feed(first, last):
    if args.feed == "py_dataset":
        return {"x": Rows(first, last)}
    if args.feed == "torch":
        from torch.utils.data import DataLoader

        pairs = list(zip(x[first:last], y[first:last], strict=True))
        return {"x": DataLoader(pairs, batch_size=32)}
    return {"x": x[first:last], "y": y[first:last], "batch_size": 32}


held_out = feed(args.samples, args.samples + 64)
model = keras.Sequential(
    [
        keras.Input((8, 8, 3)),
        keras.layers.Conv2D(args.width, 3, activation="relu"),
        keras.layers.Conv2D(args.width, 3, activation="relu"),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(args.width, activation="relu"),
        keras.layers.Dense(2),
    ]
)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
model.fit(**feed(0, args.samples), epochs=args.epochs, verbose=2)
scores = model.evaluate(**held_out, verbose=0)
print("test loss", scores[0], "accuracy", scores[1])
