"""What both kernels have in common: how they are launched, how the recurrent matrix is loaded into
shared memory, and how warpgroups exchange arrays.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ...._tools import filled_like
from ...._types import DTypeLike, Index, Ref
from ..layout import round_up
from ..step import Step
from . import cluster, mosaic
from .indexing import Position, Sizes, num_terms, operand_dtype
from .mosaic import ROWS, UNITS


class SharedMemory(NamedTuple):
    """The shared memory and the barriers of a thread block."""

    exchange_barrier: Any
    """Where there is one block in a cluster."""
    matrix_barrier: Any
    exchanged: Any
    """Two buffers for what the warpgroups exchange, used in alternate iterations."""
    matrix: Any
    """The block's part of the recurrent matrix."""
    cluster_barriers: Any = None
    """Where there are several blocks in a cluster."""


def launch(
    sizes: Sizes, body: Callable[..., Any], result_types: Any, num_exchanged: int
) -> Callable[..., Any]:
    """The kernel of `body(arguments, results, shared)`, as a function of `arguments`.

    Args:
        sizes: what it is compiled for.
        body: the program of a warpgroup; arguments and results are pytrees of references.
        result_types: pytree of shapes and dtypes.
        num_exchanged: how many arrays a warpgroup sends to all others in each iteration.
    """
    from jax.experimental.pallas import mosaic_gpu

    flat, structure = jax.tree.flatten(result_types)
    local, gates = sizes.warpgroups_of_a_block, sizes.step.gates
    # Each copy into shared memory arrives once at its barrier, whatever its size.
    copies = local * sizes.terms * gates * sizes.warpgroups
    barriers = tuple(mosaic_gpu.Barrier(num_arrivals=n) for n in (local, copies))
    is_cluster = sizes.cluster > 1
    grid = {"cluster": (sizes.cluster,), "cluster_names": ("block",)} if is_cluster else {}
    matrix = local, sizes.terms, gates, sizes.warpgroups, UNITS, UNITS
    exchanged = 2, num_exchanged, sizes.warpgroups, UNITS, sizes.terms * ROWS
    scratch = tuple(mosaic.tiled(*s, dtype=sizes.operand_dtype) for s in (exchanged, matrix))
    if is_cluster:
        scratch += (mosaic_gpu.SMEM(**cluster.BARRIERS),)

    def call(arguments):
        leaves, arguments_structure = jax.tree.flatten(arguments)

        def kernel(*refs):
            given, rest = refs[: len(leaves)], refs[len(leaves) :]
            results, memory = structure.unflatten(rest[: len(flat)]), rest[len(flat) :]
            shared = SharedMemory(*memory[1], *memory[0])
            if is_cluster:
                cluster.begin(shared.cluster_barriers, local)
            body(arguments_structure.unflatten(given), results, shared)
            if is_cluster:
                cluster.end(shared.cluster_barriers)

        run = mosaic_gpu.kernel(
            kernel,
            out_type=flat,
            scratch_types=(scratch, barriers),
            grid=(sizes.tiles,),
            grid_names=("tile",),
            num_threads=local,
            thread_name="warpgroup",
            **grid,
            **mosaic.options(sizes.dtype),
        )
        return structure.unflatten(run(*leaves))

    return call


def batched_by_vmap(
    make: Callable[[Sizes], Callable[..., Any]], sizes: Sizes
) -> Callable[..., Any]:
    """The kernel that `make` makes, which `vmap` launches once for all problems.

    Its arguments are a NamedTuple with the fields `matrix` `[groups, ...]`, `projected`, and
    `vectors`, which groups may share, and others; the last axis of all but `matrix` is that of the
    rows.
    """

    @jax.custom_batching.custom_vmap
    def run(arguments):
        return make(sizes)(arguments)

    @run.def_vmap
    def _(size, is_mapped, arguments):
        (is_mapped,) = is_mapped
        of_params = is_mapped.matrix, is_mapped.vectors
        shares_params = sizes.groups == 1 and not any(jax.tree.leaves(of_params))

        def mapped(x, flag):
            return x if flag else jnp.broadcast_to(x, (size, *x.shape))

        every = jax.tree.map(mapped, arguments, is_mapped)
        wide = jax.tree.map(_side_by_side, every._replace(matrix=None))
        if shares_params:
            wide = wide._replace(matrix=arguments.matrix, vectors=arguments.vectors)
        else:
            wide = wide._replace(matrix=every.matrix.reshape(-1, *every.matrix.shape[2:]))
        groups = 1 if shares_params else size * sizes.groups
        wider = dataclasses.replace(sizes, batch=size * sizes.batch, groups=groups)
        wider = dataclasses.replace(
            wider, cluster=cluster_size(sizes.step, sizes.dtype, wider.tiles)
        )
        results = batched_by_vmap(make, wider)(wide)

        def split_problems(x):
            return jnp.moveaxis(x.reshape(*x.shape[:-1], size, -1), -2, 0)

        results = jax.tree.map(split_problems, results)
        return results, filled_like(True, results)

    return run


def _side_by_side(x: jax.Array) -> jax.Array:
    """`[n, ..., B]` -> `[..., n B]`."""
    return jnp.moveaxis(x, 0, -2).reshape(*x.shape[1:-1], -1)


def shared_bytes(step: Step, dtype: DTypeLike, cluster: int) -> int:
    """The shared memory that a thread block needs, of the kernel that needs more."""
    units = round_up(step.units, UNITS)
    matrix = step.gates * units**2 // cluster
    exchanged = 2 * ROWS * units * step.gates
    return 2 * num_terms(dtype) * (matrix + exchanged) + 64 * (2 + units // UNITS)


def cluster_size(step: Step, dtype: DTypeLike, tiles: int) -> int | None:
    """The thread blocks of a cluster that has room for the recurrent matrix; `None`: none has.

    The most for which there are SMs, since warpgroups of one SM share its matrix unit.
    """
    warpgroups = round_up(step.units, UNITS) // UNITS
    sizes = [
        size
        for size in range(1, mosaic.max_cluster() + 1)
        if warpgroups % size == 0
        and warpgroups // size <= mosaic.MAX_WARPGROUPS
        and shared_bytes(step, dtype, size) <= mosaic.SHARED_MEMORY
    ]
    at_once = [size for size in sizes if tiles * size <= mosaic.NUM_SMS]
    return max(at_once, default=min(sizes, default=None))


def matrix_tiles(matrix: jax.Array, transposed: bool) -> jax.Array:
    """`[H, Z]` -> `[warpgroup, term, gate, other warpgroup, UNITS, UNITS]`.

    The forward kernel takes it transposed: each warpgroup has the units that its products are of.
    The backward kernel does not: each warpgroup has the units that are multiplied.
    """
    units, width = matrix.shape
    warpgroups = units // UNITS
    tiles = matrix.reshape(warpgroups, UNITS, width // units, warpgroups, UNITS)
    tiles = tiles.transpose((3, 2, 0, 4, 1) if transposed else (0, 2, 3, 1, 4))
    if num_terms(matrix.dtype) == 1:
        return tiles[:, None]
    high = jax.lax.reduce_precision(tiles, 8, 7)  # XLA drops a conversion there and back
    return jnp.stack([high, tiles - high], 1).astype(operand_dtype(matrix.dtype))


def load_matrix(position: Position, ref: Ref, shared: SharedMemory) -> None:
    """Loads the warpgroup's part of the recurrent matrix into shared memory."""
    from jax.experimental.pallas import mosaic_gpu

    sizes = position.sizes
    for where in itertools.product(*map(range, (sizes.terms, sizes.step.gates, sizes.warpgroups))):
        source = ref.at[(position.group, position.warpgroup, *where)]
        target = shared.matrix.at[(position.in_block, *where)]
        mosaic_gpu.copy_gmem_to_smem(source, target, shared.matrix_barrier)
    mosaic_gpu.barrier_wait(shared.matrix_barrier)


def exchange(
    position: Position, iteration: jax.Array, xs: list[jax.Array], shared: SharedMemory
) -> None:
    """Sends the arrays `xs` to all warpgroups, for the products of this iteration.

    The terms of each array are side by side, in one of two buffers: once all warpgroups have the
    arrays of an iteration, all have read those of the one before.
    """
    from jax.experimental.pallas import mosaic_gpu

    refs, sizes = [], position.sizes
    for i, rest in enumerate(xs):
        refs.append(shared.exchanged.at[_buffer(iteration), i, position.warpgroup])
        for term in range(sizes.terms):
            value = rest.astype(sizes.operand_dtype)
            refs[-1][:, position.slice(term * ROWS, ROWS)] = value
            rest = rest - value.astype(jnp.float32)
    mosaic_gpu.commit_smem()  # makes it visible to matrix instructions, and to copies
    if sizes.cluster == 1:
        mosaic_gpu.barrier_arrive(shared.exchange_barrier)
        mosaic_gpu.barrier_wait(shared.exchange_barrier)
    else:
        cluster.exchange(refs, shared.cluster_barriers, iteration, sizes.cluster)


def operand_pairs(
    position: Position, iteration: jax.Array, gate: int, i: int, shared: SharedMemory
) -> list[tuple[Any, Any]]:
    """The pairs whose products sum up to a gate of the matrix times the exchanged array `i`."""
    sizes, exchanged = position.sizes, shared.exchanged.at[_buffer(iteration), i]
    return [
        (shared.matrix.at[position.in_block, term, gate, j], exchanged.at[j])
        for j in range(sizes.warpgroups)
        for term in range(sizes.terms)
    ]


def _buffer(iteration: Index) -> Any:
    return jax.lax.rem(iteration, jnp.int32(2))
