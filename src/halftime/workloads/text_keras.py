"""Sentences of uneven length in Keras, padded to the longest of a batch: which of two classes?"""

import argparse

import keras
import tensorflow as tf
import writing
from keras import layers

SIZES = {
    "small": {"width": 32, "sentences": 4000, "epochs": 4, "batch": 50},
    "full": {"width": 256, "sentences": 1_000_000, "epochs": 20, "batch": 128},
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--epochs", type=int)
    args = parser.parse_args()
    size = SIZES[args.size]

    keras.utils.set_random_seed(0)
    rows, source = writing.sentences()
    print(f"data: {source}")
    sentences, labels = (list(part) for part in zip(*rows[: size["sentences"]], strict=True))
    border = len(sentences) * 4 // 5
    split = layers.TextVectorization(20_000)
    split.adapt(sentences[:border])

    def in_words(text, label):
        return split(text), label

    train = tf.data.Dataset.from_tensor_slices((sentences[:border], labels[:border]))
    train = train.shuffle(border).batch(size["batch"]).map(in_words)
    test = tf.data.Dataset.from_tensor_slices((sentences[border:], labels[border:]))
    test = test.batch(200).map(in_words)

    width = size["width"]
    model = keras.Sequential(
        [
            keras.Input((None,), dtype="int64"),
            layers.Embedding(split.vocabulary_size(), width),
            layers.Conv1D(2 * width, 3, padding="same", activation="relu"),
            layers.GlobalMaxPooling1D(),
            layers.Dropout(0.3),
            layers.Dense(2, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(train, validation_data=test, epochs=args.epochs or size["epochs"], verbose=2)
    _, accuracy = model.evaluate(test, verbose=0)
    count = len(sentences) - border
    print(f"test accuracy {round(accuracy * count)}/{count}")


if __name__ == "__main__":
    main()
