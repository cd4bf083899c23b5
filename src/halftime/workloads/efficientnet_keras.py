"""A small EfficientNet in Keras on photographs: flips, turns, colours are layers of the model."""

import argparse
import math

import keras
import photographs
import tensorflow as tf
from keras import layers
from resnet_keras import image_folder, opened

SIZES = {
    "small": {"side": 64, "width": 0.25, "depth": 0.4, "epochs": 6, "batch": 25},
    "full": {"side": 224, "width": 1.0, "depth": 1.0, "epochs": 100, "batch": 64},
}
# Expansion, channels, layers, stride, kernel of each stage of EfficientNet-B0.
STAGES = ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3),
          (6, 112, 3, 1, 5), (6, 192, 4, 2, 5), (6, 320, 1, 1, 3))  # fmt: skip


def normalised(x, active=True):
    x = layers.BatchNormalization()(x)
    return layers.Activation("silu")(x) if active else x


def inverted(x, channels, expansion, kernel, stride):
    inputs = x.shape[-1]
    inner, squeezed = inputs * expansion, max(inputs // 4, 1)
    y = normalised(layers.Conv2D(inner, 1, use_bias=False)(x)) if expansion > 1 else x
    y = layers.DepthwiseConv2D(kernel, stride, padding="same", use_bias=False)(y)
    y = normalised(y)
    weights = layers.GlobalAveragePooling2D(keepdims=True)(y)
    weights = layers.Conv2D(squeezed, 1, activation="silu")(weights)
    y = layers.Multiply()([y, layers.Conv2D(inner, 1, activation="sigmoid")(weights)])
    y = normalised(layers.Conv2D(channels, 1, use_bias=False)(y), active=False)
    return layers.Add()([x, y]) if stride == 1 and inputs == channels else y


def efficientnet(side, width, depth, classes):
    def scaled(channels):
        return max(round(channels * width / 8) * 8, 8)

    pixels = keras.Input((side, side, 3))
    x = layers.RandomFlip("horizontal")(pixels)
    x = layers.RandomRotation(0.05)(x)
    x = layers.RandomContrast(0.2, value_range=(-2, 2))(x)
    x = normalised(layers.Conv2D(scaled(32), 3, 2, padding="same", use_bias=False)(x))
    for expansion, channels, count, stride, kernel in STAGES:
        for number in range(math.ceil(count * depth)):
            x = inverted(x, scaled(channels), expansion, kernel, stride if number == 0 else 1)
    x = normalised(layers.Conv2D(4 * x.shape[-1], 1, use_bias=False)(x))
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(pixels, layers.Dense(classes)(x))


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
    side = size["side"]
    paths, labels, classes = image_folder(data.train)
    train = tf.data.Dataset.from_tensor_slices((paths, labels))
    train = train.shuffle(len(paths)).map(opened(side)).batch(size["batch"])
    paths, labels, _ = image_folder(data.test)
    test = tf.data.Dataset.from_tensor_slices((paths, labels))
    test = test.map(opened(side)).batch(size["batch"])

    model = efficientnet(side, size["width"], size["depth"], len(classes))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.AdamW(2e-3, weight_decay=0.05), loss, metrics=["accuracy"])
    model.fit(train, validation_data=test, epochs=args.epochs or size["epochs"], verbose=2)
    _, accuracy = model.evaluate(test, verbose=0)
    print(f"test accuracy {round(accuracy * len(paths))}/{len(paths)}")


if __name__ == "__main__":
    main()
