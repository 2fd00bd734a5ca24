"""Your own cell in a page: the sLSTM, which has exponential gates, on every engine.

A `MatmulCell` declares its one matmul and the arithmetic within each unit, `pointwise`. So every
engine can run it. Here it reads handwritten digits pixel by pixel. Linen layers, optax.

    python examples/own_cell.py            # trains, and compares with an LSTM of the same size
    python examples/own_cell.py --smoke    # a short run: does the loss fall?
"""

import dataclasses
from typing import Any, NamedTuple

import harness
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from data import digits
from flax import linen

import jax_dynrnn as rnn
from jax_dynrnn import linen as rnnl

UNITS, BATCH, EPOCHS, RATE = 64, 64, 60, 1e-2


class SLSTMState(NamedTuple):
    c: Any  # memory
    n: Any  # normaliser, by which c is divided
    m: Any  # logarithm of the scale of c and n, so that exponentials stay in range
    h: Any  # output


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class SLSTMCell(rnn.MatmulCell):
    """The scalar LSTM with exponential gating of Beck et al., xLSTM, arXiv:2405.04517, (8)-(17).

    z, i, f, o = split([x, h] W + b)
    m' = max(log sigmoid(f) + m, i)
    c' = exp(log sigmoid(f) + m - m') c + exp(i - m') tanh(z)
    n' = exp(log sigmoid(f) + m - m') n + exp(i - m')
    h' = sigmoid(o) c' / n'                               # also the output
    """

    num_units: int

    def init(self, key, input_shape, dtype=jnp.float32):
        shape = (input_shape[-1] + self.num_units, 4 * self.num_units)
        # A forget bias of 3: the memory persists at the start of training.
        z, i, f, o = (jnp.full(self.num_units, value, dtype) for value in (0, 0, 3, 0))
        return {
            "kernel": jax.nn.initializers.glorot_uniform()(key, shape, dtype),
            "bias": jnp.concatenate([z, i, f, o]),
        }

    def zero_state(self, batch_shape=(), dtype=jnp.float32):
        rows = (batch_shape,) if isinstance(batch_shape, int) else tuple(batch_shape)
        return SLSTMState(*(jnp.zeros((*rows, self.num_units), dtype) for _ in range(4)))

    def project(self, params, inputs):
        return inputs @ params["kernel"][: -self.num_units] + params["bias"]

    def hidden(self, state):
        return state.h

    def recurrent_kernel(self, params):
        return params["kernel"][-self.num_units :]

    def pointwise(self, params, projected, recurred, state):
        z, i, f, o = jnp.split(projected + recurred, 4, -1)
        log_forget = jax.nn.log_sigmoid(f) + state.m
        m = jnp.maximum(log_forget, i)  # so that neither exponential below exceeds 1
        old, new = jnp.exp(log_forget - m), jnp.exp(i - m)
        c, n = old * state.c + new * jnp.tanh(z), old * state.n + new
        h = jax.nn.sigmoid(o) * c / n
        return h, SLSTMState(c, n, m, h)


class Classifier(linen.Module):
    cell: Any

    @linen.compact
    def __call__(self, pixels):
        _, state = rnnl.RNN(self.cell)(pixels)
        return linen.Dense(10)(state.h)


def fit(cell, pixels, labels, epochs, seed=0):
    """Trains a classifier -> `(a function from pixels to logits, the mean loss of each epoch)`."""
    model = Classifier(cell)
    params = model.init(jax.random.key(seed), pixels[:1])

    def optimizer(updates):
        schedule = optax.cosine_onecycle_schedule(updates, RATE)
        return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule))

    def loss(params, rows, _):
        pixels, labels = rows
        scores = model.apply(params, pixels)
        return optax.softmax_cross_entropy_with_integer_labels(scores, labels).mean()

    rows = pixels, labels
    params, losses = harness.fit(loss, optimizer, params, rows, BATCH, epochs, seed)
    return jax.jit(lambda pixels: model.apply(params, pixels)), losses.mean(1).tolist()


def check_engines(cell, pixels):
    """Checks that all engines that can run the cell return the same results."""
    params = cell.init(jax.random.key(0), pixels.shape)
    reasons = rnn.explain(cell, params, pixels).reasons
    able = [name for name, reason in reasons.items() if reason is None]
    runs = [rnn.dynamic_rnn(cell, params, pixels, implementation=name) for name in able]

    def assert_close(a, b):
        np.testing.assert_allclose(a, b, 1e-4, 1e-5)

    for name, run in zip(able, runs, strict=True):
        jax.tree.map(assert_close, run, runs[0])
        print(f"{type(cell).__name__} runs on {name}")


def main(smoke):
    pixels, labels = digits()
    pixels = pixels.reshape(-1, 64, 1)
    check_engines(SLSTMCell(UNITS), pixels[:32])
    train, test = np.arange(len(labels)) % 5 != 0, np.arange(len(labels)) % 5 == 0
    accuracy, losses = {}, {}
    for cell in [SLSTMCell(UNITS)] if smoke else [SLSTMCell(UNITS), rnn.LSTMCell(UNITS)]:
        name = type(cell).__name__
        logits, losses[name] = fit(cell, pixels[train], labels[train], 2 if smoke else EPOCHS)
        accuracy[name] = round(float((logits(pixels[test]).argmax(-1) == labels[test]).mean()), 4)
        print(f"{name}: accuracy {accuracy[name]} on the rows held out")
    if not smoke:
        draw(losses, accuracy)
    return losses["SLSTMCell"], {
        "task": "your own cell, an sLSTM: digits, pixel by pixel",
        "measure": "accuracy, every fifth digit",
        "value": accuracy["SLSTMCell"],
        "LSTMCell": accuracy.get("LSTMCell"),
        "reference": "0.900, LSTM(64)",
    }


def draw(losses, accuracy):
    figure, ax = plt.subplots(figsize=(6, 3))
    for name, color in zip(losses, ("C3", "C0"), strict=True):
        ax.semilogy(losses[name], color=color, label=f"{name}, accuracy {accuracy[name]:.3f}")
    ax.set(xlabel="epoch", ylabel="training loss")
    ax.legend(frameon=False)
    harness.draw("own_cell", figure)


if __name__ == "__main__":
    harness.run("own_cell", __doc__, main)
