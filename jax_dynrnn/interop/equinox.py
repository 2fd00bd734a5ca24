"""Weights of Equinox's `eqx.nn.LSTMCell` and `eqx.nn.GRUCell`.

They come as the cells themselves or as `{name: array}`, and go as the latter. No Equinox is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .._cell import Params
from .._types import Cells, Weights
from ._layouts import convert as _convert
from ._layouts.blocks import Block, Table
from ._layouts.framework import Framework, check, kind
from ._layouts.layers import Layer, walk

__all__ = ["export_params", "import_params"]

NAMES = ("weight_ih", "weight_hh", "bias", "bias_n")


def import_params(cells: Cells, weights: Weights) -> Params:
    """Params of the run of `cells`, of cells of Equinox.

    `forget_bias` of a cell is taken off the forget gate's bias: exact with `forget_bias=0.0`,
    else rounded once.

    Args:
        cells: what the run takes: a cell (`MultiRNNCell` for a stack), a pair of cells or a
            pair of lists of cells. `LSTMCell` or `CudnnCompatibleGRUCell`.
        weights: likewise, of cells of Equinox or of `{name: array}`: one, a list for a
            `MultiRNNCell`, a pair, or a pair of lists. Without biases (`use_bias=False`) they
            are 0.

    Returns:
        Params for `dynamic_rnn`, `bidirectional_dynamic_rnn` or
        `stack_bidirectional_dynamic_rnn`; NumPy's arrays, or JAX's where JAX's were given.

    Raises:
        ValueError: Equinox has no such cell, or an array has another shape. KeyError: names
            are missing, or left over. TypeError: what is no floating array, or not as `cells`.

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
    layers = check(EQUINOX, walk(cells))
    depth = 1 + max(layer.depth or 0 for layer in layers)
    arrays: dict[str, Any] = {}
    for layer in layers:
        arrays |= layer.named(_arrays(_of_layer(weights, layer, depth)))
    return _convert.import_params(EQUINOX, cells, arrays)


def export_params(cells: Cells, params: Params, *, use_bias: bool = True) -> Any:
    """The arrays of cells of Equinox, of params of the run of `cells`.

    Args:
        cells: as in `import_params`.
        params: those of the run.
        use_bias: `False` for cells without biases; those of the params must be 0.

    Returns:
        `{name: array}` for one cell; a list of them for a `MultiRNNCell`, a pair, or a pair of
        lists. `equinox.tree_at` puts them into a cell. NumPy's arrays or, where the params are
        JAX's, JAX's.

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
    arrays = _convert.export_params(EQUINOX, cells, params, biases=use_bias)
    layers = walk(cells)
    each = [
        {n.rsplit("/", 1)[-1]: arrays[n] for n in _table(layer) if n in arrays} for layer in layers
    ]

    def of_direction(direction):
        found = [x for x, layer in zip(each, layers, strict=True) if layer.direction == direction]
        return found if layers[0].depth is not None else found[0]

    return of_direction(None) if layers[0].direction is None else (of_direction(0), of_direction(1))


def _table(layer: Layer) -> Table:
    gates = {"lstm": "ifgo", "cudnn_gru": "rzn"}[kind(layer.cell)]
    blocks = {
        "weight_ih": Block("input", gates, transposed=True),
        "weight_hh": Block("hidden", gates, transposed=True),
        "bias": Block("bias", gates, optional=True),
    }
    if kind(layer.cell) == "cudnn_gru":
        blocks["bias_n"] = Block("hidden_bias", "n", optional=True)
    return layer.named(blocks)


EQUINOX = Framework("Equinox", _table, kinds=("lstm", "cudnn_gru"), apart=True)


def _of_layer(weights: Weights, layer: Layer, depth: int) -> Any:
    """What `weights`, which look as the cells do, have for a layer of a stack of `depth`."""
    for place, count in ((layer.direction, 2), (layer.depth, depth)):
        if place is None:
            continue
        if not isinstance(weights, tuple | list) or len(weights) != count:
            got = f" of {len(weights)}" if isinstance(weights, tuple | list) else ""
            raise TypeError(
                f"weights: expected {'a pair' if count == 2 else f'a list of {count}'} where the "
                f"cells have {layer.path}, got {type(weights).__name__}{got}"
            )
        weights = weights[place]
    return weights


def _arrays(module: Any) -> dict[str, Any]:
    """Of a cell by attribute; `None` is what `use_bias=False` has."""
    if not isinstance(module, Mapping):
        module = {name: getattr(module, name, None) for name in NAMES}
    return {name: array for name, array in module.items() if array is not None}
