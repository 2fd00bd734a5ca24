"""Converts the weights of cuDNN's LSTM, which `jax.experimental.rnn` has as one flat vector.

The vector is PyTorch's arrays, concatenated: both matrices of every layer and direction, then both
biases of each.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._cell import Params
from .._types import Cells, Weights
from ._layouts import convert as _convert
from ._layouts.framework import Framework, check_supported
from ._layouts.layers import RunLayer, layers_of
from .torch import layer_blocks

__all__ = ["export_params", "import_params"]

CUDNN = Framework(
    "cuDNN (jax.experimental.rnn)", layer_blocks, families=("lstm",), uniform_layers=True
)


def import_params(cells: Cells, weights: Weights, input_size: int) -> Params:
    """Converts the weights of `jax.experimental.rnn.lstm` to params for `cells`.

    Its two biases are added, and a cell's `forget_bias` is subtracted from the forget gate's.

    Args:
        cells: the cells to run: one cell (`MultiRNNCell` for `num_layers`), a pair of cells
            for `bidirectional=True`, a pair of lists of cells for both; LSTMs.
        weights: `[n]`, anything that NumPy or JAX can convert to an array.
        input_size: how many features the first layer receives.

    Returns:
        Params for `dynamic_rnn`, `bidirectional_dynamic_rnn` or
        `stack_bidirectional_dynamic_rnn`; NumPy arrays, or JAX arrays if `weights` is one.

    Raises:
        ValueError: cuDNN has no such cell, or the vector has another length. TypeError: its
            dtype is not a floating-point one.

    Example:
        >>> import jax, jax_dynrnn as rnn
        >>> from jax.experimental import rnn as cudnn
        >>> from jax_dynrnn import interop
        >>> weights = cudnn.init_lstm_weight(jax.random.key(0), 3, 4, 2, bidirectional=True)
        >>> cells = [rnn.LSTMCell(4, forget_bias=0.0)] * 2
        >>> params = interop.cudnn.import_params((cells, cells), weights, input_size=3)
        >>> outputs, _, _ = rnn.stack_bidirectional_dynamic_rnn(
        ...     cells, cells, params, jax.numpy.ones((2, 5, 3)))
        >>> outputs.shape
        (2, 5, 8)
    """
    shapes = _shapes(check_supported(CUDNN, layers_of(cells)), input_size)
    vector = weights if isinstance(weights, jax.Array) else np.asarray(weights)
    ends = np.cumsum([math.prod(shape) for shape in shapes.values()]).tolist()
    if vector.shape != (ends[-1],):
        raise ValueError(
            f"weights: expected a vector of {ends[-1]} for these cells on inputs of size "
            f"{input_size}, got shape {vector.shape}; give the cells and the input_size that "
            "they were made for"
        )
    parts = [vector[end - math.prod(s) : end] for end, s in zip(ends, shapes.values(), strict=True)]
    arrays = {name: x.reshape(s) for (name, s), x in zip(shapes.items(), parts, strict=True)}
    return _convert.import_params(CUDNN, cells, arrays)


def export_params(cells: Cells, params: Params) -> Any:
    """Converts params of `cells` to the weights of `jax.experimental.rnn.lstm`.

    The first bias is the cell's, with its `forget_bias` added; the second is 0.

    Args:
        cells: as in `import_params`.
        params: the params of `cells`.

    Returns:
        `[n]`, a NumPy array, or a JAX array if any of the params is one.

    Raises:
        ValueError: cuDNN has no such cell, or an array has another shape. KeyError: params are
            missing or unexpected.

    Example:
        >>> import jax, jax_dynrnn as rnn
        >>> from jax.experimental import rnn as cudnn
        >>> from jax_dynrnn import interop
        >>> cell = rnn.LSTMCell(4)
        >>> params = cell.init(jax.random.key(0), (2, 5, 3))
        >>> weights = interop.cudnn.export_params(cell, params)
        >>> weights.size == cudnn.get_num_params_in_lstm(3, 4, num_layers=1, bidirectional=False)
        True
    """
    weights = _convert.export_params(CUDNN, cells, params)
    flat = [array.reshape(-1) for _, array in _in_order(weights)]
    return (jnp if any(isinstance(x, jax.Array) for x in flat) else np).concatenate(flat)


def _in_order(arrays: dict[str, Any]) -> list[tuple[str, Any]]:
    """The arrays in the order of the vector: matrices before biases, otherwise as they are."""
    # `sorted` is stable, so layers and directions stay in order within both groups.
    return sorted(arrays.items(), key=lambda item: item[0].startswith("bias"))


def _shapes(layers: list[RunLayer], input_size: int) -> dict[str, tuple[int, ...]]:
    """The shapes of all arrays by name, in the order of the vector."""
    shapes = {}
    for layer in layers:
        # All layers have the same size: `uniform_layers` was checked.
        below = layer.cell.num_units * (1 if layer.direction is None else 2)
        shapes |= _convert.shapes(CUDNN, layer, below if layer.depth else input_size)
    return dict(_in_order(shapes))
