"""Weights of cuDNN's LSTM, as `jax.experimental.rnn` has them: one flat vector.

It is PyTorch's arrays end to end: both matrices of every layer and direction, then both biases.
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
from ._layouts.framework import Framework, check
from ._layouts.layers import Layer, walk
from .torch import table

__all__ = ["export_params", "import_params"]

CUDNN = Framework("cuDNN (jax.experimental.rnn)", table, kinds=("lstm",), uniform=True)


def import_params(cells: Cells, weights: Weights, input_size: int) -> Params:
    """Params of the run of `cells`, of the weights of `jax.experimental.rnn.lstm`.

    Its two biases are added up, and `forget_bias` of a cell is taken off the forget gate's.

    Args:
        cells: what the run takes: a cell (`MultiRNNCell` for `num_layers`), a pair of cells
            for `bidirectional=True`, a pair of lists of cells for both; LSTMs.
        weights: `[n]`, anything that NumPy or JAX takes.
        input_size: how many features the first layer receives.

    Returns:
        Params for `dynamic_rnn`, `bidirectional_dynamic_rnn` or
        `stack_bidirectional_dynamic_rnn`; NumPy's arrays, or JAX's where JAX's was given.

    Raises:
        ValueError: it has no such cell, or the vector has another length. TypeError: it is
            no floating array.

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
    shapes = _shapes(check(CUDNN, walk(cells)), input_size)
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
    """The weights of `jax.experimental.rnn.lstm`, of params of the run of `cells`.

    The first bias has the cell's, with its `forget_bias` added; the second is 0.

    Args:
        cells: as in `import_params`.
        params: those of the run.

    Returns:
        `[n]`, NumPy's or, where the params are JAX's, JAX's.

    Raises:
        ValueError: it has no such cell, or an array has another shape. KeyError: names of
            params are missing, or left over.

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
    return sorted(arrays.items(), key=lambda item: item[0].startswith("bias"))


def _shapes(layers: list[Layer], input_size: int) -> dict[str, tuple[int, ...]]:
    """Of every array, in the order of the vector."""
    shapes = {}
    for layer in layers:
        below = layer.cell.num_units * (1 if layer.direction is None else 2)
        shapes |= _convert.shapes(CUDNN, layer, below if layer.depth else input_size)
    return dict(_in_order(shapes))
