"""The backward kernel."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from ...devices import Device
from .arrays import (
    BACKWARD_PLACES,
    BackwardArguments,
    BackwardResults,
    BackwardScratch,
    backward_types,
)
from .launch import Block, as_arrays, clear, copy, joined, launch, slices_of, where
from .sizes import LANES, Sizes


def backward(sizes: Sizes, device: Device) -> Any:
    """The kernel, a function `(counts, BackwardArguments)` -> `BackwardResults`."""
    types = backward_types(sizes)
    descending = not sizes.reverse
    return launch(sizes, device, _run_block, types, BACKWARD_PLACES, descending)


def _run_block(
    block: Block, given: BackwardArguments, results: BackwardResults, scratch: BackwardScratch
) -> None:
    from jax.experimental import pallas

    def begin_tile():
        copy(given.d_final, results.d_state)
        clear((results.d_start, results.d_vectors))

    def run():
        _recompute(block, given, scratch)
        _run_steps(block, given, results, scratch)
        _add_gradients(block, given, results, scratch)

    sums = results.d_kernel, results.d_projection, results.d_biases
    pallas.when(block.is_first_of_all)(functools.partial(clear, sums))
    pallas.when(block.is_first)(begin_tile)
    pallas.when(block.is_run)(run)
    pallas.when(jnp.logical_not(block.is_run))(lambda: clear(results.d_inputs))


def _recompute(block: Block, given: BackwardArguments, scratch: BackwardScratch) -> None:
    """The products and the projected inputs of all steps of a block, as matmuls."""
    sizes, weights = block.sizes, given.weights
    hidden = given.states[sizes.step.hidden]
    is_dense, adds = sizes.projection is not None, sizes.step.only_adds_product
    if is_dense:
        projected = [scratch.products] if adds else scratch.projected
        for kernel, bias, result in zip(weights.projection, weights.biases, projected, strict=True):
            block.multiply_steps([(given.inputs[0], kernel)], result, plus=bias)
    block.multiply_steps([(hidden, weights.kernel)], scratch.products, adds=is_dense and adds)


def _run_steps(
    block: Block, given: BackwardArguments, results: BackwardResults, scratch: BackwardScratch
) -> None:
    sizes, step = block.sizes, block.sizes.step
    is_dense, adds = sizes.projection is not None, step.only_adds_product
    vectors = block.vectors(given.weights.vectors)
    vjp = jax.jit(step.vjp, inline=True)  # traced once for all slices and steps
    none = jnp.zeros((sizes.rows, LANES), jnp.float32)

    def projected_and_products(k, u):
        products = block.load_gates(scratch.products, k, u, step.gates)
        if is_dense and adds:  # the sum of both
            return [products], [none] * step.gates
        refs = scratch.projected if is_dense else given.inputs
        pairs = zip(refs, step.projected, strict=True)
        return [block.load_gates(ref, k, u, n) for ref, n in pairs], products

    def slice_step(k, u, valid, d_new):
        """The cotangents of the state of slice `u`, and of the product."""
        projected, products = projected_and_products(k, u)
        state = [block.load_gates(ref, k, u, 1)[0] for ref in given.states]
        d_outputs = [
            [where(valid, d) for d in block.load_gates(ref, k, u, n)]
            for ref, n in zip(given.d_outputs, step.outputs, strict=True)
        ]
        found = vjp(vectors[u], projected, state, products, d_outputs, d_new)
        found = as_arrays(found, sizes.rows)
        # Derivatives of steps that are not valid may be NaN.
        found = jax.tree.map(functools.partial(where, valid), found)
        d_vectors, d_projected, d_state, d_products = found
        for ref, ds in zip(results.d_vectors, d_vectors, strict=True):
            for g, d in enumerate(ds):
                ref[:, sizes.columns(u, len(ds), g)] += d
        refs = scratch.d_projected if is_dense else results.d_inputs
        if not (is_dense and adds):
            for ref, ds in zip(refs, d_projected, strict=True):
                block.store_gates(ref, k, u, ds)
        block.store_gates(scratch.d_products, k, u, d_products)
        if scratch.hidden:
            block.store_gates(scratch.hidden[0], k, u, [where(valid, state[step.hidden])])
        return d_state, joined(d_products).astype(sizes.dtype)

    def one_step(k, d_state):
        valid, reset = block.masks(given.masks, k)
        if scratch.inputs:
            for u in range(sizes.features // LANES):
                (x,) = block.load_gates(given.inputs[0], k, u, 1)
                block.store_gates(scratch.inputs[0], k, u, [where(valid, x)])
        d_new = jax.tree.map(functools.partial(where, valid), d_state)
        d_old: list[Any] = [[] for _ in d_state]
        d_hidden = None
        for u in range(sizes.slices):
            of_slice, d_product = slice_step(k, u, valid, [d[u] for d in d_new])
            for slices, d in zip(d_old, of_slice, strict=True):
                slices.append(d)
            rows = sizes.gates_of(u, step.gates)
            through = block.dot(d_product, given.kernel_transposed[rows])
            d_hidden = through if d_hidden is None else d_hidden + through
        assert d_hidden is not None
        d_old[step.hidden] = [
            d + through for d, through in zip(d_old[step.hidden], slices_of(d_hidden), strict=True)
        ]
        if valid is not None:  # elsewhere the state stood still
            stood = jax.tree.map(lambda d: jnp.where(valid, jnp.zeros_like(d), d), d_state)
            d_old = jax.tree.map(jnp.add, d_old, stood)
        if reset is not None:
            for ref, slices in zip(results.d_start, d_old, strict=True):
                ref[...] += joined([where(reset, d) for d in slices])
            d_old = jax.tree.map(lambda d: jnp.where(reset, jnp.zeros_like(d), d), d_old)
        return d_old

    d_state = block.run_steps(one_step, [slices_of(ref[...]) for ref in results.d_state])
    for ref, slices in zip(results.d_state, d_state, strict=True):
        ref[...] = joined(slices)


def _add_gradients(
    block: Block, given: BackwardArguments, results: BackwardResults, scratch: BackwardScratch
) -> None:
    """The gradients of weights and inputs, of all steps of a block as matmuls."""
    sizes = block.sizes
    hidden = scratch.hidden or [given.states[sizes.step.hidden]]
    block.add_gradient(hidden[0], scratch.d_products, results.d_kernel)
    if sizes.projection is None:
        return
    (inputs,) = scratch.inputs or given.inputs
    d_projected = [scratch.d_products] if sizes.step.only_adds_product else scratch.d_projected
    for d, d_kernel, d_bias in zip(
        d_projected, results.d_projection, results.d_biases, strict=True
    ):
        block.add_gradient(inputs, d, d_kernel)
        block.add_sum(d, d_bias)
    pairs = list(zip(d_projected, given.projection_transposed, strict=True))
    block.multiply_steps(pairs, results.d_inputs[0])
