"""Cells of Flax, Haiku and Equinox in `dynamic_rnn` agree with the loops of their frameworks.

The framework's loop runs over one row at a time, cut at its length and at every reset. After a
reset it starts from the framework's own initial state.
"""

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import perturbed
from flax import linen as nn
from flax import nnx
from laws import close, weighted_sum

import jax_dynrnn as rnn
from jax_dynrnn import linen as rnnl
from jax_dynrnn.interop import foreign

B, T, D, H = 3, 3, 3, 2
LENGTHS = np.array([3, 0, 1])
RESETS = np.zeros((B, T), bool)
RESETS[0, 1] = RESETS[1, 1] = RESETS[2, 2] = True


@dataclasses.dataclass
class Theirs:
    """An adapted foreign cell, and its framework's initial state and loop."""

    cell: Any
    start: Any
    """The framework's initial state of `B` rows."""
    run: Any
    """The framework's loop: `run(params, x [1, n, ...], state) -> (outputs, state)`."""
    features: tuple = (D,)

    def inputs(self):
        return jnp.asarray(np.random.default_rng(0).normal(size=(B, T, *self.features)))

    def params(self, seed=1):
        """Random params in float64, without zeros."""
        shape = (B, T, *self.features)
        return perturbed(self.cell.init(jax.random.key(0), shape, jnp.float64), seed)


def linen(module, features=(D,), **options):
    def run(params, x, state):
        layer = nn.RNN(module, return_carry=True)
        carry, y = layer.apply({"params": {"cell": params}}, x, initial_carry=state)
        return y, carry

    start = module.initialize_carry(jax.random.key(0), (B, *features))
    return Theirs(foreign.LinenCell(module, **options), start, run, features)


def of_nnx(module):
    graph, _, rest = nnx.split(module, nnx.Param, ...)

    def run(params, x, state):
        layer = nnx.RNN(nnx.merge(graph, params, rest), return_carry=True)
        carry, y = layer(x, initial_carry=state)
        return y, carry

    start = module.initialize_carry((B, D), nnx.Rngs(0))
    return Theirs(foreign.NNXCell(module), start, run)


def haiku(hk, make_core, features=(D,), **options):
    def run(params, x, state):
        def unroll(x, state):
            return hk.dynamic_unroll(make_core(), x, state, time_major=False)

        return hk.transform(unroll).apply(params, None, x, state)

    start = hk.transform(lambda: make_core().initial_state(B)).apply({}, None)
    return Theirs(foreign.HaikuCell(make_core, **options), start, run, features)


def equinox(module, start):
    def run(params, x, state):
        def step(state, x):
            new = params(x, state)
            return new, new[0] if isinstance(new, tuple) else new

        state, y = jax.lax.scan(step, jax.tree.map(lambda s: s[0], state), x[0])
        return y[None], jax.tree.map(lambda s: s[None], state)

    return Theirs(foreign.EquinoxCell(module), start, run)


def of_haiku(make):
    return lambda load: make(load("haiku"))


def of_equinox(kind, start):
    def make(load):
        return equinox(getattr(load("equinox").nn, kind)(D, H, key=jax.random.key(0)), start)

    return make


ZEROS = np.zeros((B, H))
MAKE = {
    "linen LSTM": lambda load: linen(nn.LSTMCell(H, carry_init=nn.initializers.constant(0.3))),
    "linen conv": lambda load: linen(nn.ConvLSTMCell(H, (2,)), (3, 1), input_shape=[3, 1]),
    "nnx LSTM": lambda load: of_nnx(nnx.OptimizedLSTMCell(D, H, rngs=nnx.Rngs(0))),
    "haiku LSTM": of_haiku(lambda hk: haiku(hk, lambda: hk.LSTM(H))),
    "haiku conv": of_haiku(
        lambda hk: haiku(hk, lambda: hk.Conv1DLSTM((3,), H, 2), (3, 1), feature_ndim=2)
    ),
    "equinox LSTM": of_equinox("LSTMCell", (ZEROS, ZEROS)),
    "equinox GRU": of_equinox("GRUCell", ZEROS),
}


def run_reference_loop(their, params, inputs, initial):
    """Padded outputs `[B, T, ...]` and final states, by the framework's loop over row segments."""
    outputs, states = [], []
    for b, length in enumerate(LENGTHS):

        def row(tree, b=b):
            return jax.tree.map(lambda s: jnp.asarray(s[b : b + 1], float), tree)

        state, segments = row(initial), []
        cuts = [0, *(t for t in range(1, length) if RESETS[b, t]), length]
        for begin, end in itertools.pairwise(cuts if length else []):
            state = row(their.start) if begin else state
            y, state = their.run(params, inputs[b : b + 1, begin:end], state)
            segments.append(y[0])
        y = jnp.concatenate(segments) if segments else jnp.zeros((0, *outputs[0].shape[1:]))
        outputs.append(jnp.pad(y, [(0, T - length), *[(0, 0)] * (y.ndim - 1)]))
        states.append(state)
    return jnp.stack(outputs), jax.tree.map(lambda *s: jnp.concatenate(s), *states)


@pytest.mark.parametrize("name", MAKE)
def test_a_padded_run_equals_the_loop_of_the_framework(name, load_oracle):
    """Outputs, state and gradients agree, with NaN as padding, lengths and resets.

    Two sets of params are tested under `vmap`, with one compilation.
    """
    theirs = MAKE[name](load_oracle)
    inputs = theirs.inputs()
    padding = np.reshape(np.arange(T) >= LENGTHS[:, None], (B, T, *[1] * len(theirs.features)))
    corrupted = jnp.where(padding, jnp.nan, inputs)
    initial = perturbed(theirs.cell.zero_state(B, jnp.float64), 3)
    both = [theirs.params(seed) for seed in (1, 2)]

    def gradients(run, inputs):
        def loss(params, inputs, initial):
            results = run(params, inputs, initial)
            return weighted_sum(results), results

        gradient = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)
        return jax.jit(jax.vmap(gradient, (0, None, None)))(
            jax.tree.map(lambda *x: jnp.stack(x), *both), inputs, initial
        )

    def ours(params, inputs, initial):
        return rnn.dynamic_rnn(theirs.cell, params, inputs, LENGTHS, initial, resets=RESETS)

    actual = gradients(ours, corrupted)
    expected = gradients(lambda *a: run_reference_loop(theirs, *a), inputs)
    close(actual, expected, 1e-12)
    close(theirs.cell.zero_state(B, jnp.float64), theirs.start, 0)


@pytest.mark.parametrize("name", ["linen LSTM", "nnx LSTM", "haiku LSTM", "equinox LSTM"])
def test_in_a_stack_in_a_layer(name, load_oracle):
    """Foreign cells work inside of wrappers, stacks and Flax layers, and in a direct call."""
    theirs = MAKE[name](load_oracle)
    cell = rnn.MultiRNNCell([rnn.DropoutWrapper(theirs.cell), rnn.GRUCell(4)])
    x = np.asarray(theirs.inputs(), np.float32)
    layer = rnnl.RNN(cell)
    variables = layer.init(jax.random.key(0), x)
    lower = variables["params"]["cell"]["cell_0"]
    assert {leaf.dtype for leaf in jax.tree.leaves(lower)} == {np.dtype(np.float32)}
    outputs, state = layer.apply(variables, x, LENGTHS)
    given = rnn.dynamic_rnn(theirs.cell, lower, x, LENGTHS)
    close(state[0], given[1], 1e-6)
    row, _ = theirs.cell(lower, x[2, 0], theirs.cell.zero_state())
    close(row, given[0][2, 0], 1e-6)
