"""Converts weights of Keras's `LSTM`, `GRU` and `SimpleRNN`, also in `Bidirectional`.

They are lists as of `layer.get_weights()`: NumPy arrays in a fixed order. Keras need not be
installed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._cell import Params
from .._types import Cells, Weights
from ._code import code
from ._layouts import convert as _convert
from ._layouts.blocks import Block, Blocks
from ._layouts.framework import Framework, check_supported, family
from ._layouts.layers import RunLayer, layers_of

__all__ = ["export_params", "hard_sigmoid", "import_params"]

ARRAY_NAMES = ("kernel", "recurrent_kernel", "bias")
"""Of a layer, in the order of `get_weights()`."""
GATES = {"lstm": "ifgo", "gru": "zrn", "cudnn_gru": "zrn", "rnn": "h"}
"""The gates in the order of Keras, by family of cells."""


def hard_sigmoid(x: jax.Array) -> jax.Array:
    """`clip(0.2 x + 0.5, 0, 1)`: `hard_sigmoid` of Keras 1 and 2, and of TF1's `tf.keras`.

    There it is the default of `recurrent_activation`. Keras 3's function of that name is
    another one, `jax.nn.hard_sigmoid`: `relu6(x + 3) / 6`.

    Args:
        x: array of any shape, of a floating dtype; the result is of the same.

    Reference: `tf_keras.activations.hard_sigmoid`.

    Example:
        >>> import jax.numpy as jnp, jax_dynrnn as rnn
        >>> from jax_dynrnn import interop
        >>> interop.keras.hard_sigmoid(jnp.array([-3.0, 0.0, 3.0])).tolist()
        [0.0, 0.5, 1.0]
        >>> cell = rnn.LSTMCell(
        ...     4, forget_bias=0.0, recurrent_activation=interop.keras.hard_sigmoid)
    """
    return jnp.clip(0.2 * x + 0.5, 0, 1)


def import_params(
    cells: Cells,
    weights: Weights,
    *,
    activation: Callable[..., Any] = jnp.tanh,
    recurrent_activation: Callable[..., Any] = jax.nn.sigmoid,
) -> Params:
    """Converts the weights of a layer, or of a stack of layers, to params of the run of `cells`.

    Weights do not say which functions a layer has: its configuration does. Arrays are taken as
    `activation` and `recurrent_activation` say, and a cell with other ones is a ValueError.
    `forget_bias` of a cell is subtracted from the forget gate's bias (Keras's
    `unit_forget_bias` is stored in it): exact with `forget_bias=0.0`, else rounded once.

    Args:
        cells: as the run takes them: a cell (`MultiRNNCell` for a stack), a pair of cells for
            `Bidirectional`, a pair of lists of cells for a stack of those. `LSTMCell`;
            `CudnnCompatibleGRUCell` for a `GRU`, or `GRUCell` with `reset_after=False`;
            `BasicRNNCell`.
        weights: for one layer `layer.get_weights()`, or arrays by the path of their variable,
            `{v.path: v for v in layer.weights}`; for a stack a list of these, or
            `model.get_weights()` of a model without other layers. Where layers have no biases,
            the params have zeros.
        activation: the activation function of the layer, if it is not tanh. It must be the
            cell's, too.
        recurrent_activation: that of its gates, if it is not sigmoid: `hard_sigmoid` for layers of
            Keras 1 and 2 that say so, `jax.nn.hard_sigmoid` for those of Keras 3.

    Returns:
        Params for `dynamic_rnn`, `bidirectional_dynamic_rnn` or
        `stack_bidirectional_dynamic_rnn`; NumPy arrays, or JAX arrays where those were given.

    Raises:
        ValueError: Keras has no such cell, or arrays differ in number or shape. KeyError: names
            are missing or unexpected. TypeError: an array is not of floating dtype.

    Example:
        >>> import numpy as np, jax_dynrnn as rnn
        >>> from jax_dynrnn import interop
        >>> weights = [np.ones((3, 16)), np.ones((4, 16)), np.ones(16)]    # layers.LSTM(4)
        >>> cell = rnn.LSTMCell(4, forget_bias=0.0)
        >>> params = interop.keras.import_params((cell, cell), weights + weights)
        >>> params["fw"]["kernel"].shape                                   # of Bidirectional
        (7, 16)
    """
    framework = _framework(activation, recurrent_activation)
    layers = check_supported(framework, layers_of(cells))
    named = _by_name(layers, weights)
    _check_bias_shapes(layers, named)
    return _convert.import_params(framework, cells, named)


def export_params(
    cells: Cells,
    params: Params,
    *,
    activation: Callable[..., Any] = jnp.tanh,
    recurrent_activation: Callable[..., Any] = jax.nn.sigmoid,
    use_bias: bool = True,
) -> list[Any]:
    """Converts params of the run of `cells` to the weights of a layer, or of a stack of layers.

    Args:
        cells, activation, recurrent_activation: as in `import_params`.
        params: of the run.
        use_bias: `False` for a layer without biases; the biases among the params must be 0.

    Returns:
        A list of NumPy arrays, for `layer.set_weights`; for a stack a list of these, one for
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
    layers = layers_of(cells)
    framework = _framework(activation, recurrent_activation)
    arrays = _convert.export_params(framework, cells, params, biases=use_bias)
    each = [
        [np.array(arrays[name], order="C") for name in _blocks(layer) if name in arrays]
        for layer in layers
    ]
    if layers[0].depth is None or layers[0].separate_stacks:
        return sum(each, [])
    depths = [layer.depth or 0 for layer in layers]
    return [
        sum([x for x, of in zip(each, depths, strict=True) if of == depth], [])
        for depth in range(max(depths) + 1)
    ]


def _framework(
    activation: Callable[..., Any], recurrent_activation: Callable[..., Any]
) -> Framework:
    """What Keras can hold, given the functions of its layers."""
    return Framework(
        name="Keras",
        blocks=_blocks,
        families=tuple(GATES),
        activations=dict.fromkeys(GATES, activation),
        activation_hint="give activation=, the function, if it is the Keras layer's",
        recurrent_activation=recurrent_activation,
        recurrent_activation_hint=(
            "give recurrent_activation=, the function, if it is the Keras layer's"
        ),
        separate_stacks=True,
    )


def _blocks(layer: RunLayer) -> Blocks:
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
    """The arrays of all layers by the names of `_blocks`."""
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
    # Layers without biases have two arrays each.
    names = ARRAY_NAMES[:2] if len(arrays) == 2 * len(layers) else ARRAY_NAMES
    paths = [path for layer in layers for path in layer.with_path(dict.fromkeys(names))]
    if len(arrays) != len(paths):
        raise ValueError(
            f"weights: expected {len(paths)} arrays, {', '.join(paths)}, or all but the biases, "
            f"got {len(arrays)}, of shapes {', '.join(str(np.shape(x)) for x in arrays)}"
        )
    return dict(zip(paths, arrays, strict=True))


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


def _check_bias_shapes(layers: list[RunLayer], named: Mapping[str, Any]) -> None:
    """Refuses weights of another kind of GRU or of cuDNN, which the shape of the bias shows."""
    for layer in layers:
        (name,) = layer.with_path({"bias": None})
        # cuDNN's layers store both biases in one vector.
        cudnn_size = 2 * len(GATES[family(layer.cell)]) * layer.cell.num_units
        if name in named and np.shape(named[name]) == (cudnn_size,):
            raise ValueError(
                f"weights: {name} is that of a CuDNNLSTM or CuDNNGRU, whose matrices have another "
                "layout; to convert them, load the file with load_weights into a Keras LSTM, or a "
                "GRU with reset_after=True"
            )
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
