"""The arrays that the kernels read and write, and the place of each in a block.

`Z` is the number of columns of the recurrent matrix, `D` that of the inputs, `U` that of one gate;
`k` gates of one array are `k U` columns. Fields that are lists have an array for each leaf, or none
where the kernel has no use for them.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .sizes import LANES, Sizes

STEPS = "steps"
"""`[T, B, ...]`: the steps of a block, of the rows of a tile."""
ROWS = "rows"
"""`[B, ...]`: the rows of a tile, for all of its steps."""
WHOLE = "whole"
"""The same for all tiles and steps."""


class Weights(NamedTuple):
    """What does not change."""

    kernel: Any
    """The recurrent matrix, `[U, Z]`."""
    projection: Any
    """`[D, k U]`, where the kernel projects the inputs."""
    biases: Any
    """float32 `[1, k U]`, with them."""
    vectors: Any
    """float32 `[1, k U]`."""


class Masks(NamedTuple):
    """Which steps are valid, and before which the state is reset."""

    ends: Any
    """int32 `[B, LANES]`: the steps of each row up to its last valid one."""
    flags: Any
    """int32 `[T, B, LANES]`."""


class ForwardArguments(NamedTuple):
    weights: Weights
    inputs: Any
    """`[T, B, D]`, or the projected inputs, `[T, B, k U]`."""
    state: Any
    """float32 `[B, U]`."""
    start: Any
    """float32 `[B, U]`, where the state may be reset."""
    masks: Masks


class ForwardResults(NamedTuple):
    outputs: Any
    """`[T, B, k U]`."""
    final: Any
    """float32 `[B, U]`. Between blocks: the state."""
    states: Any
    """`[T, B, U]`: what each step began with, if it is saved."""


class ForwardScratch(NamedTuple):
    projected: Any
    """float32 `[K, b, k U]`, where the kernel projects the inputs."""


class BackwardArguments(NamedTuple):
    weights: Weights
    kernel_transposed: Any
    projection_transposed: Any
    inputs: Any
    states: Any
    d_outputs: Any
    d_final: Any
    masks: Masks


class BackwardResults(NamedTuple):
    d_inputs: Any
    """Of the inputs, or of the projected inputs."""
    d_state: Any
    """float32 `[B, U]`. Between blocks: the cotangents of the state."""
    d_start: Any
    d_vectors: Any
    """float32 `[B, k U]`: the sums over time."""
    d_kernel: Any
    """float32, as all sums over rows and time."""
    d_projection: Any
    d_biases: Any


class BackwardScratch(NamedTuple):
    products: Any
    """float32 `[K, b, Z]`: `h R`, with the projected inputs where the step only adds the two."""
    projected: Any
    """float32, where the kernel projects the inputs and the step does not only add them."""
    d_products: Any
    d_projected: Any
    inputs: Any
    """Without what is not valid, where anything is not."""
    hidden: Any
    """Likewise."""


class Arrays(NamedTuple):
    """All arrays of a kernel, or their types."""

    arguments: Any
    results: Any
    scratch: Any


WEIGHTS_PLACES = Weights(WHOLE, WHOLE, WHOLE, WHOLE)
MASKS_PLACES = Masks(ROWS, STEPS)
FORWARD_PLACES = Arrays(
    ForwardArguments(WEIGHTS_PLACES, STEPS, ROWS, ROWS, MASKS_PLACES),
    ForwardResults(STEPS, ROWS, STEPS),
    None,
)
BACKWARD_PLACES = Arrays(
    BackwardArguments(
        WEIGHTS_PLACES,
        WHOLE,
        WHOLE,
        STEPS,
        STEPS,
        STEPS,
        ROWS,
        MASKS_PLACES,
    ),
    BackwardResults(STEPS, ROWS, ROWS, ROWS, WHOLE, WHOLE, WHOLE),
    None,
)


def forward_types(sizes: Sizes, save: bool) -> Arrays:
    """The types of the arrays of the forward kernel."""
    step, units = sizes.step, sizes.units
    states = [sizes.of_rows(units)] * step.states
    arguments = ForwardArguments(
        _weights(sizes),
        _inputs(sizes),
        states,
        states if sizes.has_flags else [],
        _masks(sizes),
    )
    results = ForwardResults(
        [sizes.over_time(k * units) for k in step.outputs],
        states,
        [sizes.over_time(units)] * step.states if save else [],
    )
    return Arrays(arguments, results, ForwardScratch(_projected(sizes, jnp.float32)))


def backward_types(sizes: Sizes) -> Arrays:
    """The types of the arrays of the backward kernel."""
    step, units, dense = sizes.step, sizes.units, sizes.projection is not None
    z, features = step.gates * units, sizes.features
    states = [sizes.of_rows(units)] * step.states
    arguments = BackwardArguments(
        _weights(sizes),
        sizes.matrix(z, units),
        [sizes.matrix(k * units, features) for k in step.projected] if dense else [],
        _inputs(sizes),
        [sizes.over_time(units)] * step.states,
        [sizes.over_time(k * units) for k in step.outputs],
        states,
        _masks(sizes),
    )

    def sums(rows, counts):
        return [sizes.matrix(rows, k * units, jnp.float32) for k in counts]

    results = BackwardResults(
        _inputs(sizes),
        states,
        states if sizes.has_flags else [],
        [sizes.of_rows(k * units) for k in step.vectors],
        sizes.matrix(units, z, jnp.float32),
        sums(features, step.projected) if dense else [],
        sums(1, step.projected) if dense else [],
    )
    adds, masked = step.only_adds_product, not sizes.all_valid
    scratch = BackwardScratch(
        sizes.of_block(z, jnp.float32),
        [] if adds else _projected(sizes, jnp.float32),
        sizes.of_block(z),
        [] if adds else _projected(sizes),
        [sizes.of_block(features)] if masked and dense else [],
        [sizes.of_block(units)] if masked else [],
    )
    return Arrays(arguments, results, scratch)


def _weights(sizes: Sizes) -> Weights:
    step, units, dense = sizes.step, sizes.units, sizes.projection is not None
    return Weights(
        sizes.matrix(units, step.gates * units),
        [sizes.matrix(sizes.features, k * units) for k in step.projected] if dense else [],
        [sizes.matrix(1, k * units, jnp.float32) for k in step.projected] if dense else [],
        [sizes.matrix(1, k * units, jnp.float32) for k in step.vectors],
    )


def _inputs(sizes: Sizes) -> list[Any]:
    if sizes.projection is not None:
        return [sizes.over_time(sizes.features)]
    return [sizes.over_time(k * sizes.units) for k in sizes.step.projected]


def _projected(sizes: Sizes, dtype: Any = None) -> list[Any]:
    """The projected inputs of a block, where the kernel projects them."""
    if sizes.projection is None:
        return []
    return [sizes.of_block(k * sizes.units, dtype) for k in sizes.step.projected]


def _masks(sizes: Sizes) -> Masks:
    return Masks(
        [] if sizes.all_valid else [sizes.of_rows(LANES, jnp.int32)],
        [sizes.over_time(LANES, jnp.int32)] if sizes.has_flags else [],
    )


def in_block(sizes: Sizes, place: str, x: Any) -> tuple[int, ...]:
    """The shape of what a block has of an array."""
    if place == STEPS:
        return sizes.steps, sizes.rows, x.shape[-1]
    return (sizes.rows, x.shape[-1]) if place == ROWS else x.shape


def vmem_bytes(sizes: Sizes, types: Arrays, places: Arrays) -> int:
    """The vector memory that the arrays of a kernel take.

    What changes from block to block has two buffers: one is copied while the other is in use.
    """
    total = sum(_bytes(x.shape, x.dtype) for x in jax.tree.leaves(types.scratch))
    for place, tree in _by_place(types, places):
        buffers = 1 if place == WHOLE else 2
        for x in jax.tree.leaves(tree):
            total += buffers * _bytes(in_block(sizes, place, x), x.dtype)
    return total


def _by_place(types: Arrays, places: Arrays) -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for of_places, of_types in zip(places[:2], types[:2], strict=True):
        jax.tree.map(lambda place, tree: pairs.append((place, tree)), of_places, of_types)
    return pairs


def _bytes(shape: tuple[int, ...], dtype: Any) -> int:
    return math.prod(shape) * jnp.dtype(dtype).itemsize
