"""Shakespeare, letter by letter: a language model whose state is passed from chunk to chunk.

The text of 38 plays is cut into 64 streams. A chunk is 64 characters of each stream. The next chunk
starts from the final state of the last one, but gradients stop there (truncated back-propagation).
Text is generated one step of the cell at a time. Pure functions, optax.

    python examples/shakespeare.py            # trains, tests, and generates text
    python examples/shakespeare.py --smoke    # a short run: does the loss fall?
"""

import functools

import harness
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from data import plays
from tqdm import tqdm

import jax_dynrnn as rnn

UNITS, FEATURES, STREAMS, STEPS, EPOCHS, RATE = 256, 64, 64, 64, 2, 4e-3
CELL = rnn.LSTMCell(UNITS)
PREDICTED = "2.75 bits, Witten-Bell of order 5; bz2 has 2.43"


def init(key, characters):
    keys = jax.random.split(key, 3)
    return {
        "embedding": jax.random.normal(keys[0], (characters, FEATURES)) * FEATURES**-0.5,
        "rnn": CELL.init(keys[1], (1, 1, FEATURES)),
        "dense": {
            "kernel": jax.random.normal(keys[2], (UNITS, characters)) * UNITS**-0.5,
            "bias": jnp.zeros(characters),
        },
    }


def logits(params, outputs):
    return outputs @ params["dense"]["kernel"] + params["dense"]["bias"]


def bits(params, text, state):
    """Bits per character of `text [streams, steps + 1]` after the first, and the state after it."""
    inputs, targets = params["embedding"][text[:, :-1]], text[:, 1:]
    outputs, state = rnn.dynamic_rnn(CELL, params["rnn"], inputs, initial_state=state)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits(params, outputs), targets)
    return losses.mean() / jnp.log(2.0), state


def chunks(text):
    """`[chunks, STREAMS, STEPS + 1]`: the last character of a chunk is the first of the next."""
    length = (len(text) - 1) // STREAMS // STEPS * STEPS
    streams = np.stack([text[i * length : (i + 1) * length + 1] for i in range(STREAMS)])
    return np.stack([streams[:, i : i + STEPS + 1] for i in range(0, length, STEPS)])


def fit(train, characters, epochs):
    """The params, and the loss of every chunk."""
    params = init(jax.random.key(0), characters)
    schedule = optax.cosine_decay_schedule(RATE, epochs * len(train))
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def update(params, momenta, text, state):
        (loss, state), gradients = jax.value_and_grad(bits, has_aux=True)(params, text, state)
        steps, momenta = optimizer.update(gradients, momenta, params)
        return optax.apply_updates(params, steps), momenta, state, loss  # no gradient in `state`

    momenta, losses = optimizer.init(params), []
    with tqdm(total=epochs * len(train), desc="training", unit="chunk") as bar:
        for _ in range(epochs):
            state = CELL.zero_state(STREAMS, jnp.float32)
            for text in train:
                params, momenta, state, loss = update(params, momenta, text, state)
                losses.append(loss)
                bar.update()
    return params, [float(loss) for loss in losses]


def measured(params, test):
    """Bits per character over all chunks; the state is passed from each to the next."""
    step, state, found = jax.jit(bits), CELL.zero_state(STREAMS, jnp.float32), []
    for text in test:
        value, state = step(params, text, state)
        found.append(float(value))
    return np.mean(found)


@functools.partial(jax.jit, static_argnames="count")
def written(params, first, key, count, temperature=0.7):
    """Samples characters, one step of the cell at a time; each is the input of the next step."""

    def step(carry, key):
        character, state = carry
        output, state = CELL(params["rnn"], params["embedding"][character], state)
        character = jax.random.categorical(key, logits(params, output) / temperature)
        return (character, state), character

    start = jnp.array([first]), CELL.zero_state(1, jnp.float32)
    return jax.lax.scan(step, start, jax.random.split(key, count))[1][:, 0]


def main(smoke):
    alphabet, text = np.unique(list(plays()), return_inverse=True)
    text = text.astype(np.int32)
    cut = len(text) * 9 // 10
    train, test = chunks(text[: STREAMS * STEPS * 25] if smoke else text[:cut]), chunks(text[cut:])
    params, losses = fit(train, len(alphabet), 1 if smoke else EPOCHS)
    sample = written(params, int(np.flatnonzero(alphabet == "\n")[0]), jax.random.key(1), 400)
    print("".join(alphabet[np.asarray(sample)]))
    if smoke:
        return losses, {}
    value = measured(params, test)
    figure, ax = plt.subplots(figsize=(6, 3))
    smooth = np.convolve(losses, np.ones(20) / 20, "valid")
    ax.plot(smooth, lw=1, label="training, mean of 20 chunks")
    ax.axhline(value, color="C3", label="the last tenth of the text")
    ax.set(xlabel="chunk", ylabel="bits per character", ylim=(1.5, 4))
    ax.legend(frameon=False)
    harness.draw("shakespeare", figure)
    return losses, {
        "task": "Shakespeare's plays: the next character",
        "measure": "bits per character, the last tenth",
        "value": round(float(value), 4),
        "reference": PREDICTED,
    }


if __name__ == "__main__":
    harness.run("shakespeare", __doc__, main)
