"""Checks that cells are those of the configuration that comes with weights."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

from ..._types import Cells
from .._code import code
from .._layouts.framework import activation_of, family, recurrent_activation_of
from .._layouts.layers import RunLayer, layers_of, units_of
from .cells import Functions, cells_of
from .layers import Layer


def has_configuration(given: Any) -> bool:
    """Whether weights are those of a layer, with its configuration, and not arrays alone."""
    if isinstance(given, Layer):
        return bool(given.class_name)
    return hasattr(given, "get_config") and hasattr(given, "get_weights")


def arrays_of(layers: list[RunLayer], given: Any, functions: Callable[[str], Functions]) -> Any:
    """The arrays of a layer of Keras, or of one that was read, for cells like these.

    Args:
        layers: of the cells that the arrays are for.
        given: the layer; anything else is returned as it is.
        functions: Keras's by their names, given its version.

    Raises:
        ValueError: the configuration of the layer is not that of the cells.
    """
    if not has_configuration(given):
        return list(given.weights.values()) if isinstance(given, Layer) else given
    layer = given if isinstance(given, Layer) else _described(layers, given)
    try:
        if layer.problem:
            raise ValueError(layer.problem)
        cells = layer.cells or cells_of(layer, functions(_version(given)))
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(
            f"weights: layer {layer.name!r} has no cells here: {error}; if it computes what "
            "the cells do, give its arrays and functions"
        ) from None
    _check(layers, cells, layer.name)
    return list(layer.weights.values())


def _described(layers: list[RunLayer], given: Any) -> Layer:
    """A layer of Keras as one that was read."""
    # The sizes of images are not part of a layer's configuration.
    sizes = getattr(layers[0].cell, "input_shape", ())
    shape = (None, None, *sizes)
    arrays = {str(i): array for i, array in enumerate(given.get_weights())}
    return Layer(given.name, type(given).__name__, given.get_config(), arrays, input_shape=shape)


def _version(layer: Any) -> str:
    """The version of Keras that a layer is of."""
    roots = {base.__module__.partition(".")[0] for base in type(layer).__mro__}
    return str(sys.modules["keras"].__version__) if "keras" in roots else "2"


def _check(layers: list[RunLayer], cells: Cells, name: str) -> None:
    """Raises unless a run's layers are those of cells that a configuration describes."""
    expected = layers_of(cells)
    directions = [layer.direction for layer in layers]
    found: list[str] = []
    if directions != [layer.direction for layer in expected]:
        found = [f"{len(expected)} cells, not {len(layers)}"]
    for layer, right in zip(layers, expected, strict=False):
        wanted, got = _options(right.cell), _options(layer.cell)
        found += [f"{x} {wanted[x]}, not {got.get(x)}" for x in wanted if wanted[x] != got.get(x)]
    if found:
        raise ValueError(
            f"cells: layer {name!r} has, by its configuration, {', '.join(found)}; expected "
            f"{code(cells)}, got {', '.join(code(layer.cell) for layer in layers)}"
        )


def _options(cell: Any) -> dict[str, Any]:
    """What a configuration says of a cell, by Keras's names."""
    kind = family(cell)
    options = {"class": {"gru": "GRU", "cudnn_gru": "GRU"}.get(kind, kind), "units": units_of(cell)}
    options["activation"] = _name(activation_of(cell))
    if kind != "rnn":
        options["recurrent_activation"] = _name(recurrent_activation_of(cell))
    if options["class"] == "GRU":
        options["reset_after"] = kind == "cudnn_gru"
    if kind == "conv_lstm":
        options |= {"kernel_size": cell.kernel_shape, "use_bias": cell.use_bias}
    return options


def _name(function: Any) -> Any:
    """A function as code, so that two of one name differ, and two equal partials do not."""
    if isinstance(function, functools.partial):
        return code(function)
    return (
        f"{function.__module__}.{function.__name__}" if hasattr(function, "__name__") else function
    )
