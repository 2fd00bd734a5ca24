"""Makes the cells of a recurrent layer of Keras from its configuration, or from its shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from ... import cells as c
from ... import wrappers as w
from ..._types import Cells
from .._layouts.framework import cell_of_gates
from .connections import (
    CONV_LSTMS,
    RECURRENT,
    Config,
    Shape,
    inside_time_distributed,
    runs_over_time,
)
from .layers import Layer, directions, stacked_cells

Functions = Mapping[str, Callable[..., Any]]
"""Activation functions by their names in Keras."""


CONV_OPTIONS = {
    "data_format": "channels_last", "dilation_rate": 1, "padding": "same", "strides": 1
}  # fmt: skip
"""Of a `ConvLSTM2D` and its like: the only values that the cells compute."""


def over_time(layer: Layer) -> Config:
    """The configuration of a layer, with its class, inside of each `TimeDistributed`."""
    return inside_time_distributed({"class_name": layer.class_name, "config": layer.config})[0]


def is_recurrent(layer: Layer) -> bool:
    """Whether a layer runs a cell over time, in one direction or both."""
    inner = over_time(layer)
    # A layer of one's own may have the name of a class of Keras behind a `>`.
    return runs_over_time(inner) or "recurrent_activation" in (inner.get("config") or {})


def cells_of(layer: Layer, functions: Functions) -> Cells:
    """The cells of a recurrent layer; raises `ValueError` if this library has none of its kind."""
    inner, shape = over_time(layer), layer.input_shape
    if inner["class_name"] == "Bidirectional":
        merge_mode = inner["config"].get("merge_mode", "concat")
        if merge_mode not in (None, "concat", "sum", "mul", "ave"):
            raise ValueError(f"its merge_mode is {merge_mode!r:.80}")
        return tuple(_one_direction(x, functions, shape) for x in directions(inner))
    return _one_direction(inner, functions, shape)


def _one_direction(layer: Config, functions: Functions, shape: Shape = ()) -> Any:
    """The cell of a layer on inputs of a shape, or the stack of its cells."""
    class_name, config = layer["class_name"], layer["config"]
    if class_name in CONV_LSTMS:
        return _conv_lstm(CONV_LSTMS[class_name], config, functions, shape)
    if class_name != "RNN":
        return _cell(class_name, config, functions)
    stack = stacked_cells(layer)
    if stack:
        return w.MultiRNNCell([_one_direction(_as_layer(x), functions) for x in stack])
    return _one_direction(_as_layer(config["cell"]), functions)


def _as_layer(cell: Config) -> Config:
    """The layer that runs a cell: `LSTM` for `LSTMCell`."""
    return cell | {"class_name": cell["class_name"].removesuffix("Cell")}


def _cell(class_name: str, config: Config, functions: Functions) -> Any:
    """The cell that a layer of this class runs."""
    if class_name not in RECURRENT:
        raise ValueError(f"its class is {class_name}, which this library has no cell for")
    # Keras 1 had other names for two options.
    units = config.get("units", config.get("output_dim"))
    if not isinstance(units, int):
        raise ValueError(f"expected a number of units in its configuration, got {units!r:.80}")
    is_cudnn = class_name.startswith("CuDNN")
    options = {"activation": _function("activation", "tanh" if is_cudnn else config, functions)}
    if class_name == "SimpleRNN":
        return c.BasicRNNCell(units, **_given(options))
    gate = "recurrent_activation" if "recurrent_activation" in config else "inner_activation"
    options["recurrent_activation"] = _function(gate, "sigmoid" if is_cudnn else config, functions)
    if class_name.endswith("LSTM"):
        # Keras stores the forget bias in the bias.
        return c.LSTMCell(units, forget_bias=0.0, **_given(options))
    # Before Keras 2.1 no GRU had the option.
    after = is_cudnn or config.get("reset_after", False)
    return (c.CudnnCompatibleGRUCell if after else c.GRUCell)(units, **_given(options))


def _conv_lstm(ndim: int, config: Config, functions: Functions, shape: Shape) -> Any:
    """The cell of a `ConvLSTM1D`, `ConvLSTM2D` or `ConvLSTM3D`."""
    for option, needed in CONV_OPTIONS.items():
        value = config.get(option, needed)
        ones = isinstance(value, int | list | tuple) and set(np.ravel(value)) == {1}
        if value != needed and not (needed == 1 and ones):
            raise ValueError(f"its {option} is {value!r:.80}, and that of the cell is {needed!r}")
    if _function("activation", config, functions) is not jnp.tanh:
        raise ValueError(f"its activation is {config['activation']!r:.80}, and the cell's is tanh")
    cell = (c.Conv1DLSTMCell, c.Conv2DLSTMCell, c.Conv3DLSTMCell)[ndim - 1]
    sizes = tuple(n for n in shape[2:] if n is not None)
    if len(sizes) != ndim + 1:
        raise ValueError(
            "the file does not say the sizes of its inputs: give them to the cell, "
            f"rnn.{cell.__name__}(input_shape=..., forget_bias=0.0), and to "
            "interop.keras.import_params the layer's weights"
        )
    window = config["kernel_size"]
    gate = _function("recurrent_activation", config, functions)
    return cell(
        input_shape=sizes,
        output_channels=config["filters"],
        kernel_shape=[window] * ndim if isinstance(window, int) else window,
        use_bias=bool(config.get("use_bias", True)),
        forget_bias=0.0,
        **_given({"recurrent_activation": gate}),
    )


def _function(option: str, config: Config | str, functions: Functions) -> Any:
    """The function of an option, or of the name itself for layers that have no option."""
    # The default of an option changed with the version, so one that is missing is not guessed.
    name = config if isinstance(config, str) else config.get(option, "missing")
    name = "linear" if name is None else name
    if not isinstance(name, str) or name not in functions:
        raise ValueError(
            f"its {option} is {name!r:.80}, which is not a function of Keras that is known here"
        )
    return functions[name]


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that are not the cells' defaults."""
    defaults = {"activation": "tanh", "recurrent_activation": "sigmoid"}
    return {k: f for k, f in options.items() if getattr(f, "__name__", "") != defaults[k]}


def infer_cells(weights: Mapping[str, Any]) -> Cells:
    """The cells whose arrays have these shapes, with the default functions; `None` if none has.

    Args:
        weights: the arrays of a layer by name, in the order of `get_weights()`.
    """
    names, shapes = list(weights), [x.shape for x in weights.values()]
    for pair in (False, True):
        own = shapes[: len(shapes) // 2] if pair else shapes
        if len(shapes) % 2 and pair or len(own) not in (2, 3) or own * (1 + pair) != shapes:
            continue
        # Two layers in one group have such shapes too.
        if pair and not all("forward_" in name for name in names[: len(own)]):
            continue
        cell = _cell_of_shapes(own)
        return (cell, cell) if pair and cell is not None else cell
    return None


def _cell_of_shapes(shapes: list[tuple[int, ...]]) -> Any:
    """The cell whose kernel, recurrent kernel and bias have these shapes, or `None`."""
    kernel, recurrent, *bias = shapes
    if len(kernel) != 2 or len(recurrent) != 2 or recurrent[0] < 1 or kernel[1] != recurrent[1]:
        return None
    # A cuDNN layer's bias, of twice the size, is one vector.
    sizes = [(recurrent[1],), (2, recurrent[1]), (2 * recurrent[1],)]
    if bias and bias[0] not in sizes:
        return None
    after = bool(bias) and bias[0] != sizes[0]
    return cell_of_gates(recurrent[1], recurrent[0], reset_after=after)
