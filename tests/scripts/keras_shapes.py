"""Ways to write a Keras training: a train_step of one's own, class weights, callbacks, loaders."""

import argparse

import keras
import numpy as np

parser = argparse.ArgumentParser()
parser.add_argument("--way", default="own-step", choices=["own-step", "weights", "loader"])
args = parser.parse_args()
keras.utils.set_random_seed(0)
x = np.random.default_rng(0).normal(size=(160, 6)).astype("float32")
y = (x.sum(1) > 0).astype("float32")
mean = keras.metrics.Mean(name="loss")


class OwnStep(keras.Model):
    """Counts its loss by batches, as a guide to custom training shows it."""

    def train_step(self, data):
        import tensorflow as tf

        rows, labels = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(y=labels, y_pred=self(rows, training=True))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss)
        return {metric.name: metric.result() for metric in self.metrics}


class Watcher(keras.callbacks.Callback):
    seen = 0

    def on_train_batch_end(self, batch, logs=None):
        Watcher.seen += 1


inputs = keras.Input((6,))
outputs = keras.layers.Dense(1)(keras.layers.Dense(8, activation="relu")(inputs))
model = (OwnStep if args.way == "own-step" else keras.Model)(inputs, outputs)
model.compile("sgd", "mse")
how = {"epochs": 2, "verbose": 0, "callbacks": [Watcher()]}
if args.way == "loader":
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    rows = TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
    history = model.fit(DataLoader(rows, batch_size=16), **how)
else:
    weights = {"class_weight": {0: 1.0, 1: 2.0}} if args.way == "weights" else {}
    history = model.fit(x, y, batch_size=16, **weights, **how)
print("batches", Watcher.seen, "loss", *[f"{loss:.9f}" for loss in history.history["loss"]])
