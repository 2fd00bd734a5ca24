"""Makes the cells of a recurrent layer of Keras from its configuration, or from its shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ... import cells as c
from ... import wrappers as w
from ..._types import Cells
from .layers import RECURRENT, Config, directions, stacked_cells

Functions = Mapping[str, Callable[..., Any]]
"""Activation functions by their names in Keras."""


def is_recurrent(class_name: str, config: Config) -> bool:
    """Whether a layer runs a cell over time, in one direction or both."""
    if class_name == "Bidirectional":
        return True
    # A layer of one's own may have the name of a class of Keras behind a `>`.
    return class_name in RECURRENT or "recurrent_activation" in config


def cells_of(class_name: str, config: Config, functions: Functions) -> Cells:
    """The cells of a recurrent layer; raises `ValueError` if this library has none of its kind."""
    layer = {"class_name": class_name, "config": config}
    if class_name == "Bidirectional":
        if config.get("merge_mode", "concat") not in (None, "concat", "sum", "mul", "ave"):
            raise ValueError(f"its merge_mode is {config['merge_mode']!r:.80}")
        return tuple(_one_direction(inner, functions) for inner in directions(layer))
    return _one_direction(layer, functions)


def _one_direction(layer: Config, functions: Functions) -> Any:
    """The cell of a layer, or the stack of its cells."""
    class_name, config = layer["class_name"], layer["config"]
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


def infer_cells(arrays: Sequence[np.ndarray]) -> Cells:
    """The cells whose arrays have these shapes, with the default functions; `None` if none has.

    Args:
        arrays: of a layer, in the order of `get_weights()`.
    """
    shapes = [x.shape for x in arrays]
    for pair in (False, True):
        own = shapes[: len(shapes) // 2] if pair else shapes
        if len(shapes) % 2 and pair or len(own) not in (2, 3) or own * (1 + pair) != shapes:
            continue
        cell = _cell_of_shapes(own)
        return (cell, cell) if pair and cell is not None else cell
    return None


def _cell_of_shapes(shapes: list[tuple[int, ...]]) -> Any:
    """The cell whose kernel, recurrent kernel and bias have these shapes, or `None`."""
    kernel, recurrent, *bias = shapes
    if len(kernel) != 2 or len(recurrent) != 2 or recurrent[0] < 1 or kernel[1] != recurrent[1]:
        return None
    gates, rest = divmod(recurrent[1], recurrent[0])
    # A cuDNN layer's bias, of twice the size, is one vector.
    sizes = [(recurrent[1],), (2, recurrent[1]), (2 * recurrent[1],)]
    if rest or bias and bias[0] not in sizes:
        return None
    if gates == 3:
        after = bool(bias) and bias[0] != sizes[0]
        return (c.CudnnCompatibleGRUCell if after else c.GRUCell)(recurrent[0])
    makers = {4: lambda n: c.LSTMCell(n, forget_bias=0.0), 1: c.BasicRNNCell}
    return makers[gates](recurrent[0]) if gates in makers else None
