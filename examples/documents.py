"""Verse or prose: classifies speeches that are packed into long rows, with a reset before each.

Speeches are 12 to 578 words long. Padded to the longest, they would be mostly padding. Packed one
after the other, there is almost none. `segment_starts` marks where each speech begins: the state is
reset there, so no information crosses, in either direction. The outputs of each speech are pooled
and passed to a dense layer. The trained model is exported with `jax.export` and loaded again, as a
server would. Pure functions, optax.

    python examples/documents.py            # trains, and tests on speeches of held-out plays
    python examples/documents.py --smoke    # a short run: does the loss fall?
"""

import collections
import re
from typing import NamedTuple

import harness
import jax
import jax.export
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from data import speeches

import jax_dynrnn as rnn

FEATURES, UNITS, STEPS, BATCH, EPOCHS, RATE = 64, 64, 640, 4, 3, 2e-3
OFTEN = 10  # rarer words are represented by their last three letters
CELL = rnn.DropoutWrapper(rnn.GRUCell(UNITS), input_keep_prob=0.5, output_keep_prob=0.5)


class Rows(NamedTuple):
    """Speeches packed into rows."""

    words: np.ndarray  # [rows, STEPS], ids
    speech: np.ndarray  # [rows, STEPS], the index of the speech within its row
    lengths: np.ndarray  # [rows]
    verse: np.ndarray  # [rows, most], for each speech: 1 verse, 0 prose, -1 no speech


def packed(texts, verse, vocabulary):
    """Packs speeches into rows: each into the first row with enough room, the longest first."""
    rows, room = [], []
    for i in sorted(range(len(texts)), key=lambda i: -len(texts[i])):
        size = len(texts[i])
        row = next((k for k, left in enumerate(room) if left >= size), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(STEPS)
        rows[row].append(i)
        room[row] -= size
    words = [np.array([vocabulary[w] for i in row for w in texts[i]]) for row in rows]
    speech = [np.repeat(np.arange(len(row)), [len(texts[i]) for i in row]) for row in rows]
    words, lengths = rnn.pad_sequences(words, length=STEPS)
    speech, _ = rnn.pad_sequences(speech, length=STEPS)
    verse, _ = rnn.pad_sequences([np.array(verse, int)[row] for row in rows], value=-1)
    return Rows(words, speech, lengths, verse)


def init(key, size):
    keys = jax.random.split(key, 3)
    return {
        "embedding": jax.random.normal(keys[0], (size, FEATURES)) * FEATURES**-0.5,
        "rnn": rnn.init_bidirectional(keys[1], CELL, CELL, (1, 1, FEATURES)),
        "kernel": jax.random.normal(keys[2], (2 * UNITS,)) * (2 * UNITS) ** -0.5,
        "bias": jnp.zeros(()),
    }


def scores(params, words, speech, lengths, most, key=None):
    """Scores `[rows, most]`, one for each speech of each row; positive scores mean verse."""
    outputs, _ = rnn.bidirectional_dynamic_rnn(
        CELL, CELL, params["rnn"], params["embedding"][words], lengths,
        resets=rnn.segment_starts(speech), key=key,
    )  # fmt: skip
    # One-hot masks sum the outputs of each speech, since rows differ in how many they have.
    of_speech = speech[..., None] == jnp.arange(most)
    steps = of_speech & rnn.sequence_mask(lengths, words.shape[1])[..., None]
    total = jnp.einsum("btf,btk->bkf", rnn.concatenate(*outputs), steps.astype(jnp.float32))
    mean = total / jnp.maximum(steps.sum(1), 1)[..., None]
    return mean @ params["kernel"] + params["bias"]


def loss(params, rows, key):
    """The mean cross-entropy of the speeches."""
    found = scores(params, rows.words, rows.speech, rows.lengths, rows.verse.shape[1], key)
    losses = optax.sigmoid_binary_cross_entropy(found, rows.verse)
    return losses.mean(where=rows.verse >= 0)


def optimizer(updates):
    return optax.adamw(optax.cosine_decay_schedule(RATE, updates), weight_decay=1e-2)


def served(params, most):
    """The model for any number of rows of any length, exported and loaded again from its bytes."""
    rows, steps = jax.export.symbolic_shape("rows, steps")
    ids = jax.ShapeDtypeStruct((rows, steps), jnp.int32)
    program = jax.jit(lambda words, speech, lengths: scores(params, words, speech, lengths, most))
    exported = jax.export.export(program)(ids, ids, jax.ShapeDtypeStruct((rows,), jnp.int32))
    return jax.export.deserialize(exported.serialize()).call


def read():
    """`(play, words, is verse)` for the speeches of four lines and more.

    In verse each line begins with a capital, in prose it need not. Speeches for which this is not
    clear are left out. Only words are kept, because capitals and line breaks would give it away.
    """
    found = []
    for play, lines in speeches():
        starts = [re.sub(r"\W+", "", line)[:1].isupper() for line in lines[1:]]
        if len(lines) > 3 and not 0.5 <= np.mean(starts) <= 0.9:
            words = re.findall(r"[a-z']+", " ".join(lines).lower())
            found.append((play, words, bool(np.mean(starts) > 0.9)))
    return found


class Vocabulary(dict):
    """Ids of frequent words, of the frequent endings of other words, and 0 for the rest."""

    def __init__(self, texts):
        counts = collections.Counter(word for words in texts for word in words)
        endings = collections.Counter()
        for word, count in counts.items():
            if count < OFTEN:
                endings[f"-{word[-3:]}"] += count
        often = [each for each, count in (counts | endings).items() if count >= OFTEN]
        super().__init__({each: i for i, each in enumerate(often, 1)})

    def __missing__(self, word):
        return self.get(f"-{word[-3:]}", 0)


def naive_bayes(train, test):
    """The accuracy of naive Bayes, which uses the words without their order."""
    prose, verse = counts = [
        collections.Counter(word for _, words, kind in train if kind == k for word in words)
        for k in (False, True)
    ]
    share = np.mean([kind for *_, kind in train])
    all_prose, all_verse = (count.total() + len(prose | verse) for count in counts)

    def score(words):
        ratios = [(verse[w] + 1) / all_verse * all_prose / (prose[w] + 1) for w in words]
        return np.log(share / (1 - share)) + np.log(ratios).sum()

    return np.mean([(score(words) > 0) == kind for _, words, kind in test])


def main(smoke):
    found = read()
    held_out = set(sorted({play for play, *_ in found})[::5])
    train = [each for each in found if each[0] not in held_out]
    test = [each for each in found if each[0] in held_out]
    vocabulary = Vocabulary(words for _, words, _ in train)

    def pack(each):
        return packed([words for _, words, _ in each], [kind for *_, kind in each], vocabulary)

    params = init(jax.random.key(0), len(vocabulary) + 1)
    if smoke:
        _, losses = harness.fit(loss, optimizer, params, pack(train[::8]), BATCH, 1)
        return losses.ravel().tolist(), {}
    rows, judged = pack(train), pack(test)
    params, losses = harness.fit(loss, optimizer, params, rows, BATCH, EPOCHS)
    verse = served(params, judged.verse.shape[1])(judged.words, judged.speech, judged.lengths) > 0
    right = (verse == judged.verse)[judged.verse >= 0]
    lengths = np.array([len(words) for _, words, _ in train])
    steps = {
        "padded to the longest": len(lengths) * lengths.max(),
        "packed": rows.words.size,
        "words": lengths.sum(),
    }
    draw(steps)
    return losses.ravel().tolist(), {
        "task": "text classification (verse or prose): packed rows, pooled outputs",
        "measure": f"accuracy, {len(test)} speeches of {len(held_out)} plays not seen",
        "value": round(float(right.mean()), 4),
        "reference": f"{naive_bayes(train, test):.3f}, naive Bayes of the words",
        "steps": {name: int(each) for name, each in steps.items()},
    }


def draw(steps):
    figure, ax = plt.subplots(figsize=(6, 1.6))
    ax.barh(list(steps), [each / 1e6 for each in steps.values()], color=["C3", "C0", "0.6"])
    ax.invert_yaxis()
    ax.set(xlabel="steps to run for the speeches to train on, millions")
    harness.draw("documents", figure)


if __name__ == "__main__":
    harness.run("documents", __doc__, main)
