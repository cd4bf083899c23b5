"""A character-level GPT in Keras on tiny Shakespeare: pieces of one long text, AdamW."""

import argparse

import keras
import numpy as np
import tensorflow as tf
import writing
from keras import layers

SIZES = {
    "small": {"width": 64, "heads": 4, "layers": 3, "context": 64, "batch": 16, "steps": 600},
    "full": {"width": 384, "heads": 6, "layers": 6, "context": 256, "batch": 64, "steps": 5000},
}


def block(x, width, heads):
    y = layers.LayerNormalization()(x)
    y = layers.MultiHeadAttention(heads, width // heads)(y, y, use_causal_mask=True)
    x = layers.Add()([x, y])
    y = layers.LayerNormalization()(x)
    y = layers.Dense(width)(layers.Dense(4 * width, activation="gelu")(y))
    return layers.Add()([x, y])


def gpt(letters, width, heads, count, context):
    tokens = keras.Input((context,), dtype="int32")
    places = layers.Embedding(context, width)(keras.ops.arange(context))
    x = layers.Embedding(letters, width)(tokens) + places
    for _ in range(count):
        x = block(x, width, heads)
    x = layers.LayerNormalization()(x)
    return keras.Model(tokens, layers.Dense(letters, use_bias=False)(x))


def pieces(tokens, context):
    """Each piece of the text, and what follows each of its letters."""
    text = tf.data.Dataset.from_tensor_slices(tokens).batch(context + 1, drop_remainder=True)
    return text.map(lambda piece: (piece[:-1], piece[1:]))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--data-dir")
    args = parser.parse_args()
    size = SIZES[args.size]

    keras.utils.set_random_seed(0)
    text, source = writing.play(args.data_dir)
    print(f"data: {source}")
    letters = sorted(set(text))
    numbers = {letter: number for number, letter in enumerate(letters)}
    tokens = np.array([numbers[letter] for letter in text], dtype="int32")
    border, context, batch = len(tokens) * 9 // 10, size["context"], size["batch"]
    train = pieces(tokens[:border], context).shuffle(2000).repeat().batch(batch)
    held_out = pieces(tokens[border:], context).batch(batch).take(50)

    model = gpt(len(letters), size["width"], size["heads"], size["layers"], context)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.AdamW(1e-3), loss)
    steps = args.steps or size["steps"]
    epochs = max(steps // 200, 1)
    model.fit(train, steps_per_epoch=steps // epochs, epochs=epochs, validation_data=held_out,
              verbose=2)  # fmt: skip
    print(f"held-out loss {model.evaluate(held_out, verbose=0):.4f}")


if __name__ == "__main__":
    main()
