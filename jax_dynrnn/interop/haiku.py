"""Converts weights of Haiku's `hk.LSTM`, `hk.GRU` and `hk.VanillaRNN`, alone or in an `hk.DeepRNN`.

They are Haiku's params: `{module: {name: array}}`. Haiku need not be installed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from .._cell import Params
from .._types import Cells
from ._layouts import convert as _convert
from ._layouts.blocks import Block, Blocks
from ._layouts.framework import Framework, family
from ._layouts.layers import flatten, layers_of

__all__ = ["export_params", "import_params"]

MODULE_NAMES = {"lstm": "lstm", "gru": "gru", "rnn": "vanilla_rnn"}
"""Haiku's default name of the module of each family of cells."""


def import_params(
    cells: Cells, weights: Mapping[str, Any], *, modules: Sequence[str] | None = None
) -> Params:
    """Converts the params of Haiku's cores to params for `cells`.

    `hk.LSTM` adds 1 to its forget gate at run time, as an `LSTMCell` does by default: the weights
    are equal, bit by bit. For another `forget_bias`, the difference is added to the bias.

    Args:
        cells: the cells to run: one cell (`MultiRNNCell` for `hk.DeepRNN`), a pair of cells or
            a pair of lists of cells. `LSTMCell`, `GRUCell`, or `BasicRNNCell` with
            `activation=jax.nn.relu`.
        weights: as `hk.transform(...).init` returns them: arrays by module and name.
        modules: the modules of the cells, in order from the inputs, forward before backward:
            `["net/lstm", "net/lstm_1"]`. Other modules are ignored. By default the names that
            Haiku gives to cores made in this order; then other modules are an error.

    Returns:
        Params for `dynamic_rnn`, `bidirectional_dynamic_rnn` or
        `stack_bidirectional_dynamic_rnn`; NumPy arrays, or JAX arrays where those were given.

    Raises:
        ValueError: Haiku has no such cell, or an array has another shape. KeyError: modules or
            names are missing or unexpected. TypeError: an array is not of floating dtype.

    Example:
        >>> import numpy as np, jax_dynrnn as rnn
        >>> from jax_dynrnn import interop
        >>> weights = {"net/lstm/linear": {"w": np.ones((7, 16)), "b": np.ones(16)}}
        >>> cell = rnn.LSTMCell(4)
        >>> params = interop.haiku.import_params(cell, weights, modules=["net/lstm"])
        >>> params["kernel"].shape
        (7, 16)
    """
    names = _module_by_path(cells, modules)
    arrays = flatten(weights)
    if modules is not None:
        arrays = {n: x for n, x in arrays.items() if n.startswith(tuple(f"{m}/" for m in modules))}
    return _convert.import_params(_framework(names), cells, arrays)


def export_params(
    cells: Cells, params: Params, *, modules: Sequence[str] | None = None
) -> dict[str, dict[str, Any]]:
    """Converts params of `cells` to the params of Haiku's cores.

    Args:
        cells, modules: as in `import_params`.
        params: the params of `cells`.

    Returns:
        NumPy arrays, or JAX arrays where the params are, by module and name. The second bias
        of a `VanillaRNN` is 0.

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
    names = _module_by_path(cells, modules)
    weights: dict[str, dict[str, Any]] = {}
    for name, array in _convert.export_params(_framework(names), cells, params).items():
        module, last = name.rsplit("/", 1)
        weights.setdefault(module, {})[last] = array
    return weights


def _module_by_path(cells: Cells, modules: Sequence[str] | None) -> dict[str, str]:
    """The Haiku module of each layer, by the path of the layer's params."""
    layers, counts = layers_of(cells), Counter()
    if modules is None:
        modules = []
        for layer in layers:
            # A cell that Haiku lacks gets an empty name here, and is refused by the conversion.
            name = MODULE_NAMES.get(family(layer.cell), "")
            modules.append(f"{name}_{counts[name]}" if counts[name] else name)
            counts[name] += 1
    if isinstance(modules, str) or len(modules) != len(layers):
        raise ValueError(
            f"modules: expected a list of {len(layers)} names, one for each layer of the cells, "
            f"got {modules!r}"
        )
    return {layer.path: name for layer, name in zip(layers, modules, strict=True)}


def _framework(modules: Mapping[str, str]) -> Framework:
    """What Haiku can hold; `modules` are the names of the modules, by path."""
    return Framework(
        name="Haiku",
        blocks=lambda layer: _blocks(family(layer.cell), modules[layer.path]),
        families=tuple(MODULE_NAMES),
        forget_bias=1.0,
        activations={"rnn": jax.nn.relu},
        activation_hint="give the cell activation=jax.nn.relu if it is a VanillaRNN's",
        names_hint="give the names of the cells' modules as modules=",
        separate_stacks=True,
    )


def _blocks(cell_family: str, module: str) -> Blocks:
    """The arrays of a module."""
    blocks = {
        "lstm": {
            "linear/w": Block("input hidden", "igfo"),
            "linear/b": Block("bias", "igfo"),
        },
        # Haiku's z weights the candidate, and ours the old state: 1 - sigmoid(x) = sigmoid(-x).
        "gru": {
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
    }[cell_family]
    return {f"{module}/{name}": block for name, block in blocks.items()}
