"""Cells and calls that the kernels of every platform are tested with."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys
from laws import close, weighted_sum

import jax_dynrnn as rnn
from jax_dynrnn import _rnn, interop


def forget_traces(monkeypatch):
    """Gives eager and jitted runs a new cache: what a test replaces is no key of the old one."""

    def execute(*given):
        return _rnn._execute(*given)

    monkeypatch.setattr(_rnn, "_compiled", jax.jit(execute, static_argnums=(1, 2)))


B, T, D, H = 5, 6, 3, 64
RANDOM = np.random.default_rng(0)
LENGTHS = np.array([6, 3, 0, 1, 5], np.int32)
FLAGS = {"mask": RANDOM.random((B, T)) < 0.8, "resets": RANDOM.random((B, T)) < 0.3}


@toys.config
class Own(rnn.MatmulCell):
    """An unusual cell: two outputs, two state leaves, vector params, and slices of its product."""

    units: int = H

    def init(self, key, input_shape, dtype=jnp.float32):
        def normal(i, *shape):
            return jax.random.normal(jax.random.fold_in(key, i), shape, dtype)

        size, units = input_shape[-1], self.units
        return {
            "w": normal(0, size, 3 * units),
            "r": normal(1, units, 2 * units) / 8,
            "scale": normal(2, units),
            "shift": normal(3, 2 * units),
        }

    def zero_state(self, batch_shape=(), dtype=jnp.float32):
        shape = (*toys.batch_of(batch_shape), self.units)
        return {"a": jnp.zeros(shape, dtype), "b": jnp.ones(shape, dtype)}

    def project(self, params, inputs):
        return inputs @ params["w"]

    def hidden(self, state):
        return state["b"]

    def recurrent_kernel(self, params):
        return params["r"]

    def pointwise(self, params, projected, recurred, state):
        moved = recurred + params["shift"][None]
        x, y = moved[:, : self.units], moved[:, self.units :]
        u, v, w = jnp.split(projected, 3, -1)
        a = jnp.where(u > 0, jnp.sin(u + x), state["a"] / (2 + jnp.exp(y))) * params["scale"][None]
        b = jnp.tanh(v * a + y) - w**2 / 9
        return (jnp.concatenate([a, b], -1), -b), {"a": a, "b": b}


CELLS = {
    "lstm": rnn.LSTMCell(H),
    "peepholes": rnn.LSTMCell(H, use_peepholes=True, cell_clip=0.7, forget_bias=0.5),
    "gru reset after": rnn.CudnnCompatibleGRUCell(H),
    "hard gates": rnn.CudnnCompatibleGRUCell(H, recurrent_activation=interop.keras.hard_sigmoid),
    "vanilla": rnn.BasicRNNCell(H),
    "ugrnn": rnn.UGRNNCell(H),
    "own": Own(),
}


def arguments(cell, dtype, batch=B, rounded_to="bfloat16"):
    """Params, inputs and a state, rounded to one dtype and then cast to `dtype`."""
    random = np.random.default_rng(1)
    params = cell.init(jax.random.key(0), (batch, T, D), jnp.float64)
    inputs = jnp.asarray(random.normal(size=(batch, T, D)))
    state = jax.tree.map(
        lambda x: jnp.asarray(random.normal(size=x.shape)), cell.zero_state((batch,), jnp.float64)
    )
    return jax.tree.map(lambda x: x.astype(rounded_to).astype(dtype), (params, inputs, state))


def results(cell, engine, given, time_major=False, **options):
    """The gradients with respect to params, inputs and state, and the outputs and final state."""

    def run(params, inputs, state):
        found = rnn.dynamic_rnn(
            cell, params, inputs, initial_state=state, implementation=engine,
            time_major=time_major, **options,
        )  # fmt: skip
        return weighted_sum(found), found

    params, inputs, state = given
    inputs = inputs.swapaxes(0, 1) if time_major else inputs
    return jax.jit(jax.grad(run, (0, 1, 2), has_aux=True))(params, inputs, state)


@toys.config
class Divided(Own):
    """Divides by a param: padding that with zeros would make NaN."""

    def pointwise(self, params, projected, recurred, state):
        output, new = super().pointwise(params, projected, recurred, state)
        return output, new | {"a": new["a"] / params["scale"][None]}


EVERYTHING = rnn.BasicRNNCell(H, activation=toys.everything)


GOLDEN = ["lstm_peepholes", "cudnn_gru"]
"""What TensorFlow computed, in golden/; more of it runs with `--full`."""
MORE_GOLDEN = [
    *("basic_rnn", "basic_rnn_relu", "basic_lstm_options", "lstm_clip", "lstm_clip_0", "learned"),
]


def only_full(value):
    """A parameter that runs with `--full` only: the interpreted kernels are slow."""
    return pytest.param(value, marks=pytest.mark.full)


def assert_pallas_equals_scan(cell, dtype, batch, tolerance, **options):
    """Asserts that `pallas` agrees with `scan`, or is about as close to float64 as `scan` is."""
    rounded_to = "float32" if dtype == "float32" else "bfloat16"
    given, wide = (arguments(cell, d, batch, rounded_to) for d in (dtype, "float64"))

    def exact():
        return results(cell, "scan", wide, **options)

    found = results(cell, "pallas", given, **options)
    close(found, results(cell, "scan", given, **options), tolerance, exact)


def assert_padding_has_no_effect(cell, dtype):
    """Asserts that NaN in the padding changes no result and no gradient of `pallas`."""
    params, inputs, state = arguments(cell, dtype)
    padding = (np.arange(T) >= LENGTHS[:, None])[..., None]
    corrupted = jnp.where(padding, jnp.asarray(np.nan, dtype), inputs)
    options = {"sequence_length": LENGTHS}
    clean = results(cell, "pallas", (params, jnp.where(padding, 0, inputs), state), **options)
    close(results(cell, "pallas", (params, corrupted, state), **options), clean, 0)
