"""A residual network in Keras on photographs from an image folder: tf.data, crops and flips."""

import argparse

import keras
import photographs
import tensorflow as tf
from keras import layers

SIZES = {
    "small": {"side": 64, "width": 16, "blocks": (1, 1, 1), "epochs": 8, "batch": 25},
    "full": {"side": 224, "width": 64, "blocks": (2, 2, 2, 2), "epochs": 60, "batch": 64},
}


def image_folder(folder):
    """The paths of all photographs, the number of the class of each, and the classes."""
    classes = sorted(path.name for path in folder.iterdir())
    rows = [
        (str(path), label)
        for label, name in enumerate(classes)
        for path in sorted((folder / name).glob("*.jpg"))
    ]
    paths, labels = zip(*rows, strict=True)
    return list(paths), list(labels), classes


def opened(side):
    """Read one file into a square of floats of `side` pixels."""

    def read(path, label):
        image = tf.io.decode_jpeg(tf.io.read_file(path), channels=3)
        return (tf.image.resize(image, (side, side)) / 255.0 - 0.45) / 0.25, label

    return read


def random_view(side):
    def view(image, label):
        image = tf.image.random_crop(image, (side, side, 3))
        return tf.image.random_flip_left_right(image), label

    return view


def block(x, channels, stride):
    shortcut = x
    if stride != 1 or x.shape[-1] != channels:
        shortcut = layers.Conv2D(channels, 1, stride, use_bias=False)(x)
        shortcut = layers.BatchNormalization()(shortcut)
    x = layers.Conv2D(channels, 3, stride, padding="same", use_bias=False)(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Conv2D(channels, 3, padding="same", use_bias=False)(x)
    return layers.ReLU()(layers.Add()([layers.BatchNormalization()(x), shortcut]))


def resnet(side, width, blocks, classes):
    pixels = keras.Input((side, side, 3))
    x = layers.Conv2D(width, 7, 2, padding="same", use_bias=False)(pixels)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.MaxPooling2D(3, 2, padding="same")(x)
    for stage, count in enumerate(blocks):
        for number in range(count):
            x = block(x, width * 2**stage, 2 if stage > 0 and number == 0 else 1)
    return keras.Model(pixels, layers.Dense(classes)(layers.GlobalAveragePooling2D()(x)))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--data-dir")
    args = parser.parse_args()
    size = SIZES[args.size]

    keras.utils.set_random_seed(0)
    data = photographs.find(args.data_dir)
    print(f"data: {data.source}")
    side, larger = size["side"], size["side"] * 9 // 8
    paths, labels, classes = image_folder(data.train)
    train = tf.data.Dataset.from_tensor_slices((paths, labels)).shuffle(len(paths))
    train = train.map(opened(larger)).map(random_view(side)).batch(size["batch"])
    paths, labels, _ = image_folder(data.test)
    test = tf.data.Dataset.from_tensor_slices((paths, labels))
    test = test.map(opened(side)).batch(size["batch"])

    model = resnet(side, size["width"], size["blocks"], len(classes))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), loss, metrics=["accuracy"])
    model.fit(train, validation_data=test, epochs=args.epochs or size["epochs"], verbose=2)
    _, accuracy = model.evaluate(test, verbose=0)
    print(f"test accuracy {round(accuracy * len(paths))}/{len(paths)}")


if __name__ == "__main__":
    main()
