"""What both kernels have: how they start, how the recurrent matrix comes onto the chip, how
warpgroups meet.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from . import cluster, mosaic
from .mosaic import ROWS, UNITS
from .place import Place, Sizes, operands, pieces, whole
from .step import Step


def launch(sizes: Sizes, body: Callable, shapes: Any, handed: int) -> Callable:
    """The kernel of `body(*arguments, results, shared, barriers)`, of pytrees of references.

    `handed`: how many arrays a warpgroup hands to all others after each step.
    """
    from jax.experimental.pallas import mosaic_gpu

    flat, structure = jax.tree.flatten(shapes)
    copies = sizes.local * sizes.pieces * sizes.step.gates * sizes.parts
    arrivals = {"all": sizes.local, "matrix": copies}
    barriers = {name: mosaic_gpu.Barrier(num_arrivals=n) for name, n in arrivals.items()}
    several = sizes.blocks > 1
    grid = {"cluster": (sizes.blocks,), "cluster_names": ("block",)} if several else {}
    shape = sizes.local, sizes.pieces, sizes.step.gates, sizes.parts, UNITS, UNITS
    columns = sizes.pieces * ROWS
    scratch = {
        "matrix": mosaic.tiled(*shape, dtype=sizes.operands),
        "handed": mosaic.tiled(2, handed, sizes.parts, UNITS, columns, dtype=sizes.operands),
    }
    scratch |= {"turns": mosaic_gpu.SMEM(**cluster.BARRIERS)} if several else {}

    def call(*arguments):
        leaves, arguments_structure = jax.tree.flatten(arguments)

        def kernel(*refs):
            given, rest = refs[: len(leaves)], refs[len(leaves) :]
            results = structure.unflatten(rest[: len(flat)])
            shared, met = rest[len(flat) :]
            if several:
                cluster.begin(shared["turns"], sizes.local)
            body(*arguments_structure.unflatten(given), results, shared, met)
            if several:
                cluster.end(shared["turns"])

        run = mosaic_gpu.kernel(
            kernel,
            out_type=flat,
            scratch_types=(scratch, barriers),
            grid=(sizes.tiles,),
            grid_names=("tile",),
            num_threads=sizes.local,
            thread_name="part",
            **grid,
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
        blocks = blocks_for(sizes.step, sizes.dtype, wider.tiles)
        wider = dataclasses.replace(wider, blocks=blocks)
        results = together(make, wider)(matrix, projected, vectors, *rest)
        apart = lambda x: jnp.moveaxis(x.reshape(*x.shape[:-1], size, -1), -2, 0)  # noqa: E731
        return jax.tree.map(apart, results), jax.tree.map(lambda _: True, results)

    return run


def _side_by_side(x: jax.Array) -> jax.Array:
    """`[n, ..., B]` -> `[..., n B]`."""
    return jnp.moveaxis(x, 0, -2).reshape(*x.shape[1:-1], -1)


def shared_bytes(step: Step, dtype: Any, blocks: int) -> int:
    """Of shared memory, which a block of the greater of both kernels wants."""
    units = whole(step.units, UNITS)
    matrix = step.gates * units**2 // blocks
    handed = 2 * ROWS * units * step.gates
    return 2 * pieces(dtype) * (matrix + handed) + 64 * (2 + units // UNITS)


def blocks_for(step: Step, dtype: Any, tiles: int) -> int | None:
    """Of a cluster that has room for the recurrent matrix; `None`: none has.

    Most of those for which there are multiprocessors: warpgroups of one share its matrix unit.
    """
    parts = whole(step.units, UNITS) // UNITS
    found = [
        blocks
        for blocks in range(1, mosaic.BLOCKS + 1)
        if parts % blocks == 0
        and parts // blocks <= mosaic.WARPGROUPS
        and shared_bytes(step, dtype, blocks) <= mosaic.SHARED
    ]
    at_once = [blocks for blocks in found if tiles * blocks <= mosaic.MULTIPROCESSORS]
    return max(at_once, default=min(found, default=None))


def cut(matrix: jax.Array, transposed: bool) -> jax.Array:
    """`[H, Z]` -> `[part, piece, gate, other part, UNITS, UNITS]`.

    `forward` takes it transposed: of each part the units that its products are of. `backward` does
    not: of each part the units that are multiplied.
    """
    units, width = matrix.shape
    parts = units // UNITS
    apart = matrix.reshape(parts, UNITS, width // units, parts, UNITS)
    apart = apart.transpose((3, 2, 0, 4, 1) if transposed else (0, 2, 3, 1, 4))
    if pieces(matrix.dtype) == 1:
        return apart[:, None]
    high = jax.lax.reduce_precision(apart, 8, 7)  # XLA drops conversions there and back
    return jnp.stack([high, apart - high], 1).astype(operands(matrix.dtype))


def bring_matrix(place: Place, ref: Any, shared: Any, barrier: Any) -> None:
    """Into shared memory, by each warpgroup its part."""
    from jax.experimental.pallas import mosaic_gpu

    sizes = place.sizes
    for where in itertools.product(*map(range, (sizes.pieces, sizes.step.gates, sizes.parts))):
        source = ref.at[(place.group, place.part, *where)]
        mosaic_gpu.copy_gmem_to_smem(source, shared.at[(place.here, *where)], barrier)
    mosaic_gpu.barrier_wait(barrier)


def hand_over(place: Place, turn: Any, xs: list[jax.Array], shared: Any, met: Any) -> None:
    """The arrays `xs`, to all warpgroups, for the products of this turn.

    Each array's pieces lie side by side, in the one of two buffers: where all have the arrays of a
    turn, all have read those of the turn before.
    """
    from jax.experimental.pallas import mosaic_gpu

    refs, sizes = [], place.sizes
    for i, rest in enumerate(xs):
        refs.append(shared["handed"].at[_buffer(turn), i, place.part])
        for piece in range(sizes.pieces):
            value = rest.astype(sizes.operands)
            refs[-1][:, place.slice(piece * ROWS, ROWS)] = value
            rest = rest - value.astype(jnp.float32)
    mosaic_gpu.commit_smem()  # seen by matrix instructions, and by copies
    if sizes.blocks == 1:
        mosaic_gpu.barrier_arrive(met["all"])
        mosaic_gpu.barrier_wait(met["all"])
    else:
        cluster.send(refs, shared["turns"], turn, sizes.blocks)


def factors(place: Place, turn: Any, gate: int, i: int, shared: Any) -> list[tuple[Any, Any]]:
    """Of a gate of the matrix and the `i`-th array of a turn: pairs whose products are added."""
    sizes, handed = place.sizes, shared["handed"].at[_buffer(turn), i]
    return [
        (shared["matrix"].at[place.here, piece, gate, j], handed.at[j])
        for j in range(sizes.parts)
        for piece in range(sizes.pieces)
    ]


def _buffer(turn: Any) -> Any:
    return jax.lax.rem(turn, jnp.int32(2))
