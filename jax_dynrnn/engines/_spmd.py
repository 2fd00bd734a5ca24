"""What `vmap` and a batch spread over devices make of a function with loops of dynamic length."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding, PartitionSpec

NONE, SUM = -1, -2
"""In place of the axis that the batch is: there is none; the rows' results are added."""


def one_at_a_time(f: Callable, together: Callable | None = None) -> Callable:
    """`f` of pytrees, which `vmap` runs in a loop.

    A loop of dynamic length under `vmap` goes on until the longest is done, and then each
    iteration selects between whole buffers. Where all problems share the params of a call, they
    are like more rows: `together`, equal to `f`, which `vmap` may take apart, runs them at once.
    """
    function = jax.custom_batching.custom_vmap(f)

    @function.def_vmap
    def _(size, batched, *arguments):
        flags = jax.tree.leaves(batched)
        if together is not None and not any(jax.tree.leaves(batched[0].params)):
            axes = jax.tree.map(lambda mapped: 0 if mapped else None, batched)
            out = jax.vmap(together, axes, axis_size=size)(*arguments)
            return out, jax.tree.map(lambda _: True, out)
        leaves, structure = jax.tree.flatten(arguments)

        def one(mapped):
            rest = iter(mapped)
            every = [next(rest) if b else x for x, b in zip(leaves, flags, strict=True)]
            return function(*structure.unflatten(every))

        out = jax.lax.map(one, [x for x, b in zip(leaves, flags, strict=True) if b])
        return out, jax.tree.map(lambda _: True, out)

    return function


def by_rows(f: Callable, in_axes: Callable, out_axes: Callable) -> Callable:
    """`f` of pytrees, of which every device computes the rows that it has.

    `in_axes(*arguments)` and `out_axes(result)` say which axis of each array the batch is, or
    `NONE`, or of a result `SUM`.
    """

    def flat(structure, *leaves):
        return jax.tree.leaves(f(*structure.unflatten(leaves)))

    def function(*arguments):
        if jax.device_count() == 1:
            return f(*arguments)
        leaves, structure = jax.tree.flatten(arguments)
        axes = jax.tree.leaves(in_axes(*arguments))
        result = jax.eval_shape(f, *arguments)
        own = jax.tree.leaves(out_axes(result))
        call = custom_partitioning(lambda *leaves: flat(structure, *leaves))

        def partition(mesh, arguments, results):
            names = _names(arguments, axes)

            def local(*leaves):
                out = flat(structure, *leaves)
                return [
                    jax.lax.psum(x, names) if axis == SUM and names is not None else x
                    for x, axis in zip(out, own, strict=True)
                ]

            place = lambda xs, axes: [  # noqa: E731
                NamedSharding(mesh, _spec(len(x.shape), axis, names))
                for x, axis in zip(xs, axes, strict=True)
            ]
            return mesh, local, place(results, own), tuple(place(arguments, axes))

        shapes = [*leaves, *jax.tree.leaves(result)]
        call.def_partition(partition, sharding_rule=_rule(shapes, [*axes, *own], len(leaves)))
        return jax.tree.unflatten(jax.tree.structure(result), call(*leaves))

    return function


def _names(arguments: Any, axes: list[int]) -> Any:
    """The mesh axes that the batch is spread over."""
    # An array that nobody placed has no `spec`.
    specs = [(*getattr(x.sharding, "spec", ()), *(None,) * len(x.shape)) for x in arguments]
    found = [spec[axis] for spec, axis in zip(specs, axes, strict=True) if axis >= 0]
    return next((names for names in found if names is not None), None)


def _spec(rank: int, axis: int, names: Any) -> PartitionSpec:
    return PartitionSpec(*(names if i == axis else None for i in range(rank)))


def _rule(arrays: list, axes: list[int], count: int) -> str:
    """Shardy's rule: the batch is the same everywhere, all other axes are on their own."""
    parts = [
        " ".join("batch" if i == axis else f"f{n}_{i}" for i in range(len(x.shape)))
        for n, (x, axis) in enumerate(zip(arrays, axes, strict=True))
    ]
    return ", ".join(parts[:count]) + " -> " + ", ".join(parts[count:])
