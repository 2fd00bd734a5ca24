"""Names in old newspapers: a tag for every word, from its spelling and from what is around it.

Two runs, of which each gives what the other does not. Over the letters of each different word: its
final `state` is how it is spelled, a vector for a word of any length. Over the words of a page: its
`outputs` are tagged, one by one. NNX layers, optax, orbax.

    python examples/newspapers.py            # trains on four pages of five, tests on the fifth
    python examples/newspapers.py --smoke    # a short run: does the loss fall?
"""

import collections
import tempfile
from pathlib import Path
from typing import NamedTuple

import harness
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import orbax.checkpoint as ocp
from data import newspapers
from flax import nnx
from tqdm import tqdm

import jax_dynrnn as rnn
from jax_dynrnn import nnx as rnnx

STEPS, BATCH, LETTERS, WORDS, EPOCHS, RATE = 128, 16, 16, 256, 24, 4e-3
TAGS = ["O", *(f"{place}-{kind}" for kind in ("LOC", "PER", "ORG") for place in "BI")]
LOOKUP = 0.397  # entity F1 of the tag that each word has most often
UNKNOWN, RARE = 0, 0.3  # the id of a word not seen, and how often a rare one is taken for that


class Batch(NamedTuple):
    words: np.ndarray  # [B, T] ids of the words in lower case
    places: np.ndarray  # [B, T] which of the different words each is
    spelled: np.ndarray  # [U, LETTERS] ids of the letters of the different words
    letters: np.ndarray  # [U] how many letters
    tags: np.ndarray  # [B, T]
    lengths: np.ndarray  # [B]


class Tagger(nnx.Module):
    def __init__(self, words, letters, rngs):
        self.words = nnx.Embed(words, 64, rngs=rngs)
        self.letters = nnx.Embed(letters, 32, rngs=rngs)
        self.spelling = rnnx.Bidirectional(rnn.GRUCell(48), in_features=32, rngs=rngs)
        cell = rnn.DropoutWrapper(rnn.LSTMCell(96), input_keep_prob=0.5, output_keep_prob=0.5)
        self.context = rnnx.Bidirectional(cell, in_features=64 + 96, rngs=rngs)
        self.dense = nnx.Linear(2 * 96, len(TAGS), rngs=rngs)

    def __call__(self, batch):
        _, states = self.spelling(self.letters(batch.spelled), batch.letters)
        spelled = jnp.concatenate(states, -1)[batch.places]
        seen = jnp.concatenate([self.words(batch.words), spelled], -1)
        outputs, _ = self.context(seen, batch.lengths)
        return self.dense(outputs)


class Reader:
    """Makes batches of pages, by the words of those to train on."""

    def __init__(self, pages):
        counts = collections.Counter(word.lower() for page in pages for word, _ in page)
        self.ids = {word: i + 1 for i, word in enumerate(w for w, n in counts.items() if n > 1)}
        self.rare = np.array([False, *(counts[word] < 4 for word in self.ids)])
        self.letters = {
            x: i + 1 for i, x in enumerate(sorted({x for w in counts for x in w + w.upper()}))
        }

    def batch(self, pages, length, random=None):
        """With `random`, for training: a rare word may pass for one that was never seen."""
        words = [
            np.array([self.ids.get(word.lower(), UNKNOWN) for word, _ in page]) for page in pages
        ]
        tags = [np.array([TAGS.index(tag) for _, tag in page]) for page in pages]
        (words, lengths), (tags, _) = (rnn.pad_sequences(x, length=length) for x in (words, tags))
        if random is not None:
            words = np.where(self.rare[words] & (random.random(words.shape) < RARE), UNKNOWN, words)
        different = {
            word: i for i, word in enumerate(sorted({w for page in pages for w, _ in page}))
        }
        places = [np.array([different[word] for word, _ in page]) for page in pages]
        spelled = [np.array([self.letters.get(x, 0) for x in word[:LETTERS]]) for word in different]
        spelled += [np.zeros(1, int)] * (-len(spelled) % WORDS)  # few sizes are compiled
        return Batch(
            words, rnn.pad_sequences(places, length=length)[0],
            *rnn.pad_sequences(spelled, length=LETTERS), tags, lengths,
        )  # fmt: skip


def loss(model, batch):
    losses = optax.softmax_cross_entropy_with_integer_labels(model(batch), batch.tags)
    return losses.mean(where=rnn.sequence_mask(batch.lengths, losses.shape[1]))


@nnx.jit
def update(model, optimizer, batch):
    value, gradients = nnx.value_and_grad(loss)(model, batch)
    optimizer.update(model, gradients)
    return value


def fit(model, reader, pages, epochs, seed=0):
    """The mean loss of each epoch; rows begin at another word of each page every time."""
    random, losses = np.random.default_rng(seed), []
    rows = sum(-(-len(page) // STEPS) + 1 for page in pages) // BATCH
    schedule = optax.cosine_onecycle_schedule(epochs * rows, RATE)
    chain = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))
    optimizer = nnx.Optimizer(model, chain, wrt=nnx.Param)
    for _ in tqdm(range(epochs), "training", unit="epoch"):
        cut = []
        for page in pages:
            ends = [0, *range(random.integers(1, STEPS), len(page), STEPS), len(page)]
            cut += [page[a:b] for a, b in zip(ends, ends[1:], strict=False)]
        values = []
        for chosen in harness.shuffled(len(cut), BATCH, random):
            batch = reader.batch([cut[i] for i in chosen], STEPS, random)
            values.append(update(model, optimizer, batch))
        losses.append(float(jnp.mean(jnp.array(values))))
    return losses


def entities(tags):
    """`{(first, last, kind)}` of a page."""
    found, first = set(), None
    for i, tag in enumerate([*tags, "O"]):
        if first is not None and tag != f"I-{tags[first][2:]}":
            found.add((first, i - 1, tags[first][2:]))
            first = None
        if first is None and tag != "O":
            first = i
    return found


def score(model, reader, pages):
    """Entities by kind, exact in extent and kind: how many are right, were said, and are there."""
    right, said, there = (collections.Counter() for _ in range(3))
    tagged = nnx.jit(lambda model, batch: model(batch).argmax(-1))
    for page in tqdm(pages, "testing", unit="page"):
        batch = reader.batch([page], length=-(-len(page) // 512) * 512)
        chosen = [TAGS[i] for i in np.asarray(tagged(model, batch))[0, : len(page)]]
        given, found = entities([tag for _, tag in page]), entities(chosen)
        for counts, some in (right, given & found), (said, found), (there, given):
            counts.update(kind for *_, kind in some)
    return right, said, there


def reloaded(model, make):
    """The model as a checkpoint keeps it: saved by orbax, and read into one made anew."""
    with tempfile.TemporaryDirectory() as folder, ocp.StandardCheckpointer() as saver:
        saver.save(Path(folder) / "tagger", nnx.state(model, nnx.Param))
        saver.wait_until_finished()
        other = make()
        nnx.update(other, saver.restore(Path(folder) / "tagger", nnx.state(other, nnx.Param)))
    other.eval()
    return other


def main(smoke):
    pages = newspapers()
    test, train = pages[::5], [p for i, p in enumerate(pages) if i % 5 and p]
    train = [page[: 4 * STEPS] for page in train] if smoke else train
    reader = Reader(train)
    make = lambda: Tagger(len(reader.ids) + 1, len(reader.letters) + 1, nnx.Rngs(0))  # noqa: E731
    model = make()
    losses = fit(model, reader, train, epochs=2 if smoke else EPOCHS)
    if smoke:
        return losses, {}
    right, said, there = counts = score(reloaded(model, make), reader, [p for p in test if p])
    draw(*counts)
    return losses, {
        "task": "names in newspapers: a tag for every word",
        "measure": "entity F1, every fifth page",
        "value": round(2 * right.total() / (said.total() + there.total()), 4),
        "precision": round(right.total() / max(said.total(), 1), 4),
        "recall": round(right.total() / there.total(), 4),
        "reference": f"{LOOKUP}, each word's most frequent tag",
    }


def draw(right, said, there):
    """Precision and recall of each kind."""
    figure, ax = plt.subplots(figsize=(5, 2.5))
    kinds = sorted(there)
    for name, of, shift in ("precision", said, -0.2), ("recall", there, 0.2):
        shares = [right[kind] / max(of[kind], 1) for kind in kinds]
        ax.bar(np.arange(len(kinds)) + shift, shares, 0.38, label=name)
    ax.set_xticks(range(len(kinds)), [f"{kind}, {there[kind]}" for kind in kinds])
    ax.set(ylim=(0, 1), ylabel="of the entities")
    ax.legend(frameon=False)
    harness.draw("newspapers", figure)


if __name__ == "__main__":
    harness.run("newspapers", __doc__, main)
