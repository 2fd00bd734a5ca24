"""The batching rule of functions whose loops have data-dependent trip counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from ..._tools import filled_like


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
