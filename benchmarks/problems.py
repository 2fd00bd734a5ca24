"""The cells and params of a problem, and the loss that is differentiated."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jax_dynrnn as rnn

from .grid import COPIES, MAPPED, Size

CELLS = dict.fromkeys(("lstm", *MAPPED), rnn.LSTMCell) | {
    "gru": rnn.GRUCell,
    "gru_after": rnn.CudnnCompatibleGRUCell,
    "vanilla": rnn.BasicRNNCell,
    "projection": lambda n: rnn.LSTMCell(n, use_peepholes=True, cell_clip=3.0, num_proj=n // 2),
    "layer_norm": functools.partial(rnn.LayerNormLSTMCell, layer_norm=True),
    "weight_norm": rnn.WeightNormLSTMCell,
    "coupled": rnn.CoupledInputForgetGateLSTMCell,
    "grouped": functools.partial(rnn.GLSTMCell, number_of_groups=2),
    "ugrnn": rnn.UGRNNCell,
    "nas": rnn.NASCell,
    "cfn": rnn.CFNCell,
    "minimal": rnn.MinimalRNNCell,
    "sru": rnn.SRUCell,
    "ind_rnn": rnn.IndRNNCell,
    "indy_gru": rnn.IndyGRUCell,
    "indy_lstm": rnn.IndyLSTMCell,
    "stack": lambda n: rnn.MultiRNNCell([rnn.LSTMCell(n)] * 2),
}


def cells_of(kind: str, units: int) -> Any:
    """The cells that the run takes: one cell, or a pair of cells."""
    if kind == "bidirectional":
        return (rnn.LSTMCell(units), rnn.LSTMCell(units))
    return CELLS[kind](units)


def params_of(kind: str, size: Size) -> Any:
    """Random params of the run, float32; with a first axis of `COPIES` if params are mapped.

    The second bias of a GRU's candidate is 0, because NNX's GRU does not have it.
    """
    random, bound = np.random.default_rng(0), size.units**-0.5
    copies = (COPIES,) if kind == "vmap_params" else ()

    def draw(path, x):
        if "hidden_projection" in str(path) and "bias" in str(path):
            return np.zeros(x.shape, np.float32)
        return random.uniform(-bound, bound, (*copies, *x.shape)).astype(np.float32)

    shapes = jax.eval_shape(functools.partial(_init, kind, size))
    return jax.tree_util.tree_map_with_path(draw, shapes)


def _init(kind: str, size: Size) -> Any:
    cells, key, shape = cells_of(kind, size.units), jax.random.key(0), (1, 1, size.inputs)
    if isinstance(cells, tuple):
        return rnn.init_bidirectional(key, *cells, shape)
    return cells.init(key, shape)


def loss(outputs: jax.Array, states: Any, lengths: jax.Array | None) -> jax.Array:
    """Half the sum of squares of all valid outputs `[..., T, H]` and of the final states.

    All implementations do this same work, although our outputs are 0 in the padding anyway.
    """
    if lengths is not None:
        valid = jnp.arange(outputs.shape[-2]) < lengths[..., None]
        outputs = jnp.where(valid[..., None], outputs, 0)
    return sum(jnp.sum(x**2) for x in (outputs, *states)) / 2
