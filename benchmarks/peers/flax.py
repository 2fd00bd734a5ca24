"""Flax Linen's `nn.RNN` and `nn.Bidirectional`."""

from flax import linen

from jax_dynrnn import interop

from ..problems import cells_of

CELLS = {
    "lstm": {"flax: Optimized": linen.OptimizedLSTMCell, "flax: LSTMCell": linen.LSTMCell},
    "gru_after": {"flax": linen.GRUCell},
    "vanilla": {"flax": linen.SimpleCell},
}
CELLS["bidirectional"] = CELLS["lstm"]


def build(kind, size, params):
    if kind not in CELLS:
        return {}
    weights = {"params": interop.flax.export_params(cells_of(kind, size.units), params)}
    return {name: (_run(kind, cell, size), weights) for name, cell in CELLS[kind].items()}


def _run(kind, cell, size):
    def layer():
        return linen.RNN(cell(size.units), return_carry=True)

    module = layer()
    if kind == "bidirectional":
        module = linen.Bidirectional(layer(), layer(), return_carry=True)

    def run(weights, inputs, lengths):
        carry, outputs = module.apply(weights, inputs, seq_lengths=lengths)
        return outputs, states(carry)

    return run


def states(carry):
    """The carry of a cell, `(c, h)` for an LSTM, or of both directions, as a flat list."""
    if not isinstance(carry, tuple):
        return [carry]
    return [state for part in carry for state in states(part)]
