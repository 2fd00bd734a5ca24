"""Names in old newspapers: tags every word, from its spelling and its context.

The model has two runs, one for each kind of result. The first runs over the letters of each
distinct word: its final `state` represents the spelling, as one vector for a word of any length.
The second runs over the words of a page: each of its `outputs` is classified as a tag. It is
trained twice, with a softmax over the tags of each word, and with a conditional random field over
the tags of a page. NNX layers, optax, orbax.

    python examples/newspapers.py            # trains on four pages of five, tests on the fifth
    python examples/newspapers.py --smoke    # a short run: does the loss fall?
"""

import collections
import functools
import tempfile
from pathlib import Path
from typing import NamedTuple

import crf
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
TAGS = ["O", *(f"{prefix}-{kind}" for kind in ("LOC", "PER", "ORG") for prefix in "BI")]
LOOKUP = 0.397  # entity F1 if each word gets its most frequent tag
UNKNOWN, RARE = 0, 0.3  # the id of an unseen word; how often a rare word is replaced by it


class Batch(NamedTuple):
    words: np.ndarray  # [B, T] ids of the words in lower case
    distinct: np.ndarray  # [B, T] indices of the words in `spelled`
    spelled: np.ndarray  # [U, LETTERS] ids of the letters of the distinct words
    letters: np.ndarray  # [U], how many letters each line has
    tags: np.ndarray  # [B, T]
    lengths: np.ndarray  # [B]


class Tagger(nnx.Module):
    def __init__(self, words, letters, rngs, has_crf):
        self.words = nnx.Embed(words, 64, rngs=rngs)
        self.letters = nnx.Embed(letters, 32, rngs=rngs)
        self.spelling = rnnx.Bidirectional(rnn.GRUCell(48), in_features=32, rngs=rngs)
        cell = rnn.DropoutWrapper(rnn.LSTMCell(96), input_keep_prob=0.5, output_keep_prob=0.5)
        self.context = rnnx.Bidirectional(cell, in_features=64 + 96, rngs=rngs)
        self.dense = nnx.Linear(2 * 96, len(TAGS), rngs=rngs)
        self.pairs = nnx.Param(jnp.zeros((len(TAGS), len(TAGS))))
        self.has_crf = has_crf

    def __call__(self, batch):
        _, states = self.spelling(self.letters(batch.spelled), batch.letters)
        spelled = jnp.concatenate(states, -1)[batch.distinct]
        features = jnp.concatenate([self.words(batch.words), spelled], -1)
        outputs, _ = self.context(features, batch.lengths)
        return self.dense(outputs)

    def tags(self, batch):
        """The best tag of every word."""
        scores = self(batch)
        if not self.has_crf:
            return scores.argmax(-1)
        return crf.viterbi(scores, self.pairs[...], batch.lengths)[0]


class Reader:
    """Converts pages to batches, with the vocabulary of the training pages."""

    def __init__(self, pages):
        counts = collections.Counter(word.lower() for page in pages for word, _ in page)
        self.ids = {word: i + 1 for i, word in enumerate(w for w, n in counts.items() if n > 1)}
        self.rare = np.array([False, *(counts[word] < 4 for word in self.ids)])
        self.letters = {
            x: i + 1 for i, x in enumerate(sorted({x for w in counts for x in w + w.upper()}))
        }

    def batch(self, pages, length, random=None):
        """A batch of pages, padded to `length`.

        With `random`, for training, rare words are replaced by `UNKNOWN` at random, so that the
        model learns to tag words that it has not seen.
        """
        words = [
            np.array([self.ids.get(word.lower(), UNKNOWN) for word, _ in page]) for page in pages
        ]
        tags = [np.array([TAGS.index(tag) for _, tag in page]) for page in pages]
        (words, lengths), (tags, _) = (rnn.pad_sequences(x, length=length) for x in (words, tags))
        if random is not None:
            words = np.where(self.rare[words] & (random.random(words.shape) < RARE), UNKNOWN, words)
        index_of = {
            word: i for i, word in enumerate(sorted({w for page in pages for w, _ in page}))
        }
        distinct = [np.array([index_of[word] for word, _ in page]) for page in pages]
        spelled = [np.array([self.letters.get(x, 0) for x in word[:LETTERS]]) for word in index_of]
        spelled += [np.zeros(1, int)] * (-len(spelled) % WORDS)  # fewer sizes to compile
        return Batch(
            words, rnn.pad_sequences(distinct, length=length)[0],
            *rnn.pad_sequences(spelled, length=LETTERS), tags, lengths,
        )  # fmt: skip


def loss(model, batch):
    """The mean negative log-likelihood of a word's tag."""
    if model.has_crf:
        given = model(batch), model.pairs[...], batch.tags, batch.lengths
        return -crf.log_likelihood(*given).sum() / batch.lengths.sum()
    losses = optax.softmax_cross_entropy_with_integer_labels(model(batch), batch.tags)
    return losses.mean(where=rnn.sequence_mask(batch.lengths, losses.shape[1]))


@nnx.jit
def update(model, optimizer, batch):
    value, gradients = nnx.value_and_grad(loss)(model, batch)
    optimizer.update(model, gradients)
    return value


def fit(model, reader, pages, epochs, seed=0):
    """Trains the model, and returns the mean loss of each epoch.

    Pages are cut into rows at random positions, which change in every epoch.
    """
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
    """The entities of a page, as a set of `(first, last, kind)`."""
    found, first = set(), None
    for i, tag in enumerate([*tags, "O"]):
        if first is not None and tag != f"I-{tags[first][2:]}":
            found.add((first, i - 1, tags[first][2:]))
            first = None
        if first is None and tag != "O":
            first = i
    return found


def score(model, reader, pages):
    """The numbers of correct, predicted and actual entities, by kind.

    A predicted entity is correct if its extent and its kind are.
    """
    correct, predicted, actual = (collections.Counter() for _ in range(3))
    tagged = nnx.jit(lambda model, batch: model.tags(batch))
    for page in tqdm(pages, "testing", unit="page"):
        batch = reader.batch([page], length=-(-len(page) // 512) * 512)
        chosen = [TAGS[i] for i in np.asarray(tagged(model, batch))[0, : len(page)]]
        given, found = entities([tag for _, tag in page]), entities(chosen)
        for counts, some in (correct, given & found), (predicted, found), (actual, given):
            counts.update(kind for *_, kind in some)
    return correct, predicted, actual


def reloaded(model, make):
    """The model after a round trip: saved by orbax, and restored into a new model."""
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

    def make(has_crf):
        return Tagger(len(reader.ids) + 1, len(reader.letters) + 1, nnx.Rngs(0), has_crf)

    all_losses, counts = [], {}
    for name, has_crf in (("softmax", False), ("CRF", True)):
        print(name)
        model, make_one = make(has_crf), functools.partial(make, has_crf)
        all_losses.append(fit(model, reader, train, epochs=2 if smoke else EPOCHS))
        if not smoke:
            counts[name] = score(reloaded(model, make_one), reader, [p for p in test if p])
    losses = [max(epoch) for epoch in zip(*all_losses, strict=True)]
    if smoke:
        return losses, {}
    draw(*counts["CRF"])
    rounded = {name: [round(x, 4) for x in measures(*c)] for name, c in counts.items()}
    value, precision, recall = rounded["CRF"]
    return losses, {
        "task": "named-entity recognition in newspapers: a tag for every word, with a CRF",
        "measure": "entity F1, every fifth page",
        "value": value,
        "precision": precision,
        "recall": recall,
        "softmax": rounded["softmax"][0],
        "reference": f"{rounded['softmax'][0]} with a softmax, {LOOKUP} with a table of words",
    }


def measures(correct, predicted, actual):
    """F1, precision and recall."""
    both = predicted.total() + actual.total()
    return (
        2 * correct.total() / both,
        correct.total() / max(predicted.total(), 1),
        correct.total() / actual.total(),
    )


def draw(correct, predicted, actual):
    """Draws precision and recall of each kind."""
    figure, ax = plt.subplots(figsize=(5, 2.5))
    kinds = sorted(actual)
    for name, of, shift in ("precision", predicted, -0.2), ("recall", actual, 0.2):
        shares = [correct[kind] / max(of[kind], 1) for kind in kinds]
        ax.bar(np.arange(len(kinds)) + shift, shares, 0.38, label=name)
    ax.set_xticks(range(len(kinds)), [f"{kind}, {actual[kind]}" for kind in kinds])
    ax.set(ylim=(0, 1), ylabel="of the entities")
    ax.legend(frameon=False)
    harness.draw("newspapers", figure)


if __name__ == "__main__":
    harness.run("newspapers", __doc__, main)
