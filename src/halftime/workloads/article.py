"""The article's own protocol: every arm once, one after the other, in one process."""

import argparse
import time

import handwriting
import keras
import mnist_keras
import tensorflow as tf


def train(data, args, cache=False, policy="float32", accumulate=None):
    keras.mixed_precision.set_global_policy(policy)
    pipeline = tf.data.Dataset.from_tensor_slices((data.train_images, data.train_labels))
    pipeline = pipeline.map(mnist_keras.normalised)
    if cache:
        pipeline = pipeline.cache()
    pipeline = pipeline.shuffle(args.train).batch(args.batch_size)
    if cache:
        pipeline = pipeline.prefetch(tf.data.AUTOTUNE)
    model = mnist_keras.build()
    optimizer = keras.optimizers.Adam(gradient_accumulation_steps=accumulate)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    start = time.time()
    model.fit(pipeline, epochs=args.epochs, verbose=0)
    return time.time() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--order", choices=("forward", "reverse"), default="forward")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--train", type=int, default=20_000)
    parser.add_argument("--test", type=int, default=5_000)
    parser.add_argument("--data-dir")
    args = parser.parse_args()

    keras.utils.set_random_seed(0)
    data = handwriting.load(args.data_dir, args.train, args.test)
    arms = [
        ("baseline", {}),
        ("store + prefetch", {"cache": True}),
        ("mixed_precision", {"policy": "mixed_bfloat16"}),
        ("gradient_accumulation(4)", {"accumulate": 4}),
        ("baseline again", {}),
    ]
    if args.order == "reverse":
        arms.reverse()
    for name, settings in arms:
        print(f"arm {name}: {train(data, args, **settings):.3f} s", flush=True)


if __name__ == "__main__":
    main()
