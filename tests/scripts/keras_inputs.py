"""Keras fed with everything that tf.data can hold, one training after the other."""

import argparse

import keras
import numpy as np
import tensorflow as tf

parser = argparse.ArgumentParser()
parser.add_argument("--replicas", type=int, default=1)
parser.add_argument("--late-policy", action="store_true")
args = parser.parse_args()

keras.utils.set_random_seed(0)
x = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
y = (x.sum(1) > 0).astype("float32")
slices = tf.data.Dataset.from_tensor_slices


def model():
    made = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4), keras.layers.Dense(1)])
    if args.late_policy:
        keras.config.set_dtype_policy("mixed_bfloat16")
    made.compile("sgd", "mse")
    return made


def fit(dataset, **more):
    return dataset.shuffle(64, seed=1), {"epochs": 3, "verbose": 0, **more}


def tell(name, history):
    print(name, *[f"{loss:.9f}" for loss in history.history["loss"]])


if args.replicas > 1:
    cpu = tf.config.list_physical_devices("CPU")[0]
    one = tf.config.LogicalDeviceConfiguration()
    tf.config.set_logical_device_configuration(cpu, [one] * args.replicas)
    strategy = tf.distribute.MirroredStrategy([f"/cpu:{i}" for i in range(args.replicas)])
    with strategy.scope():
        several = model()
    tell("replicas", several.fit(slices((x, y)).batch(16), epochs=3, verbose=0))
    raise SystemExit
if args.late_policy:
    tell("late", model().fit(slices((x, y)).batch(16), epochs=3, verbose=0))
    raise SystemExit

ragged = tf.RaggedTensor.from_row_lengths(x.reshape(-1), np.full(64, 6))
ragged = slices((ragged, y)).map(lambda row, label: (tf.ensure_shape(row, [6]) * 2, label))
data, how = fit(ragged)
tell("ragged", model().fit(data.batch(16), **how))

sparse = slices((tf.sparse.from_dense(np.maximum(x, 0)), y))
data, how = fit(sparse.map(lambda row, label: (tf.sparse.to_dense(row), label)))
tell("sparse", model().fit(data.batch(16), **how))

first, second = keras.Input((3,), name="first"), keras.Input((3,), name="second")
named = keras.layers.Dense(1)(keras.layers.Concatenate()([first, second]))
named = keras.Model({"first": first, "second": second}, named)
named.compile("sgd", "mse")
data, how = fit(
    slices(({"first": x[:, :3], "second": x[:, 3:]}, y)).map(
        lambda row, label: ({name: value * 2 for name, value in row.items()}, label)
    )
)
tell("dictionary", named.fit(data.batch(16), **how))


def rows():
    yield from zip(x, y, strict=True)


kinds = (tf.TensorSpec((6,), tf.float32), tf.TensorSpec((), tf.float32))
data, how = fit(tf.data.Dataset.from_generator(rows, output_signature=kinds))
tell("generator", model().fit(data.batch(16), **how))

data, how = fit(slices((x, y)).map(lambda row, label: (row * 2, label)), steps_per_epoch=3)
tell("endless", model().fit(data.batch(16).repeat(), **how))

calls = tf.Variable(0.0)


def counted(row, label):
    return row + 0 * calls.assign_add(1.0), label


data, how = fit(slices((x, y)).map(counted))
tell("counted", model().fit(data.batch(16), **how))
print("calls", int(calls))

left = (batch for batch in slices((x, y)).batch(16))
tell("once", model().fit(left, epochs=1, steps_per_epoch=4, verbose=0))

tf.config.run_functions_eagerly(True)
data, how = fit(slices((x, y)).map(lambda row, label: (row * 2, label)))
tell("eager", model().fit(data.batch(16), **how))
