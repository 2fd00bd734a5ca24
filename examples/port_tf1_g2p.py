"""A trained TensorFlow 1 model, here: ports g2p-en 1.0.1, which predicts English pronunciations.

Its checkpoint is read without TensorFlow. The model is built from parts of this library, and
variables become params by name. `python -m jax_dynrnn.interop` prints which cells they fit.

    python examples/port_tf1_g2p.py           # four words, then the errors on 2,000
    python examples/port_tf1_g2p.py --smoke   # on 100
"""

import functools

import harness
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from data import pronunciations
from packages import package_file
from tqdm import tqdm

import jax_dynrnn as rnn
from jax_dynrnn.interop import checkpoint, tf1

# As in g2p_en/train.py: ids are indices into these lists, and inputs are one-hot vectors.
LETTERS = ["(pad)", "(end)", "(unknown)", *"abcdefghijklmnopqrstuvwxyz"]
PHONES = """(pad) (end) AA0 AA1 AA2 AE0 AE1 AE2 AH0 AH1 AH2 AO0 AO1 AO2 AW0 AW1 AW2 AY0 AY1 AY2 B CH
    D DH EH0 EH1 EH2 ER0 ER1 ER2 EY0 EY1 EY2 F G HH IH0 IH1 IH2 IY0 IY1 IY2 JH K L M N NG OW0 OW1
    OW2 OY0 OY1 OY2 P R S SH T TH UH0 UH1 UH2 UW UW0 UW1 UW2 V W Y Z ZH""".split()
PAD, END, UNKNOWN = 0, 1, 2
MOST, BATCH = 20, 100

ENCODER = rnn.GRUCell(128), rnn.GRUCell(128)
ATTENTION = rnn.BahdanauAttention(128, memory_size=256)
DECODER = rnn.AttentionWrapper(rnn.GRUCell(128), ATTENTION, attention_layer_size=128)

EMBED = functools.partial(jax.nn.one_hot, num_classes=len(PHONES))


def load():
    """Loads the params of both runs, whose variables are found by name, and of the last layer."""
    for suffix in ("data-00000-of-00001", "index"):
        file = package_file("g2p-en==1.0.1", f"g2p_en/logdir/model_epoch_14_gs_27956.{suffix}")
    variables = checkpoint.read_checkpoint(file)
    return {
        "encoder": tf1.import_params(ENCODER, variables),
        "decoder": tf1.import_params(DECODER, variables),
        "dense": {name: jnp.asarray(variables[f"dense/{name}"]) for name in ("kernel", "bias")},
    }


def encoded(words):
    """Ids of the letters and the end symbol, `[words, 20]`, and their number in each word."""
    ids = [[LETTERS.index(x) if x in LETTERS else UNKNOWN for x in word] + [END] for word in words]
    return rnn.pad_sequences([np.array(row[:MOST]) for row in ids], length=MOST, value=PAD)


def memory(params, letters, lengths):
    """The memory of the attention: the outputs of both directions, concatenated."""
    inputs = jax.nn.one_hot(letters, len(LETTERS))
    outputs, _ = rnn.bidirectional_dynamic_rnn(*ENCODER, params["encoder"], inputs, lengths)
    return rnn.concatenate(*outputs)


def logits(params, outputs):
    return outputs @ params["dense"]["kernel"] + params["dense"]["bias"]


@jax.jit
def decoded(params, letters, lengths):
    """Ids and lengths of the decoded phones; the first step receives the id of padding."""
    attended = DECODER.attend(params["decoder"], memory(params, letters, lengths), lengths)
    start = DECODER.start(attended, letters.shape[0], jnp.float32)
    return rnn.greedy_decode(
        DECODER, attended, EMBED, lambda y: logits(params, y), PAD, END, start,
        maximum_iterations=MOST,
    )[:2]  # fmt: skip


def pronounced(params, words):
    rows = zip(*jax.device_get(decoded(params, *encoded(words))), strict=True)
    return [[PHONES[i] for i in ids[:length]] for ids, length in rows]


def without_stress(phones):
    return [phone.rstrip("012") for phone in phones]


def dictionary():
    """All pronunciations, without stress, of every word in the CMU dictionary."""
    return {
        word: [without_stress(phones) for phones in each] for word, each in pronunciations().items()
    }


def main(smoke):
    """Pronounces four words, then measures the error rate on random words of the dictionary.

    A word is wrong if its pronunciation is none of those in the dictionary.
    """
    params, right, wrong, number = load(), dictionary(), [], 100 if smoke else 2000
    words = ["activationist", "recurrent", "sequence", "tensorflow"]
    for word, phones in zip(words, pronounced(params, words), strict=True):
        print(f"{word} -> {' '.join(phones)}")
    words = np.random.default_rng(0).choice(sorted(right), number, replace=False).tolist()
    for i in tqdm(range(0, number, BATCH), "words", unit="batch"):
        batch = words[i : i + BATCH]
        for word, phones in zip(batch, pronounced(params, batch), strict=True):
            wrong.append(without_stress(phones) not in right[word])
    print(f"word error rate without stress, {number} words: {np.mean(wrong):.1%}")
    if not smoke:
        draw(np.array([len(word) for word in words]), np.array(wrong))
    return [], {
        "task": "a trained TF1 model, ported: pronunciations",
        "measure": f"word error rate without stress, {number:,} words",
        "value": round(float(np.mean(wrong)), 4),
        "reference": "0.407 within 0.03, TensorFlow's own run",
    }


def draw(lengths, wrong):
    """Draws the error rate by length: in a longer word, more phones can be wrong."""
    figure, ax = plt.subplots(figsize=(6, 2.5))
    shown = [n for n in np.unique(lengths) if (lengths == n).sum() >= 20]
    ax.bar(shown, [wrong[lengths == n].mean() for n in shown])
    ax.set(xlabel="letters of the word", ylabel="word error rate")
    harness.draw("port_tf1_g2p", figure)


if __name__ == "__main__":
    harness.run("port_tf1_g2p", __doc__, main)
