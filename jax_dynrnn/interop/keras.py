"""Weights of Keras's `LSTM`, `GRU` and `SimpleRNN`, in `Bidirectional` or not.

They come and go as `layer.get_weights()` has them: NumPy's arrays in a fixed order. No Keras is
needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from .._cell import Params
from .._types import Cells, Weights
from ._code import code
from ._layouts import convert as _convert
from ._layouts.blocks import Block, Table
from ._layouts.framework import Framework, check, kind
from ._layouts.layers import Layer, walk

__all__ = ["export_params", "import_params"]

NAMES = ("kernel", "recurrent_kernel", "bias")
GATES = {"lstm": "ifgo", "gru": "zrn", "cudnn_gru": "zrn", "rnn": "h"}


def import_params(
    cells: Cells, weights: Weights, *, activation: Callable[..., Any] = jnp.tanh
) -> Params:
    """Params of the run of `cells`, of the weights of a layer, or of one layer above another.

    `forget_bias` of a cell is taken off the forget gate's bias (`unit_forget_bias` stores it):
    exact with `forget_bias=0.0`, else rounded once.

    Args:
        cells: what the run takes: a cell (`MultiRNNCell` for a stack), a pair of cells for
            `Bidirectional`, a pair of lists of cells for a stack of those. `LSTMCell`;
            `CudnnCompatibleGRUCell` for a `GRU`, or `GRUCell` with `reset_after=False`;
            `BasicRNNCell`.
        weights: of a layer `layer.get_weights()`, or its arrays by the path of the variable,
            `{v.path: v for v in layer.weights}`; of a stack a list of these, or
            `model.get_weights()` of nothing else. Without biases they are 0.
        activation: the function that the layer computes, where it is another than tanh: the
            cell's too.

    Returns:
        Params for `dynamic_rnn`, `bidirectional_dynamic_rnn` or
        `stack_bidirectional_dynamic_rnn`; NumPy's arrays, or JAX's where JAX's were given.

    Raises:
        ValueError: Keras has no such cell, or arrays differ in number or shape. KeyError: names
            are missing, or left over. TypeError: what is no floating array.

    Example:
        >>> import numpy as np, jax_dynrnn as rnn
        >>> from jax_dynrnn import interop
        >>> weights = [np.ones((3, 16)), np.ones((4, 16)), np.ones(16)]    # layers.LSTM(4)
        >>> cell = rnn.LSTMCell(4, forget_bias=0.0)
        >>> params = interop.keras.import_params((cell, cell), weights + weights)
        >>> params["fw"]["kernel"].shape                                   # of Bidirectional
        (7, 16)
    """
    framework = _framework(activation)
    layers = check(framework, walk(cells))
    named = _by_name(layers, weights)
    _check_resets(layers, named)
    return _convert.import_params(framework, cells, named)


def export_params(
    cells: Cells,
    params: Params,
    *,
    activation: Callable[..., Any] = jnp.tanh,
    use_bias: bool = True,
) -> list[Any]:
    """The weights of a layer, or of one layer above another, of params of the run of `cells`.

    Args:
        cells, activation: as in `import_params`.
        params: those of the run.
        use_bias: `False` for a layer without biases; those of the params must be 0.

    Returns:
        A list of NumPy's arrays, for `layer.set_weights`; of a stack a list of these, one for
        each layer. (`Bidirectional` of a stack, from a pair of `MultiRNNCell`, is one layer.)

    Raises:
        ValueError, KeyError, TypeError: as in `import_params`.

    Example:
        >>> import jax, jax_dynrnn as rnn
        >>> from jax_dynrnn import interop
        >>> cell = rnn.CudnnCompatibleGRUCell(4)
        >>> params = cell.init(jax.random.key(0), (2, 5, 3))
        >>> [array.shape for array in interop.keras.export_params(cell, params)]
        [(3, 12), (4, 12), (2, 12)]
    """
    layers = walk(cells)
    arrays = _convert.export_params(_framework(activation), cells, params, biases=use_bias)
    each = [
        [np.array(arrays[name], order="C") for name in _table(layer) if name in arrays]
        for layer in layers
    ]
    if layers[0].depth is None or layers[0].apart:
        return sum(each, [])
    depths = [layer.depth or 0 for layer in layers]
    return [
        sum([x for x, of in zip(each, depths, strict=True) if of == depth], [])
        for depth in range(max(depths) + 1)
    ]


def _framework(activation: Callable[..., Any]) -> Framework:
    return Framework(
        name="Keras",
        table=_table,
        kinds=tuple(GATES),
        activations=dict.fromkeys(GATES, activation),
        activation_hint="give activation=, the function, if the layer there computes it",
        apart=True,
    )


def _table(layer: Layer) -> Table:
    gates = GATES[kind(layer.cell)]
    biases = "bias hidden_bias" if kind(layer.cell) == "cudnn_gru" else "bias"
    blocks = {
        "kernel": Block("input", gates),
        "recurrent_kernel": Block("hidden", gates),
        "bias": Block(biases, gates, optional=True),
    }
    return layer.named(blocks)


def _by_name(layers: list[Layer], weights: Weights) -> dict[str, Any]:
    """The arrays by the names of `_table`."""
    if isinstance(weights, Mapping):
        return _by_path(layers, weights)
    nested = [isinstance(x, Mapping | tuple | list) for x in weights]
    if not any(nested):
        return _in_order(layers, weights)
    depths = sorted({layer.depth or 0 for layer in layers})
    if not all(nested) or len(weights) != len(depths) or layers[0].apart:
        raise ValueError(
            f"weights: expected one list or dict for each of {len(depths)} layers, or one list of "
            f"all arrays, got {len(weights)} elements, {sum(nested)} of them lists or dicts"
        )
    named: dict[str, Any] = {}
    for depth, entry in zip(depths, weights, strict=True):
        named |= _by_name([layer for layer in layers if (layer.depth or 0) == depth], entry)
    return named


def _in_order(layers: list[Layer], arrays: Sequence[Any]) -> dict[str, Any]:
    names = NAMES[:2] if len(arrays) == 2 * len(layers) else NAMES
    paths = [path for layer in layers for path in layer.named(dict.fromkeys(names))]
    if len(arrays) != len(paths):
        raise ValueError(
            f"weights: expected {len(paths)} arrays, {', '.join(paths)}, or all but the biases, "
            f"got {len(arrays)}, of shapes {', '.join(str(np.shape(x)) for x in arrays)}"
        )
    return dict(zip(paths, arrays, strict=True))


def _by_path(layers: list[Layer], weights: Mapping[str, Any]) -> dict[str, Any]:
    """By paths like `bidirectional/forward_lstm/lstm_cell/kernel`, in any order."""
    scopes = sorted({path.rpartition("/")[0] for path in weights}, key=_is_forward, reverse=True)
    both = [_is_forward(scope) for scope in scopes] == [True, False]
    directions = [layer.direction for layer in layers]
    if not (len(scopes) == 1 and directions == [None] or both and directions == [0, 1]):
        raise ValueError(
            f"weights: expected variables of {len(layers)} cells of one layer, under one scope or "
            f"under 'forward_…' and another, got {', '.join(scopes) or 'none'}; of a stack give a "
            "list of what each layer has"
        )
    named: dict[str, Any] = {}
    for layer, scope in zip(layers, scopes, strict=True):
        inside = [(p.rpartition("/"), array) for p, array in weights.items()]
        named |= layer.named({name: x for (before, _, name), x in inside if before == scope})
    return named


def _check_resets(layers: list[Layer], named: Mapping[str, Any]) -> None:
    """Says which cell has the equations of a GRU, which its bias shows."""
    for layer in layers:
        (name,) = layer.named({"bias": None})
        both = 2 * len(GATES[kind(layer.cell)]) * layer.cell.num_units
        if name in named and np.shape(named[name]) == (both,):
            raise ValueError(
                f"weights: {name} is that of a CuDNNLSTM or CuDNNGRU, whose matrices are laid out "
                "in another way; Keras converts them: load_weights of a file of theirs into an "
                "LSTM, or a GRU with reset_after=True"
            )
        ndim = {"gru": 1, "cudnn_gru": 2}.get(kind(layer.cell))
        if ndim and name in named and np.ndim(named[name]) == 3 - ndim:
            right, after = ("GRUCell", False) if ndim == 2 else ("CudnnCompatibleGRUCell", True)
            raise ValueError(
                f"weights: {name} is that of a GRU with reset_after={after}, which is {right}; got "
                f"{code(layer.cell)}"
            )


def _is_forward(scope: str) -> bool:
    """In `Bidirectional`, where a `backward_layer` that was given keeps its own name."""
    return any(part.startswith("forward_") for part in scope.split("/"))
