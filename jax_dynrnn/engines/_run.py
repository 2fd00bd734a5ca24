"""A cell in parts, run by two passes that an engine has: differentiable, mapped, spread out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from . import scan
from ._parts import Parts, closes_over, in_parts
from ._rule import differentiable
from ._spmd import NONE, SUM, by_rows, one_at_a_time
from .call import Call, varying


def run_parts(
    call: Call,
    forward: Callable,
    backward: Callable,
    plain: Callable | None = None,
    kept_rows: int = 1,
    loops: bool = True,
) -> tuple[Any, Any]:
    """Runs the cell of a call -> `(outputs, final_state)`.

    `forward(parts, call, keep) -> ((outputs, final_state), kept)` and `backward(parts, call, kept,
    cotangents) -> cotangents of params, inputs, initial and start state` get the cell as `Parts`,
    and its `Weights` as the call's params. `plain(parts, call) -> (outputs, final_state)` runs
    where no gradient is asked for. `kept_rows`: which axis of what is kept the batch is. `loops`:
    whether the passes have loops of a length that depends on the arrays.
    """
    if closes_over(call):
        return scan.run(call)
    parts, call = in_parts(call)
    leaves, structure = jax.tree.flatten(call)
    places = [i for i, x in enumerate(leaves) if jnp.issubdtype(x.dtype, jnp.floating)]

    def whole(x, given):
        both = [*given]
        for i, leaf in zip(places, x, strict=True):
            both.insert(i, leaf)
        return structure.unflatten(both)

    plain = plain or (lambda parts, call: forward(parts, call, keep=False)[0])
    alone, keeping, transposed = _passes(parts, call, plain, forward, backward, kept_rows, loops)
    f = differentiable(
        reference=lambda x, given: scan.run(whole(x, given)),
        plain=lambda x, given: alone(whole(x, given)),
        forward=lambda x, given: keeping(whole(x, given)),
        backward=lambda x, given, *more: jax.tree.leaves(transposed(whole(x, given), *more)),
        offload=call.remat == "offload",
    )
    return f([leaves[i] for i in places], [x for i, x in enumerate(leaves) if i not in places])


def _passes(
    parts: Parts,
    call: Call,
    plain: Callable,
    forward: Callable,
    backward: Callable,
    kept_rows: int,
    loops: bool,
) -> tuple[Any, Any, Any]:
    """All passes, as `vmap` and a batch spread over devices should take them."""

    def alone(call):
        return plain(parts, call)

    def keeping(call):
        return forward(parts, call, keep=True)

    def transposed(call, kept, cotangents):
        return backward(parts, call, kept, cotangents)

    if not loops and jax.device_count() == 1:  # `vmap` takes them as they are
        return alone, keeping, transposed
    if varying(call):  # inside of `jax.shard_map` each device has its rows already
        return one_at_a_time(alone, scan.run), *map(one_at_a_time, (keeping, transposed))
    steps, every = 1 - call.time_axis, lambda axis, tree: jax.tree.map(lambda _: axis, tree)
    own = dataclasses.replace(
        every(0, call),
        params=every(NONE, call.params),
        **{name: every(steps, getattr(call, name)) for name in ("inputs", "mask", "resets")},
    )
    result = lambda y: (every(steps, y[0]), every(0, y[1]))  # noqa: E731
    both = lambda y_kept: (result(y_kept[0]), every(kept_rows, y_kept[1]))  # noqa: E731
    given = lambda _, kept, y: (own, every(kept_rows, kept), result(y))  # noqa: E731
    gradients = lambda g: (every(SUM, g[0]), every(steps, g[1]), every(0, g[2:]))  # noqa: E731
    return (
        one_at_a_time(by_rows(alone, lambda _: (own,), result), scan.run),
        one_at_a_time(by_rows(keeping, lambda _: (own,), both)),
        one_at_a_time(by_rows(transposed, given, gradients)),
    )
