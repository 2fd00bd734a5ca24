"""How words are pronounced: an encoder, a decoder with attention, and a beam search.

The decoder attends to the encoder's `outputs` and starts from its `state`, so both results of the
run are used. Words of the CMU dictionary, phones without stress. Pure functions, optax.

    python examples/pronounce.py            # trains, and tests on held-out words
    python examples/pronounce.py --smoke    # a short run: does the loss fall?
"""

from typing import NamedTuple

import harness
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from data import pronunciations
from tqdm import tqdm

import jax_dynrnn as rnn

FEATURES, UNITS, BATCH, EPOCHS, RATE, BEAM = 64, 128, 256, 8, 4e-3, 4
BUCKETS = (8, 12, 32)  # numbers of steps: batches of short words are not padded to long ones
BEFORE, END = 0, 1  # ids of the decoder's first input and last output

ENCODER = rnn.GRUCell(UNITS)
ATTENTION = rnn.BahdanauAttention(UNITS, memory_size=2 * UNITS)
DECODER = rnn.AttentionWrapper(
    rnn.GRUCell(2 * UNITS), ATTENTION, attention_layer_size=2 * UNITS, alignment_history=True
)


class Pairs(NamedTuple):
    """Words and pronunciations as ids, padded."""

    letters: np.ndarray  # [rows, S]
    letter_lengths: np.ndarray
    phones: np.ndarray  # [rows, T], END at the end
    phone_lengths: np.ndarray

    def batch(self, rows):
        longest = max(self.letter_lengths[rows].max(), self.phone_lengths[rows].max())
        size = next(bucket for bucket in BUCKETS if bucket >= longest)
        return jax.tree.map(lambda x: x[rows, :size] if x.ndim > 1 else x[rows], self)


def init(key, letters, phones):
    keys = jax.random.split(key, 5)

    def embedding(key, size):
        return jax.random.normal(key, (size, FEATURES)) * FEATURES**-0.5

    return {
        "letters": embedding(keys[0], letters),
        "phones": embedding(keys[1], phones),
        "encoder": rnn.init_bidirectional(keys[2], ENCODER, ENCODER, (1, 1, FEATURES)),
        "decoder": DECODER.init(keys[3], (1, 1, FEATURES)),
        "dense": jax.random.normal(keys[4], (2 * UNITS, phones)) * (2 * UNITS) ** -0.5,
    }


def encoded(params, letters, lengths):
    """The decoder's params, including the memory that it attends to, and its start state."""
    outputs, states = rnn.bidirectional_dynamic_rnn(
        ENCODER, ENCODER, params["encoder"], params["letters"][letters], lengths
    )
    attended = DECODER.attend(params["decoder"], rnn.concatenate(*outputs), lengths)
    start = DECODER.start(attended, (len(letters),), jnp.float32)
    return attended, start._replace(cell_state=jnp.concatenate(states, -1))


def loss(params, pairs):
    """The mean cross-entropy of each phone, given the previous ones."""
    attended, start = encoded(params, pairs.letters, pairs.letter_lengths)
    before = jnp.pad(pairs.phones[:, :-1], ((0, 0), (1, 0)), constant_values=BEFORE)
    (outputs, _), _ = rnn.dynamic_rnn(
        DECODER, attended, params["phones"][before], pairs.phone_lengths, start
    )
    losses = optax.softmax_cross_entropy_with_integer_labels(
        outputs @ params["dense"], pairs.phones
    )
    return losses.mean(where=rnn.sequence_mask(pairs.phone_lengths, losses.shape[1]))


@jax.jit
def pronounced(params, letters, lengths):
    """Ids and lengths of the greedy decoding, and of the best sequence of a beam search."""
    attended, start = encoded(params, letters, lengths)

    def embed(ids):
        return params["phones"][ids]

    def logits(output):
        return output[0] @ params["dense"]  # with `alignment_history`, output[1] are alignments

    given = DECODER, attended, embed, logits, BEFORE, END, start
    greedy, lengths_of_greedy, _ = rnn.greedy_decode(*given, maximum_iterations=BUCKETS[-1])
    ids, lengths, _ = rnn.beam_search(
        *given, beam_width=BEAM, length_penalty=0.6, maximum_iterations=BUCKETS[-1]
    )
    return (greedy, lengths_of_greedy), (ids[:, 0], lengths[:, 0])


def fit(pairs, rows, params, epochs, seed=0):
    """The params, and the losses. The words of a batch have similar lengths."""
    random = np.random.default_rng(seed)
    updates = epochs * (len(rows) // BATCH)
    schedule = optax.cosine_decay_schedule(RATE, updates)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))
    longest = np.maximum(pairs.letter_lengths, pairs.phone_lengths)
    bucket = np.digitize(longest, BUCKETS, right=True)
    update, state, values = harness.step(loss, optimizer), optimizer.init(params), []
    with tqdm(total=updates, desc="training", unit="update") as bar:
        for _ in range(epochs):
            order = rows[random.permutation(len(rows))]
            # A stable sort by bucket keeps the random order within each bucket.
            order = order[np.argsort(bucket[order], kind="stable")]
            batches = order[: len(order) // BATCH * BATCH].reshape(-1, BATCH)
            for chosen in random.permutation(batches):
                params, state, value = update(params, state, pairs.batch(chosen))
                values.append(value)
                bar.update()
    return params, [float(value) for value in values]


def read():
    """Reads the dictionary -> `(words, pairs, word_of, alphabet, phones)`.

    `words` maps words to pronunciations, `pairs` has a row for each pronunciation, and `word_of` is
    the index of the word of each row.
    """
    words = {
        word: sorted({tuple(phone.rstrip("012") for phone in phones) for phones in each})
        for word, each in pronunciations().items()
        if max(len(word), *map(len, each)) < BUCKETS[-1]
    }
    rows = [(i, word, phones) for i, (word, each) in enumerate(words.items()) for phones in each]
    alphabet = sorted(set("".join(words)))
    all_phones = ["(before)", "(end)", *sorted({p for *_, phones in rows for p in phones})]
    letter, phone = ({x: i for i, x in enumerate(xs)} for xs in (alphabet, all_phones))
    letters = [np.array([letter[x] for x in word]) for _, word, _ in rows]
    phones = [np.array([*(phone[p] for p in phones), END]) for *_, phones in rows]
    pairs = Pairs(
        *rnn.pad_sequences(letters, length=BUCKETS[-1]),
        *rnn.pad_sequences(phones, length=BUCKETS[-1], value=END),
    )
    return words, pairs, np.array([i for i, *_ in rows]), alphabet, all_phones


def main(smoke):
    words, pairs, word_of, alphabet, phones = read()
    held_out = np.random.default_rng(1).random(len(words)) < 0.1
    train, test = np.flatnonzero(~held_out[word_of]), np.flatnonzero(held_out[word_of])
    params = init(jax.random.key(0), len(alphabet), len(phones))
    if smoke:
        return fit(pairs, train[:: len(train) // (20 * BATCH)], params, epochs=1)[1], {}
    params, losses = fit(pairs, train, params, EPOCHS)
    _, first = np.unique(word_of[test], return_index=True)
    names, errors = list(words), np.zeros(2)
    for rows in tqdm(np.array_split(test[first], len(first) // 500), "held-out words"):
        chosen = pronounced(params, pairs.letters[rows], pairs.letter_lengths[rows])
        for i, (ids, lengths) in enumerate(jax.device_get(chosen)):
            for row, one, length in zip(rows, ids, lengths, strict=True):
                said = tuple(phones[j] for j in one[:length])
                errors[i] += said not in words[names[word_of[row]]]
    greedy, beam = (errors / len(first)).round(4).tolist()
    draw(params, pairs.batch(test[first][[5]]), names[word_of[test[first][5]]], phones)
    return losses, {
        "task": "pronunciations of words: an encoder and a decoder with attention",
        "measure": "word error rate without stress, held-out words, a beam of 4",
        "value": beam,
        "greedy": greedy,
        "words": len(first),
        "reference": "0.339, Phonetisaurus; 0.39, LSTM 2 x 64 of g2p-seq2seq",
    }


def draw(params, pair, word, phones):
    """Draws the attention weights of the decoder for each phone of a word."""
    attended, start = encoded(params, pair.letters, pair.letter_lengths)
    before = jnp.pad(pair.phones[:, :-1], ((0, 0), (1, 0)), constant_values=BEFORE)
    (_, alignments), _ = rnn.dynamic_rnn(
        DECODER, attended, params["phones"][before], pair.phone_lengths, start
    )
    said, letters = int(pair.phone_lengths[0]), int(pair.letter_lengths[0])
    figure, ax = plt.subplots(figsize=(5, 4))
    ax.imshow(alignments[0, :said, :letters], cmap="Greys", vmin=0, vmax=1)
    ax.set_xticks(range(letters), list(word))
    ax.set_yticks(range(said), [phones[i] for i in pair.phones[0, :said]])
    ax.set_title("where each phone looks")
    harness.draw("pronounce", figure)


if __name__ == "__main__":
    harness.run("pronounce", __doc__, main)
