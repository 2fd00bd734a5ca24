"""The arrays of layers of every version of Keras by name, in the layout of Keras 2 and 3."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ..._types import Weights
from .._code import code
from .._layouts.blocks import Block, Blocks
from .._layouts.framework import family
from .._layouts.layers import RunLayer, units_of

ARRAY_NAMES = ("kernel", "recurrent_kernel", "bias")
"""Of a layer, in the order of `get_weights()`."""
GATES = {"lstm": "ifgo", "gru": "zrn", "cudnn_gru": "zrn", "rnn": "h", "conv_lstm": "ifgo"}
"""The gates in the order of Keras, by family of cells."""


def named_arrays(layers: list[RunLayer], weights: Weights) -> dict[str, Any]:
    """The arrays of all layers by the names of `blocks_of`; a `ValueError` if they are others'."""
    named = _from_cudnn(layers, _by_name(layers, weights))
    _check_bias_shapes(layers, named)
    return named


def blocks_of(layer: RunLayer) -> Blocks:
    """The arrays of a layer by name."""
    gates = GATES[family(layer.cell)]
    biases = "bias hidden_bias" if family(layer.cell) == "cudnn_gru" else "bias"
    blocks = {
        "kernel": Block("input", gates),
        "recurrent_kernel": Block("hidden", gates),
        "bias": Block(biases, gates, optional=True),
    }
    return layer.with_path(blocks)


def _by_name(layers: list[RunLayer], weights: Weights) -> dict[str, Any]:
    """The arrays of all layers by the names of `blocks_of`."""
    if isinstance(weights, Mapping):
        return _by_path(layers, weights)
    nested = [isinstance(x, Mapping | tuple | list) for x in weights]
    if not any(nested):
        return _in_order(layers, weights)
    depths = sorted({layer.depth or 0 for layer in layers})
    if not all(nested) or len(weights) != len(depths) or layers[0].separate_stacks:
        raise ValueError(
            f"weights: expected one list or dict for each of {len(depths)} layers, or one list of "
            f"all arrays, got {len(weights)} elements, {sum(nested)} of them lists or dicts"
        )
    named: dict[str, Any] = {}
    for depth, entry in zip(depths, weights, strict=True):
        named |= _by_name([layer for layer in layers if (layer.depth or 0) == depth], entry)
    return named


def _in_order(layers: list[RunLayer], arrays: Sequence[Any]) -> dict[str, Any]:
    """The arrays of all layers by name, from one flat list in Keras's order."""
    arrays = _without_gates(layers, arrays)
    # Layers without biases have two arrays each.
    names = ARRAY_NAMES[:2] if len(arrays) == 2 * len(layers) else ARRAY_NAMES
    paths = [path for layer in layers for path in layer.with_path(dict.fromkeys(names))]
    if len(arrays) != len(paths):
        raise ValueError(
            f"weights: expected {len(paths)} arrays, {', '.join(paths)}, or all but the biases, "
            f"got {len(arrays)}, of shapes {', '.join(str(np.shape(x)) for x in arrays)}"
        )
    return dict(zip(paths, arrays, strict=True))


KERAS_1_GATES = {"lstm": "igfo", "gru": "zrn"}
"""The gates of Keras 1 in the order of its arrays: kernel, recurrent kernel and bias of each."""


def _without_gates(layers: list[RunLayer], arrays: Sequence[Any]) -> list[Any]:
    """Arrays of Keras 1, one for each gate, as those of later versions; others as they are."""
    orders = [KERAS_1_GATES.get(family(layer.cell), "h") for layer in layers]
    if len(arrays) != 3 * sum(map(len, orders)) or len(arrays) == 3 * len(layers):
        return list(arrays)
    joined, left = [], list(arrays)
    for layer, order in zip(layers, orders, strict=True):
        places = [order.index(gate) for gate in GATES[family(layer.cell)]]
        for which in range(len(ARRAY_NAMES)):
            gates = [np.asarray(left[3 * place + which]) for place in places]
            joined.append(np.concatenate(gates, -1))
        del left[: 3 * len(order)]
    return joined


def _by_path(layers: list[RunLayer], weights: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays of one layer by name, from paths such as `.../forward_lstm/lstm_cell/kernel`."""
    # Forward first: `False` sorts before `True`, therefore `reverse`.
    scopes = sorted({path.rpartition("/")[0] for path in weights}, key=_is_forward, reverse=True)
    is_pair = [_is_forward(scope) for scope in scopes] == [True, False]
    directions = [layer.direction for layer in layers]
    if not (len(scopes) == 1 and directions == [None] or is_pair and directions == [0, 1]):
        raise ValueError(
            f"weights: expected variables of {len(layers)} cells of one layer, under one scope or "
            f"under 'forward_…' and another, got {', '.join(scopes) or 'none'}; of a stack give a "
            "list of what each layer has"
        )
    named: dict[str, Any] = {}
    for layer, scope in zip(layers, scopes, strict=True):
        inside = [(p.rpartition("/"), array) for p, array in weights.items()]
        named |= layer.with_path({name: x for (before, _, name), x in inside if before == scope})
    return named


def _from_cudnn(layers: list[RunLayer], named: dict[str, Any]) -> dict[str, Any]:
    """Arrays of `CuDNNLSTM` and `CuDNNGRU`, whose bias shows them, in the layout of Keras."""
    named = dict(named)
    for layer in layers:
        kernel, recurrent, bias = layer.with_path(dict.fromkeys(ARRAY_NAMES))
        gates, units = len(GATES[family(layer.cell)]), units_of(layer.cell)
        # Both biases are in one vector, which no other layer has.
        if family(layer.cell) in ("rnn", "conv_lstm") or np.shape(named.get(bias, ())) != (
            2 * gates * units,
        ):
            continue
        if family(layer.cell) == "gru":
            raise ValueError(
                f"weights: {bias} is that of a CuDNNGRU, which is CudnnCompatibleGRUCell; got "
                f"{code(layer.cell)}"
            )
        w, u, b = (
            x if isinstance(x, jax.Array) else np.asarray(x)
            for x in (named[name] for name in (kernel, recurrent, bias))
        )
        if np.ndim(w) == 2 and w.shape[1] == gates * units and np.shape(u) == (units, w.shape[1]):
            # Each gate is a matrix `[units, inputs]`, the bytes of which were given Keras's shape.
            w = w.reshape(-1, gates, units).transpose(1, 0, 2).reshape(gates, units, -1)
            named[kernel] = w.transpose(2, 0, 1).reshape(-1, gates * units)
            named[recurrent] = u.reshape(units, gates, units).transpose(2, 1, 0).reshape(u.shape)
        both = b.reshape(2, -1)
        named[bias] = both if family(layer.cell) == "cudnn_gru" else both.sum(0)
    return named


def _check_bias_shapes(layers: list[RunLayer], named: Mapping[str, Any]) -> None:
    """Refuses weights of another kind of GRU, which the shape of the bias shows."""
    for layer in layers:
        (name,) = layer.with_path({"bias": None})
        # With reset_after=True the bias is `[2, gates]`: one for the inputs, one for the state.
        ndim = {"gru": 1, "cudnn_gru": 2}.get(family(layer.cell))
        if ndim and name in named and np.ndim(named[name]) == 3 - ndim:
            right, after = ("GRUCell", False) if ndim == 2 else ("CudnnCompatibleGRUCell", True)
            raise ValueError(
                f"weights: {name} is that of a GRU with reset_after={after}, which is {right}; got "
                f"{code(layer.cell)}"
            )


def _is_forward(scope: str) -> bool:
    """Whether a scope is that of the forward layer of a `Bidirectional`."""
    # Only the forward layer's name is certain: a `backward_layer=` that is given has its own.
    return any(part.startswith("forward_") for part in scope.split("/"))
