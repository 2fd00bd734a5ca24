"""Converts weights of a framework to params and back: from one layout of a layer to another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..._cell import Params
from ..._types import Cells
from .._code import code
from .blocks import (
    Block,
    Blocks,
    Pieces,
    Sizes,
    join_pieces,
    piece_names,
    reconcile_biases,
    sizes_of,
    split_arrays,
)
from .framework import Framework, check_supported, family
from .layers import RunLayer, flatten, hidden_size, layers_of, nest, units_of


class Format(NamedTuple):
    """One side of a conversion: how its arrays are laid out."""

    what: str
    """The argument that error messages name."""
    owner: str
    """The name of the framework, or of this package."""
    blocks: Callable[[RunLayer], Blocks]
    forget_bias: Callable[[RunLayer], float]
    """What is added to the forget gate at run time."""
    hint: str
    """The advice of an error message where names do not match."""


def import_params(framework: Framework, cells: Cells, weights: Mapping[str, Any]) -> Params:
    """Converts a framework's arrays, by name, to params of the run of `cells`."""
    layers = check_supported(framework, layers_of(cells))
    return nest(_convert(layers, weights, _format_of(framework), OUR_FORMAT))


def export_params(
    framework: Framework, cells: Cells, params: Params, *, biases: bool = True
) -> dict[str, Any]:
    """Converts params of the run of `cells` to a framework's arrays, by name."""
    layers = check_supported(framework, layers_of(cells))
    arrays = _convert(layers, flatten(params), OUR_FORMAT, _format_of(framework))
    return arrays if biases else _without_biases(framework, layers, arrays)


def _without_biases(
    framework: Framework, layers: list[RunLayer], arrays: dict[str, Any]
) -> dict[str, Any]:
    """Removes the optional arrays, for layers without biases, if they are all 0."""
    blocks_by_layer = [framework.blocks(layer) for layer in layers]
    optional = {
        name for blocks in blocks_by_layer for name, block in blocks.items() if block.optional
    }
    wrong = [name for name in arrays if name in optional and np.asarray(arrays[name]).any()]
    if wrong:
        raise ValueError(
            "params: expected biases of 0, and forget_bias=0.0, for layers without biases, got "
            f"other values in {', '.join(wrong)}"
        )
    return {name: array for name, array in arrays.items() if name not in optional}


def shapes(framework: Framework, layer: RunLayer, inputs: int) -> dict[str, tuple[int, ...]]:
    """The shapes of a layer's arrays by name, where it receives `inputs` features."""
    sizes = Sizes(inputs, units_of(layer.cell), hidden_size(layer.cell))
    return {name: sizes.shape(block) for name, block in framework.blocks(layer).items()}


def _format_of(framework: Framework) -> Format:
    """The format of a framework."""
    return Format(
        "weights",
        framework.name,
        framework.blocks,
        lambda layer: framework.forget_bias,
        framework.names_hint,
    )


def _our_blocks(layer: RunLayer) -> Blocks:
    """The params of a layer as blocks, by their path."""
    blocks = {
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
        "conv_lstm": {
            "kernel": Block("input hidden", "igfo"),
            "biases": Block("bias", "igfo"),
        },
    }[family(layer.cell)]
    if not getattr(layer.cell, "use_bias", True):
        del blocks["biases"]
    if getattr(layer.cell, "num_proj", None) is not None:
        blocks |= {"projection/kernel": Block("projection", "p")}
    return layer.with_path(blocks)


OUR_FORMAT = Format(
    "params",
    "jax_dynrnn",
    _our_blocks,
    lambda layer: getattr(layer.cell, "forget_bias", 0.0),
    "the order of arguments is export_params(cells, params)",
)
"""The format of params."""


def _convert(
    layers: list[RunLayer], given: Mapping[str, Any], source: Format, target: Format
) -> dict[str, Any]:
    """Splits the arrays of each layer into pieces, adapts these, and joins them to the target's."""
    blocks_by_layer = [source.blocks(layer) for layer in layers]
    _check_names(source, given, blocks_by_layer)
    arrays = {name: _as_array(name, source, array) for name, array in given.items()}
    result = {}
    sizes = _checked_sizes(source, layers, blocks_by_layer, arrays)
    for layer, blocks, size in zip(layers, blocks_by_layer, sizes, strict=True):
        pieces = reconcile_biases(split_arrays(blocks, arrays, size), target.blocks(layer))
        shift = source.forget_bias(layer) - target.forget_bias(layer)
        # Without a shift nothing is added, so that the conversion is exact.
        if shift and ("bias", "f") in pieces:
            bias = pieces["bias", "f"]
            # A scalar of the same dtype keeps the dtype of the bias.
            pieces["bias", "f"] = bias + bias.dtype.type(shift)
        _check_left_over(layer, pieces, source, target)
        result |= join_pieces(target.blocks(layer), pieces)
    return result


def _check_left_over(layer: RunLayer, pieces: Pieces, source: Format, target: Format) -> None:
    """Refuses to drop pieces that are not 0, such as a second bias that the target lacks."""
    for field, gate in set(pieces) - piece_names(target.blocks(layer)):
        if np.asarray(pieces[field, gate]).any():
            name = next(
                n for n, b in source.blocks(layer).items() if (field, gate) in piece_names({n: b})
            )
            what = "there" if field == "bias" else "to that product with the hidden state"
            raise ValueError(
                f"{source.what}: expected {name} to be 0, since {target.owner} adds no bias "
                f"{what}, got values that are not, for {code(layer.cell)}"
            )


def _check_names(source: Format, given: Mapping[str, Any], blocks_by_layer: list[Blocks]) -> None:
    """Checks that all arrays are given, and no others; a layer may lack all optional ones."""
    expected, needed = [], []
    for blocks in blocks_by_layer:
        optional = [name for name, block in blocks.items() if block.optional]
        has_no_biases = not any(name in given for name in optional)
        expected += blocks
        needed += [name for name in blocks if not (has_no_biases and name in optional)]
    missing = [name for name in needed if name not in given]
    unexpected = [str(name) for name in given if name not in expected]
    if missing or unexpected:
        raise KeyError(
            f"{source.what}: expected {', '.join(expected)} of {source.owner}; missing: "
            f"{', '.join(missing) or 'none'}; unexpected: {', '.join(unexpected) or 'none'}; "
            f"{source.hint}"
        )


def _as_array(name: str, source: Format, given: Any) -> Any:
    """Returns JAX arrays, also traced ones, as they are, and a NumPy copy of all others."""
    if isinstance(given, jax.Array):
        array = given
    else:
        try:
            # A copy: a module that is trained further may change its memory in place.
            array = np.array(np.asarray(given))
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
    source: Format, layers: list[RunLayer], blocks_by_layer: list[Blocks], arrays: Mapping[str, Any]
) -> list[Sizes]:
    """The sizes of each layer, inferred from the arrays; raises where a shape does not fit."""
    sizes: list[Sizes] = []
    for layer, blocks in zip(layers, blocks_by_layer, strict=True):
        size = sizes_of(layer.cell, blocks, arrays)
        inputs = size.inputs if layer.inputs is None else layer.inputs
        # The first backward layer receives the same inputs as the first forward layer.
        if sizes and not layer.depth:
            inputs = sizes[0].inputs
        sizes.append(size._replace(inputs=max(inputs, 1)))
    wrong = [
        _wrong_shapes(layer, blocks, size, arrays)
        for layer, blocks, size in zip(layers, blocks_by_layer, sizes, strict=True)
    ]
    if any(wrong):
        raise ValueError(f"{source.what}: expected {'; '.join(filter(None, wrong))}")
    return sizes


def _wrong_shapes(layer: RunLayer, blocks: Blocks, size: Sizes, arrays: Mapping[str, Any]) -> str:
    """Lists the arrays of a layer that have another shape; empty if none has."""
    wrong = [
        f"{name} of shape {size.shape(block)}, got {arrays[name].shape}"
        for name, block in blocks.items()
        if name in arrays and arrays[name].shape != size.shape(block)
    ]
    where = f", for {code(layer.cell)} on inputs of size {size.inputs}"
    return ", ".join(wrong) + where if wrong else ""
