"""Haiku's `dynamic_unroll`, with a core that takes a mask.

`dynamic_unroll` has no lengths; this is what its users write.
"""

import haiku
import jax
import jax.numpy as jnp

from jax_dynrnn import interop

from ..problems import cells_of

CORES = {"lstm": haiku.LSTM, "gru": haiku.GRU}  # its VanillaRNN uses relu, not tanh


class Masked(haiku.RNNCore):
    """A core with inputs `(x, valid)`; on invalid steps the state does not change."""

    def __init__(self, core):
        super().__init__()
        self.core = core

    def __call__(self, inputs, state):
        x, valid = inputs
        output, new = self.core(x, state)
        return output, jax.tree.map(lambda n, s: jnp.where(valid[:, None], n, s), new, state)

    def initial_state(self, batch_size):
        return self.core.initial_state(batch_size)


def build(kind, size, params):
    if kind not in CORES:
        return {}
    weights = interop.haiku.export_params(cells_of(kind, size.units), params)

    def unroll(inputs, lengths):
        core = CORES[kind](size.units)
        if lengths is not None:
            valid = jnp.arange(size.time) < lengths[:, None]
            core, inputs = Masked(core), (inputs, valid)
        start = core.initial_state(size.batch)
        outputs, state = haiku.dynamic_unroll(core, inputs, start, time_major=False)
        return outputs, [state.cell, state.hidden] if kind == "lstm" else [state]

    return {"haiku": (haiku.without_apply_rng(haiku.transform(unroll)).apply, weights)}
