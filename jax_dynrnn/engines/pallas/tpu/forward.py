"""The forward kernel."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from ...devices import Device
from .arrays import (
    FORWARD_PLACES,
    ForwardArguments,
    ForwardResults,
    ForwardScratch,
    forward_types,
)
from .launch import Block, as_arrays, clear, copy, joined, launch, slices_of, where
from .sizes import Sizes


def forward(sizes: Sizes, device: Device, save: bool) -> Any:
    """The kernel, a function `(counts, ForwardArguments)` -> `ForwardResults`."""
    types = forward_types(sizes, save)
    return launch(sizes, device, _run_block, types, FORWARD_PLACES, descending=sizes.reverse)


def _run_block(
    block: Block, given: ForwardArguments, results: ForwardResults, scratch: ForwardScratch
) -> None:
    from jax.experimental import pallas

    pallas.when(block.is_first)(lambda: copy(given.state, results.final))
    pallas.when(block.is_run)(functools.partial(_run_steps, block, given, results, scratch))
    pallas.when(jnp.logical_not(block.is_run))(lambda: clear(results.outputs))


def _run_steps(
    block: Block, given: ForwardArguments, results: ForwardResults, scratch: ForwardScratch
) -> None:
    sizes, weights = block.sizes, given.weights
    step, projected = sizes.step, given.inputs
    if sizes.projection is not None:
        projected = scratch.projected
        for kernel, bias, result in zip(weights.projection, weights.biases, projected, strict=True):
            block.multiply_steps([(given.inputs[0], kernel)], result, plus=bias)
    vectors = block.vectors(weights.vectors)
    start = [slices_of(ref[...]) for ref in given.start]
    run = jax.jit(step.run, inline=True)  # traced once for all slices and steps

    def one_step(k, state):
        valid, reset = block.masks(given.masks, k)
        if reset is not None:
            state = _select(reset, start, state)
        for ref, slices in zip(results.states, state, strict=bool(results.states)):
            for u, x in enumerate(slices):
                block.store_gates(ref, k, u, [x])
        hidden = joined(state[step.hidden]).astype(sizes.dtype)
        new: list[Any] = [[] for _ in state]
        for u in range(sizes.slices):
            product = block.dot(hidden, weights.kernel[:, sizes.gates_of(u, step.gates)])
            gates = [
                block.load_gates(ref, k, u, n)
                for ref, n in zip(projected, step.projected, strict=True)
            ]
            found = run(vectors[u], gates, [s[u] for s in state], slices_of(product))
            outputs, of_slice = as_arrays(found, sizes.rows)
            for ref, output in zip(results.outputs, outputs, strict=True):
                block.store_gates(ref, k, u, [where(valid, y) for y in output])
            for slices, x in zip(new, of_slice, strict=True):
                slices.append(x)
        return new if valid is None else _select(valid, new, state)

    state = block.run_steps(one_step, [slices_of(ref[...]) for ref in results.final])
    for ref, slices in zip(results.final, state, strict=True):
        ref[...] = joined(slices)


def _select(flags: jax.Array, yes: list[Any], no: list[Any]) -> list[Any]:
    """Slice by slice of each leaf."""
    return jax.tree.map(lambda y, n: jnp.where(flags, y, n), yes, no)
