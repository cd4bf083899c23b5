"""A Keras model trained by a loop of the script's own, in five ways."""

import argparse

import keras
import numpy as np
import tensorflow as tf

WAYS = ["function", "trace", "eager", "on_batch", "in_graph"]
parser = argparse.ArgumentParser()
parser.add_argument("--way", default="function", choices=WAYS)
parser.add_argument("--ragged", action="store_true", help="the length of a row changes")
parser.add_argument("--epochs", type=int, default=2)
parser.add_argument("--peek", action="store_true", help="look at the held-out rows beforehand")
args = parser.parse_args()

keras.utils.set_random_seed(3)
numbers = np.random.default_rng(0)
x = numbers.normal(size=(200, 8)).astype("float32")
y = (x.sum(axis=1) > 0).astype("int64")
train = tf.data.Dataset.from_tensor_slices((x[:160], y[:160]))
train = train.map(lambda row, label: (row / 2.0, label)).shuffle(160).batch(16)
held_out = tf.data.Dataset.from_tensor_slices((x[160:], y[160:])).batch(16)
model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)])
loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
optimizer = keras.optimizers.Adam(0.01)


def step(x, y):
    with tf.GradientTape() as tape:
        loss = loss_of(y, model(x, training=True))
    gradients = tape.gradient(loss, model.trainable_variables)
    optimizer.apply(gradients, model.trainable_variables)
    return loss


@tf.function
def predict(x):
    return model(x, training=False)


@tf.function
def in_graph(batches):
    loss = 0.0
    for x, y in batches:
        loss = step(x, y)
    return loss


if args.way == "function":
    step = tf.function(step)
if args.way == "trace":
    like = tf.TensorSpec((None, 8)), tf.TensorSpec((None,), tf.int64)
    step = tf.function(step).get_concrete_function(*like)
model.compile(optimizer, loss_of)
if args.peek:
    print("rows", sum(len(rows) for rows, _ in held_out))
for epoch in range(args.epochs):
    if args.way == "in_graph":
        loss = in_graph(train)
    for number, (rows, labels) in enumerate(() if args.way == "in_graph" else train):
        if args.ragged:
            rows, labels = rows[: 16 - number], labels[: 16 - number]
        one = model.train_on_batch if args.way == "on_batch" else step
        loss = one(rows, labels)
    guess = predict if args.way == "function" else model.predict_on_batch
    right = [np.argmax(guess(rows), axis=1) == labels.numpy() for rows, labels in held_out]
    print(f"epoch {epoch}: loss {float(loss):.6f}, accuracy {np.concatenate(right).mean():.4f}")
