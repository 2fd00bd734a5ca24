"""Flax NNX's `nnx.RNN` and `nnx.Bidirectional`."""

import jax
from flax import nnx

from jax_dynrnn import interop

from ..problems import cells_of
from .flax import states

CELLS = {
    "lstm": {
        "nnx: Optimized": (nnx.OptimizedLSTMCell, "nnx_optimized"),
        "nnx: LSTMCell": (nnx.LSTMCell, "nnx"),
    },
    "gru_after": {"nnx": (nnx.GRUCell, "nnx")},
    "vanilla": {"nnx": (nnx.SimpleCell, "nnx")},
}
CELLS["bidirectional"] = CELLS["lstm"]


def build(kind, size, params):
    cells, built = cells_of(kind, size.units), {}
    for name, (cell, layout) in CELLS.get(kind, {}).items():
        weights = interop.flax.export_params(cells, params, layout=layout)
        built[name] = _run(kind, cell, size), weights
    return built


def _run(kind, cell, size):
    def layer():
        made = cell(size.inputs, size.units, rngs=nnx.Rngs(0))
        return nnx.RNN(made, return_carry=True, rngs=nnx.Rngs(0))

    module = layer()
    if kind == "bidirectional":
        module = nnx.Bidirectional(layer(), layer(), return_carry=True, rngs=nnx.Rngs(0))
    definition, params, rest = nnx.split(module, nnx.Param, ...)

    def run(weights, inputs, lengths):
        # A copy, because the next line assigns to it: tracers must not leak into `params`.
        given, others = jax.tree.map(lambda x: x, (params, rest))
        nnx.replace_by_pure_dict(given, weights)
        carry, outputs = nnx.merge(definition, given, others)(inputs, seq_lengths=lengths)
        return outputs, states(carry)

    return run
