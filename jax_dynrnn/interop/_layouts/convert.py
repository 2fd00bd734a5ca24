"""Weights of a framework to params and back: one conversion between two tables of arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..._cell import Params
from ..._types import Cells
from .._code import code
from .blocks import Block, Pieces, Sizes, Table, read, settled, sizes_of, wanted, write
from .framework import Framework, check, kind
from .layers import Layer, flatten, hidden_size, nest, walk


class Format(NamedTuple):
    """How arrays are laid out on one side of a conversion."""

    what: str
    """What an error calls them."""
    owner: str
    table: Callable[[Layer], Table]
    forget_bias: Callable[[Layer], float]
    """What is added to the forget gate at run time."""
    hint: str
    """What to do where the names are others."""


def import_params(framework: Framework, cells: Cells, weights: Mapping[str, Any]) -> Params:
    """Params of the run of `cells`, of a framework's arrays by name."""
    layers = check(framework, walk(cells))
    return nest(_convert(layers, weights, _theirs(framework), OURS))


def export_params(
    framework: Framework, cells: Cells, params: Params, *, biases: bool = True
) -> dict[str, Any]:
    """A framework's arrays by name, of the params of the run of `cells`."""
    layers = check(framework, walk(cells))
    arrays = _convert(layers, flatten(params), OURS, _theirs(framework))
    return arrays if biases else _without_biases(framework, layers, arrays)


def _without_biases(
    framework: Framework, layers: list[Layer], arrays: dict[str, Any]
) -> dict[str, Any]:
    """What a layer has that was made without biases, if they are all 0."""
    tables = [framework.table(layer) for layer in layers]
    lacking = {name for table in tables for name, block in table.items() if block.optional}
    wrong = [name for name in arrays if name in lacking and np.asarray(arrays[name]).any()]
    if wrong:
        raise ValueError(
            "params: expected biases of 0, and forget_bias=0.0, for layers without biases, got "
            f"other values in {', '.join(wrong)}"
        )
    return {name: array for name, array in arrays.items() if name not in lacking}


def shapes(framework: Framework, layer: Layer, inputs: int) -> dict[str, tuple[int, ...]]:
    """The shapes of a layer's arrays by name, where it receives `inputs` features."""
    sizes = Sizes(inputs, layer.cell.num_units, hidden_size(layer.cell))
    return {name: sizes.shape(block) for name, block in framework.table(layer).items()}


def _theirs(framework: Framework) -> Format:
    return Format(
        "weights",
        framework.name,
        framework.table,
        lambda _: framework.forget_bias,
        framework.names_hint,
    )


def _table(layer: Layer) -> Table:
    table = {
        "lstm": {
            "kernel": Block("input hidden", "igfo"),
            "bias": Block("bias", "igfo"),
        },
        "gru": {
            "gates/kernel": Block("input hidden", "rz"),
            "gates/bias": Block("bias", "rz"),
            "candidate/kernel": Block("input hidden", "n"),
            "candidate/bias": Block("bias", "n"),
        },
        "cudnn_gru": {
            "gates/kernel": Block("input hidden", "rz"),
            "gates/bias": Block("bias", "rz"),
            "candidate/input_projection/kernel": Block("input", "n"),
            "candidate/input_projection/bias": Block("bias", "n"),
            "candidate/hidden_projection/kernel": Block("hidden", "n"),
            "candidate/hidden_projection/bias": Block("hidden_bias", "n"),
        },
        "rnn": {"kernel": Block("input hidden", "h"), "bias": Block("bias", "h")},
    }[kind(layer.cell)]
    if getattr(layer.cell, "num_proj", None) is not None:
        table |= {"projection/kernel": Block("projection", "p")}
    return layer.named(table)


OURS = Format(
    "params",
    "jax_dynrnn",
    _table,
    lambda layer: getattr(layer.cell, "forget_bias", 0.0),
    "the order of arguments is export_params(cells, params)",
)


def _convert(
    layers: list[Layer], given: Mapping[str, Any], source: Format, target: Format
) -> dict[str, Any]:
    tables = [source.table(layer) for layer in layers]
    _check_names(source, given, tables)
    arrays = {name: _as_array(name, source, array) for name, array in given.items()}
    result = {}
    sizes = _checked_sizes(source, layers, tables, arrays)
    for layer, table, size in zip(layers, tables, sizes, strict=True):
        pieces = settled(read(table, arrays, size), target.table(layer))
        shift = source.forget_bias(layer) - target.forget_bias(layer)
        if shift and ("bias", "f") in pieces:  # exact where there is none
            bias = pieces["bias", "f"]
            pieces["bias", "f"] = bias + bias.dtype.type(shift)
        _check_left_over(layer, pieces, source, target)
        result |= write(target.table(layer), pieces)
    return result


def _check_left_over(layer: Layer, pieces: Pieces, source: Format, target: Format) -> None:
    """Refuses to drop what is not zero: the second bias of a candidate, where there is one."""
    for field, gate in set(pieces) - wanted(target.table(layer)):
        if np.asarray(pieces[field, gate]).any():
            name = next(
                n for n, b in source.table(layer).items() if (field, gate) in wanted({n: b})
            )
            raise ValueError(
                f"{source.what}: expected {name} to be 0, since {target.owner} adds no bias to "
                "that product with the hidden state, got values that are not"
            )


def _check_names(source: Format, given: Mapping[str, Any], tables: list[Table]) -> None:
    """Of the arrays that a layer may lack it has all or none."""
    expected, needed = [], []
    for table in tables:
        optional = [name for name, block in table.items() if block.optional]
        lacks = not any(name in given for name in optional)
        expected += table
        needed += [name for name in table if not (lacks and name in optional)]
    missing = [name for name in needed if name not in given]
    unexpected = [str(name) for name in given if name not in expected]
    if missing or unexpected:
        raise KeyError(
            f"{source.what}: expected {', '.join(expected)} of {source.owner}; missing: "
            f"{', '.join(missing) or 'none'}; unexpected: {', '.join(unexpected) or 'none'}; "
            f"{source.hint}"
        )


def _as_array(name: str, source: Format, given: Any) -> Any:
    """JAX's arrays as they are, traced ones too; a copy of all others as NumPy's."""
    if isinstance(given, jax.Array):
        array = given
    else:
        try:
            array = np.array(np.asarray(given))  # a copy: a module that trains on changes its own
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(
                f"{source.what}: expected {name} to be an array, got {type(given).__name__}: "
                f"{error} (of PyTorch give a state_dict(), on the CPU; bfloat16 as "
                "jax.numpy.from_dlpack(tensor))"
            ) from error
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(
            f"{source.what}: expected {name} to be floating, got {type(given).__name__} of "
            f"{array.dtype}"
        )
    return array


def _checked_sizes(
    source: Format, layers: list[Layer], tables: list[Table], arrays: Mapping[str, Any]
) -> list[Sizes]:
    sizes: list[Sizes] = []
    for layer, table in zip(layers, tables, strict=True):
        size = sizes_of(layer.cell, table, arrays)
        inputs = size.inputs if layer.inputs is None else layer.inputs
        if sizes and not layer.depth:  # backward, on the inputs that forward receives
            inputs = sizes[0].inputs
        sizes.append(size._replace(inputs=max(inputs, 1)))
    wrong = [_wrong(*of, arrays) for of in zip(layers, tables, sizes, strict=True)]
    if any(wrong):
        raise ValueError(f"{source.what}: expected {'; '.join(filter(None, wrong))}")
    return sizes


def _wrong(layer: Layer, table: Table, size: Sizes, arrays: Mapping[str, Any]) -> str:
    """The arrays of a layer that have another shape; nothing if none has."""
    wrong = [
        f"{name} of shape {size.shape(block)}, got {arrays[name].shape}"
        for name, block in table.items()
        if name in arrays and arrays[name].shape != size.shape(block)
    ]
    where = f", for {code(layer.cell)} on inputs of size {size.inputs}"
    return ", ".join(wrong) + where if wrong else ""
