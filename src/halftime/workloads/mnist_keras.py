"""A small convolutional network on MNIST in Keras: five epochs, batches of 64, Adam, float32."""

import argparse

import handwriting
import keras
import tensorflow as tf
from keras import layers


def normalised(image, label):
    """Decode one image at a time, as the article's pipeline does."""
    image = tf.cast(image, tf.float32)[..., tf.newaxis]
    return (image / 255.0 - 0.1307) / 0.3081, label


def build():
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--train", type=int, default=20_000)
    parser.add_argument("--test", type=int, default=5_000)
    parser.add_argument("--data-dir")
    args = parser.parse_args()

    keras.utils.set_random_seed(0)
    data = handwriting.load(args.data_dir, args.train, args.test)
    print(f"data: {data.source}")
    train = tf.data.Dataset.from_tensor_slices((data.train_images, data.train_labels))
    train = train.map(normalised).shuffle(args.train).batch(args.batch_size)
    test = tf.data.Dataset.from_tensor_slices((data.test_images, data.test_labels))
    test = test.map(normalised).batch(256)

    model = build()
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(train, epochs=args.epochs, verbose=2)
    _, accuracy = model.evaluate(test, verbose=0)
    print(f"test accuracy {round(accuracy * args.test)}/{args.test}")


if __name__ == "__main__":
    main()
