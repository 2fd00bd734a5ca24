"""Equinox's cells in a `lax.scan`, `vmap`ped over rows, with a select for lengths.

Equinox has no loop over time; this is what its users write.
"""

import equinox
import jax
import jax.numpy as jnp

from jax_dynrnn import interop

from ..problems import cells_of

CELLS = {"lstm": equinox.nn.LSTMCell, "gru_after": equinox.nn.GRUCell}


def build(kind, size, params):
    if kind not in CELLS:
        return {}
    weights = interop.equinox.export_params(cells_of(kind, size.units), params)
    names, module = tuple(weights), CELLS[kind](size.inputs, size.units, key=jax.random.key(0))

    def run(weights, inputs, lengths):
        def arrays_of(module):
            return tuple(getattr(module, name) for name in names)

        arrays = tuple(weights[name] for name in names)
        cell = jax.vmap(equinox.tree_at(arrays_of, module, arrays))

        def step(state, x):
            x, valid = x
            new = cell(x, state)
            if valid is not None:  # an ended row keeps its state
                new = jax.tree.map(lambda n, s: jnp.where(valid[:, None], n, s), new, state)
            return new, new[0] if kind == "lstm" else new  # the state of an LSTM is (h, c)

        zero = jnp.zeros((size.batch, size.units))
        valid = None if lengths is None else (jnp.arange(size.time) < lengths[:, None]).T
        start = (zero, zero) if kind == "lstm" else zero
        state, outputs = jax.lax.scan(step, start, (jnp.moveaxis(inputs, 1, 0), valid))
        return jnp.moveaxis(outputs, 0, 1), list(state[::-1]) if kind == "lstm" else [state]

    return {"equinox": (run, weights)}
