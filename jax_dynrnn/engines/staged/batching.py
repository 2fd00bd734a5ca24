"""Batching and partitioning rules for functions whose loops have data-dependent trip counts."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable
from typing import Any

import jax
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding, PartitionSpec

from ..._tools import filled_like


class Rows(enum.IntEnum):
    """In place of a batch axis, for an array without one."""

    NONE = -1
    """The array has no rows: it is the same on every device."""
    SUM = -2
    """The array is a sum over all rows: each device's is added."""


@dataclasses.dataclass(frozen=True)
class RowAxes:
    """Which axis of each array the batch is: an int, or one of `Rows`."""

    arguments: Callable[..., Any]
    """Of the arguments, called with them; a pytree of their structure."""
    results: Callable[[Any], Any]
    """Of the results, called with their shapes."""


def sequential_under_vmap(
    f: Callable[..., Any], batched: Callable[..., Any] | None = None
) -> Callable[..., Any]:
    """`f(run, ...)` of pytrees, which `vmap` maps by `lax.map`.

    A loop with a data-dependent trip count under `vmap` runs until the longest problem is done, and
    each iteration selects between whole buffers. Where all problems share the params of the run,
    they are like more rows: `batched`, equal to `f` in plain JAX, computes them together.
    """
    function = jax.custom_batching.custom_vmap(f)

    @function.def_vmap
    def _(size, is_mapped, *arguments):
        flags = jax.tree.leaves(is_mapped)
        if batched is not None and not any(jax.tree.leaves(is_mapped[0].params)):
            axes = jax.tree.map(lambda mapped: 0 if mapped else None, is_mapped)
            out = jax.vmap(batched, axes, axis_size=size)(*arguments)
            return out, filled_like(True, out)
        leaves, structure = jax.tree.flatten(arguments)

        def one(mapped_leaves):
            rest = iter(mapped_leaves)
            every = [next(rest) if m else x for x, m in zip(leaves, flags, strict=True)]
            return function(*structure.unflatten(every))

        out = jax.lax.map(one, [x for x, m in zip(leaves, flags, strict=True) if m])
        return out, filled_like(True, out)

    return function


def partitioned_by_rows(f: Callable[..., Any], axes: RowAxes) -> Callable[..., Any]:
    """`f` of pytrees, which each device computes for the rows that it has."""

    def function(*arguments):
        if jax.device_count() == 1:
            return f(*arguments)
        leaves, structure = jax.tree.flatten(arguments)
        result = jax.eval_shape(f, *arguments)
        own = jax.tree.leaves(axes.arguments(*arguments)), jax.tree.leaves(axes.results(result))
        types = leaves, jax.tree.leaves(result)

        def of_leaves(*leaves):
            return jax.tree.leaves(f(*structure.unflatten(leaves)))

        # It takes arrays only, and asks `_partition` once XLA has chosen their shardings.
        call = custom_partitioning(of_leaves)
        call.def_partition(_partition(of_leaves, *own), sharding_rule=_sharding_rule(types, own))
        return jax.tree.unflatten(jax.tree.structure(result), call(*leaves))

    return function


def _partition(
    f: Callable[..., Any], argument_axes: list[int], result_axes: list[int]
) -> Callable[..., Any]:
    """What `custom_partitioning` calls: the function of one device, and all shardings."""

    def partition(mesh, arguments, results):
        names = _mesh_axes_of_rows(arguments, argument_axes)

        def of_own_rows(*leaves):
            out = f(*leaves)
            return [
                jax.lax.psum(x, names) if axis == Rows.SUM and names is not None else x
                for x, axis in zip(out, result_axes, strict=True)
            ]

        def shardings(xs, axes):
            specs = [_spec(len(x.shape), axis, names) for x, axis in zip(xs, axes, strict=True)]
            return [NamedSharding(mesh, spec) for spec in specs]

        result_shardings = shardings(results, result_axes)
        return mesh, of_own_rows, result_shardings, tuple(shardings(arguments, argument_axes))

    return partition


def _mesh_axes_of_rows(arguments: Any, axes: list[int]) -> Any:
    """The mesh axes that the batch is sharded over, or `None`."""
    # An array that was not placed has a sharding without `spec`.
    specs = [(*getattr(x.sharding, "spec", ()), *(None,) * len(x.shape)) for x in arguments]
    found = [spec[axis] for spec, axis in zip(specs, axes, strict=True) if axis >= 0]
    return next((names for names in found if names is not None), None)


def _spec(rank: int, axis: int, names: Any) -> PartitionSpec:
    return PartitionSpec(*(names if i == axis else None for i in range(rank)))


def _sharding_rule(types: tuple[list[Any], list[Any]], axes: tuple[list[Any], list[Any]]) -> str:
    """Shardy's rule: the batch is one factor, every other axis of every array is its own."""
    sides, n = [], 0
    for arrays, batch_axes in zip(types, axes, strict=True):
        names = []
        for x, axis in zip(arrays, batch_axes, strict=True):
            factors = ["batch" if i == axis else f"f{n}_{i}" for i in range(len(x.shape))]
            names.append(" ".join(factors))
            n += 1
        sides.append(", ".join(names))
    return " -> ".join(sides)
