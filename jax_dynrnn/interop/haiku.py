"""Weights of Haiku's `hk.LSTM`, `hk.GRU` and `hk.VanillaRNN`, alone or in an `hk.DeepRNN`.

They come and go as its params: `{module: {name: array}}`. No Haiku is needed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from .._cell import Params
from .._types import Cells
from ._layouts import convert as _convert
from ._layouts.blocks import Block, Table
from ._layouts.framework import KINDS, Framework, kind
from ._layouts.layers import flatten, walk

__all__ = ["export_params", "import_params"]

NAMES = {"lstm": "lstm", "gru": "gru", "rnn": "vanilla_rnn"}


def import_params(
    cells: Cells, weights: Mapping[str, Any], *, modules: Sequence[str] | None = None
) -> Params:
    """Params of the run of `cells`, of the params of Haiku's cores.

    `hk.LSTM` adds 1 to its forget gate at run time, as an `LSTMCell` does by default: its weights
    are the same, bit by bit. To another `forget_bias` the difference is added.

    Args:
        cells: what the run takes: a cell (`MultiRNNCell` for `hk.DeepRNN`), a pair of cells or
            a pair of lists of cells. `LSTMCell`, `GRUCell`, or `BasicRNNCell` with
            `activation=jax.nn.relu`.
        weights: what `hk.transform(...).init` made: arrays by module and name.
        modules: the modules of the cells, from the inputs on, forward before backward:
            `["net/lstm", "net/lstm_1"]`. Others are not looked at. By default those that Haiku
            gives to cores made in this order, and there may be no others.

    Returns:
        Params for `dynamic_rnn`, `bidirectional_dynamic_rnn` or
        `stack_bidirectional_dynamic_rnn`; NumPy's arrays, or JAX's where JAX's were given.

    Raises:
        ValueError: Haiku has no such cell, or an array has another shape. KeyError: modules or
            names are missing, or left over. TypeError: what is no floating array.

    Example:
        >>> import numpy as np, jax_dynrnn as rnn
        >>> from jax_dynrnn import interop
        >>> weights = {"net/lstm/linear": {"w": np.ones((7, 16)), "b": np.ones(16)}}
        >>> cell = rnn.LSTMCell(4)
        >>> params = interop.haiku.import_params(cell, weights, modules=["net/lstm"])
        >>> params["kernel"].shape
        (7, 16)
    """
    names = _modules(cells, modules)
    arrays = flatten(weights)
    if modules is not None:
        arrays = {n: x for n, x in arrays.items() if n.startswith(tuple(f"{m}/" for m in modules))}
    return _convert.import_params(_framework(names), cells, arrays)


def export_params(
    cells: Cells, params: Params, *, modules: Sequence[str] | None = None
) -> dict[str, dict[str, Any]]:
    """The params of Haiku's cores, of params of the run of `cells`.

    Args:
        cells, modules: as in `import_params`.
        params: those of the run.

    Returns:
        Arrays by module and name, NumPy's or, where the params are JAX's, JAX's. The second
        bias of a `VanillaRNN` is 0.

    Raises:
        ValueError, KeyError, TypeError: as in `import_params`.

    Example:
        >>> import jax, jax_dynrnn as rnn
        >>> from jax_dynrnn import interop
        >>> cell = rnn.MultiRNNCell([rnn.LSTMCell(4), rnn.GRUCell(4), rnn.LSTMCell(4)])
        >>> params = cell.init(jax.random.key(0), (2, 5, 3))
        >>> list(interop.haiku.export_params(cell, params))
        ['lstm/linear', 'gru', 'lstm_1/linear']
    """
    names = _modules(cells, modules)
    weights: dict[str, dict[str, Any]] = {}
    for name, array in _convert.export_params(_framework(names), cells, params).items():
        module, last = name.rsplit("/", 1)
        weights.setdefault(module, {})[last] = array
    return weights


def _modules(cells: Cells, modules: Sequence[str] | None) -> dict[str, str]:
    """The module of each layer, by the path of its params."""
    layers, counts = walk(cells), Counter()
    if modules is None:
        modules = []
        for layer in layers:
            name = NAMES.get(KINDS.get(type(layer.cell), ""), "")
            modules.append(f"{name}_{counts[name]}" if counts[name] else name)
            counts[name] += 1
    if isinstance(modules, str) or len(modules) != len(layers):
        raise ValueError(
            f"modules: expected a list of {len(layers)} names, one for each layer of the cells, "
            f"got {modules!r}"
        )
    return {layer.path: name for layer, name in zip(layers, modules, strict=True)}


def _framework(modules: Mapping[str, str]) -> Framework:
    return Framework(
        name="Haiku",
        table=lambda layer: _table(kind(layer.cell), modules[layer.path]),
        kinds=tuple(NAMES),
        forget_bias=1.0,
        activations={"rnn": jax.nn.relu},
        activation_hint="give the cell activation=jax.nn.relu if it is a VanillaRNN's",
        names_hint="give the names of the cells' modules as modules=",
        apart=True,
    )


def _table(kind: str, module: str) -> Table:
    blocks = {
        "lstm": {
            "linear/w": Block("input hidden", "igfo"),
            "linear/b": Block("bias", "igfo"),
        },
        "gru": {  # its z is how much of the candidate is taken: 1 - sigmoid(x) = sigmoid(-x)
            "w_i": Block("input", "zrn", negated="z"),
            "w_h": Block("hidden", "zrn", negated="z"),
            "b": Block("bias", "zrn", negated="z"),
        },
        "rnn": {
            "linear/w": Block("input", "h"),
            "linear/b": Block("bias", "h"),
            "linear_1/w": Block("hidden", "h"),
            "linear_1/b": Block("hidden_bias", "h", optional=True),
        },
    }[kind]
    return {f"{module}/{name}": block for name, block in blocks.items()}
