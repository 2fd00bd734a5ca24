"""What both kernels have: how they start, how the recurrent matrix comes onto the chip, how
warpgroups meet.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from . import mosaic
from .mosaic import ROWS, UNITS
from .place import Place, Sizes, whole
from .step import Step


def launch(sizes: Sizes, body: Callable, shapes: Any, scratch: dict) -> Callable:
    """The kernel of `body(*arguments, results, shared, barriers)`, of pytrees of references."""
    from jax.experimental.pallas import mosaic_gpu

    flat, structure = jax.tree.flatten(shapes)
    barriers = {
        "all": mosaic_gpu.Barrier(num_arrivals=sizes.parts),
        "matrix": mosaic_gpu.Barrier(num_arrivals=sizes.step.gates * sizes.parts**2),
    }

    def call(*arguments):
        leaves, arguments_structure = jax.tree.flatten(arguments)

        def kernel(*refs):
            given, rest = refs[: len(leaves)], refs[len(leaves) :]
            results = structure.unflatten(rest[: len(flat)])
            body(*arguments_structure.unflatten(given), results, *rest[len(flat) :])

        run = mosaic_gpu.kernel(
            kernel,
            out_type=flat,
            scratch_types=(scratch, barriers),
            grid=(sizes.tiles,),
            grid_names=("tile",),
            num_threads=sizes.parts,
            thread_name="part",
            **mosaic.options(sizes.dtype),
        )
        return structure.unflatten(run(*leaves))

    return call


def together(make: Callable[[Sizes], Callable], sizes: Sizes) -> Callable:
    """The kernel that `make` makes, of which `vmap` launches one for all problems.

    Its arguments are the recurrent matrix, `[groups, ...]`, then `projected` and `vectors`, where
    groups may share theirs, and others; the last axis of all but the first has the rows.
    """
    run = jax.custom_batching.custom_vmap(lambda *arguments: make(sizes)(*arguments))

    @run.def_vmap
    def _(size, batched, *arguments):
        shared = sizes.groups == 1 and not any(jax.tree.leaves((batched[0], batched[2])))
        every = jax.tree.map(
            lambda x, mapped: x if mapped else jnp.broadcast_to(x, (size, *x.shape)),
            arguments, tuple(batched),
        )  # fmt: skip
        matrix, projected, vectors, *rest = every
        if shared:
            matrix, vectors = arguments[0], arguments[2]
        else:
            matrix = matrix.reshape(-1, *matrix.shape[2:])
            vectors = jax.tree.map(_side_by_side, vectors)
        projected, *rest = jax.tree.map(_side_by_side, (projected, *rest))
        groups = 1 if shared else size * sizes.groups
        wider = dataclasses.replace(sizes, batch=size * sizes.batch, groups=groups)
        results = together(make, wider)(matrix, projected, vectors, *rest)
        apart = lambda x: jnp.moveaxis(x.reshape(*x.shape[:-1], size, -1), -2, 0)  # noqa: E731
        return jax.tree.map(apart, results), jax.tree.map(lambda _: True, results)

    return run


def _side_by_side(x: jax.Array) -> jax.Array:
    """`[n, ..., B]` -> `[..., n B]`."""
    return jnp.moveaxis(x, 0, -2).reshape(*x.shape[1:-1], -1)


def shared_bytes(step: Step, dtype: Any) -> int:
    """Of shared memory, which the greater of both kernels wants."""
    size, units = jnp.dtype(dtype).itemsize, whole(step.units, UNITS)
    matrix = step.gates * units**2
    handed = ROWS * units * max(2, step.gates)
    return size * (matrix + handed) + 64 * (2 + units // UNITS)


def blocks(matrix: jax.Array) -> jax.Array:
    """`[H, Z]` -> `[part, gate, part before, UNITS, UNITS]`, transposed: what `forward` takes."""
    units, width = matrix.shape
    parts = units // UNITS
    return matrix.reshape(parts, UNITS, width // units, parts, UNITS).transpose(3, 2, 0, 4, 1)


def blocks_transposed(matrix: jax.Array) -> jax.Array:
    """`[H, Z]` -> `[part before, gate, part, UNITS, UNITS]`, of what `backward` takes."""
    units, width = matrix.shape
    parts = units // UNITS
    return matrix.reshape(parts, UNITS, width // units, parts, UNITS).transpose(0, 2, 3, 1, 4)


def bring_matrix(place: Place, ref: Any, shared: Any, barrier: Any, gates: int) -> None:
    """Into shared memory, by each warpgroup its part `[gates, parts, UNITS, UNITS]`."""
    from jax.experimental.pallas import mosaic_gpu

    for g in range(gates):
        for j in range(place.sizes.parts):
            source = ref.at[place.group, place.part, g, j]
            mosaic_gpu.copy_gmem_to_smem(source, shared.at[place.part, g, j], barrier)
    mosaic_gpu.barrier_wait(barrier)


def meet(barrier: Any) -> None:
    """All warpgroups wait for each other; what they wrote to shared memory is seen by all."""
    from jax.experimental.pallas import mosaic_gpu

    mosaic_gpu.commit_smem()
    mosaic_gpu.barrier_arrive(barrier)
    mosaic_gpu.barrier_wait(barrier)
