"""Converts weights of Equinox's `eqx.nn.LSTMCell` and `eqx.nn.GRUCell`.

They are imported from the cells themselves or from `{name: array}`, and exported as the latter.
Equinox need not be installed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .._cell import Params
from .._types import Cells, Weights
from ._layouts import convert as _convert
from ._layouts.blocks import Block, Blocks
from ._layouts.framework import Framework, check_supported, family
from ._layouts.layers import RunLayer, layers_of

__all__ = ["export_params", "import_params"]

ATTRIBUTES = ("weight_ih", "weight_hh", "bias", "bias_n")
"""Of the cells of Equinox: their arrays."""


def import_params(cells: Cells, weights: Weights) -> Params:
    """Converts cells of Equinox to params for `cells`.

    `forget_bias` of a cell is subtracted from the forget gate's bias: exact with `forget_bias=0.0`,
    else rounded once.

    Args:
        cells: the cells to run: one cell (`MultiRNNCell` for a stack), a pair of cells or a
            pair of lists of cells. `LSTMCell` or `CudnnCompatibleGRUCell`.
        weights: cells of Equinox, or `{name: array}` of each, in the structure of `cells`: one, a
            list for a `MultiRNNCell`, a pair, or a pair of lists. Where they have no biases
            (`use_bias=False`), the params have zeros.

    Returns:
        Params for `dynamic_rnn`, `bidirectional_dynamic_rnn` or
        `stack_bidirectional_dynamic_rnn`; NumPy arrays, or JAX arrays where those were given.

    Raises:
        ValueError: Equinox has no such cell, or an array has another shape. KeyError: names
            are missing or unexpected. TypeError: an array is not of floating dtype, or `weights`
            does not have the structure of `cells`.

    Example:
        >>> import numpy as np, jax_dynrnn as rnn
        >>> from jax_dynrnn import interop
        >>> weights = {
        ...     "weight_ih": np.ones((12, 3)), "weight_hh": np.ones((12, 4)),
        ...     "bias": np.ones(12), "bias_n": np.ones(4),
        ... }
        >>> cell = rnn.CudnnCompatibleGRUCell(4)
        >>> params = interop.equinox.import_params(cell, weights)
        >>> params["candidate"]["hidden_projection"]["bias"].tolist()
        [1.0, 1.0, 1.0, 1.0]
    """
    layers = check_supported(EQUINOX, layers_of(cells))
    depth = 1 + max(layer.depth or 0 for layer in layers)
    arrays: dict[str, Any] = {}
    for layer in layers:
        arrays |= layer.with_path(_arrays_of(_weights_of_layer(weights, layer, depth)))
    return _convert.import_params(EQUINOX, cells, arrays)


def export_params(cells: Cells, params: Params, *, use_bias: bool = True) -> Any:
    """Converts params of `cells` to the arrays of cells of Equinox.

    Args:
        cells: as in `import_params`.
        params: the params of `cells`.
        use_bias: `False` for cells without biases; the biases among the params must be 0.

    Returns:
        `{name: array}` for one cell; a list of them for a `MultiRNNCell`, a pair, or a pair of
        lists. `equinox.tree_at` puts them into a cell. They are NumPy arrays, or JAX arrays where
        the params are.

    Raises:
        ValueError, KeyError, TypeError: as in `import_params`.

    Example:
        >>> import jax, jax_dynrnn as rnn
        >>> from jax_dynrnn import interop
        >>> cell = rnn.LSTMCell(4)
        >>> params = cell.init(jax.random.key(0), (2, 5, 3))
        >>> {n: x.shape for n, x in interop.equinox.export_params(cell, params).items()}
        {'weight_ih': (16, 3), 'weight_hh': (16, 4), 'bias': (16,)}
    """
    # One dict of all layers comes back, with paths; it is split into one dict for each layer.
    arrays = _convert.export_params(EQUINOX, cells, params, biases=use_bias)
    layers = layers_of(cells)
    each = [
        {n.rsplit("/", 1)[-1]: arrays[n] for n in _blocks(layer) if n in arrays} for layer in layers
    ]

    def of_direction(direction):
        own = [x for x, layer in zip(each, layers, strict=True) if layer.direction == direction]
        return own if layers[0].depth is not None else own[0]

    return of_direction(None) if layers[0].direction is None else (of_direction(0), of_direction(1))


def _blocks(layer: RunLayer) -> Blocks:
    """The arrays of the Equinox cell that corresponds to a layer."""
    gates = {"lstm": "ifgo", "cudnn_gru": "rzn"}[family(layer.cell)]
    blocks = {
        "weight_ih": Block("input", gates, transposed=True),
        "weight_hh": Block("hidden", gates, transposed=True),
        "bias": Block("bias", gates, optional=True),
    }
    if family(layer.cell) == "cudnn_gru":
        # Only the candidate has a second bias: the reset gate multiplies the product that it is in.
        blocks["bias_n"] = Block("hidden_bias", "n", optional=True)
    return layer.with_path(blocks)


EQUINOX = Framework("Equinox", _blocks, families=("lstm", "cudnn_gru"), separate_stacks=True)


def _weights_of_layer(weights: Weights, layer: RunLayer, depth: int) -> Any:
    """The part of `weights` for a layer; `depth` is the number of layers of the stack."""
    for index, count in ((layer.direction, 2), (layer.depth, depth)):
        if index is None:
            continue
        if not isinstance(weights, tuple | list) or len(weights) != count:
            got = f" of {len(weights)}" if isinstance(weights, tuple | list) else ""
            raise TypeError(
                f"weights: expected {'a pair' if count == 2 else f'a list of {count}'} where the "
                f"cells have {layer.path}, got {type(weights).__name__}{got}"
            )
        weights = weights[index]
    return weights


def _arrays_of(module: Any) -> dict[str, Any]:
    """The arrays of a cell by attribute; those that are `None` (`use_bias=False`) are left out."""
    if not isinstance(module, Mapping):
        module = {name: getattr(module, name, None) for name in ATTRIBUTES}
    return {name: array for name, array in module.items() if array is not None}
