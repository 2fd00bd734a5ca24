"""Columns of which a step adds the matmul's result and the projected inputs, and does no more.

There the sum is all that the backward pass wants to know of both.
"""

from __future__ import annotations

import collections
import functools
import itertools
import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core


class Columns(NamedTuple):
    """Some columns of one array."""

    number: int
    """Which array."""
    width: int
    """All columns that the array has."""
    span: tuple[int, int]
    """From where to where."""


class Sum(NamedTuple):
    """One matmul's result, and what it is added to."""

    result: int
    leaf: int
    """Of the projected inputs."""
    width: int
    spans: tuple[tuple[int, int], ...]
    """From where to where, in order."""

    @property
    def whole(self) -> bool:
        return sum(stop - start for start, stop in self.spans) == self.width

    def total(self, projected: jax.Array, result: jax.Array) -> jax.Array:
        """`projected`, and in the columns of the sum that."""
        if self.whole:
            return projected + result
        at = jnp.arange(self.width, dtype=jnp.int32)
        added = functools.reduce(operator.or_, [(a <= at) & (at < b) for a, b in self.spans])
        return jnp.where(added, projected + result, projected)

    def rest(self, result: jax.Array) -> jax.Array | None:
        """The other columns of `result`."""
        if self.whole:
            return None
        return jnp.concatenate([result[..., a:b] for a, b in self._others()], -1)

    def result_of(self, rest: jax.Array | None, like: jax.Array) -> jax.Array:
        """The result that goes with `total`, which is `like` it: zeros, and the `rest`."""
        zeros = jnp.zeros_like(like)
        if rest is None:
            return zeros
        pieces, used = [], 0
        for start, stop in sorted([*self.spans, *self._others()]):
            if (start, stop) in self.spans:
                pieces.append(zeros[..., start:stop])
            else:
                pieces.append(rest[..., used : used + stop - start])
                used += stop - start
        return jnp.concatenate(pieces, -1)

    def _others(self) -> list[tuple[int, int]]:
        ends = [0, *itertools.chain(*self.spans), self.width]
        return [(a, b) for a, b in zip(ends[::2], ends[1::2], strict=True) if a < b]


def sums(jaxpr: Any, projected: list, recurred: list) -> tuple[Sum, ...]:
    """Those of a step's arithmetic, of which the variables are given that are its arguments."""
    used = collections.Counter(
        v for inputs in [*(e.invars for e in jaxpr.eqns), jaxpr.outvars] for v in _variables(inputs)
    )
    known = [_columns(jaxpr, variables, used) for variables in (projected, recurred)]
    found: dict[Any, list] = collections.defaultdict(list)
    for equation in jaxpr.eqns:
        if equation.primitive.name != "add":
            continue
        once = {v for v in _variables(equation.invars) if used[v] == 1}
        own, theirs = ([columns[v] for v in once & columns.keys()] for columns in known)
        if len(own) == len(theirs) == 1:
            (p,), (r,) = own, theirs
            if (p.width, p.span) == (r.width, r.span):
                found[r.number, p.number, p.width].append(p.span)
    return tuple(Sum(i, j, width, tuple(sorted(spans))) for (i, j, width), spans in found.items())


def _columns(jaxpr: Any, variables: list, used: Any) -> dict[Any, Columns]:
    """Of the variables, and of what they are split into."""
    widths = [v.aval.shape[-1] if v.aval.shape else 1 for v in variables]
    whole = [Columns(i, width, (0, width)) for i, width in enumerate(widths)]
    found = dict(zip(variables, whole, strict=True))
    for equation in jaxpr.eqns:
        if equation.primitive.name != "split":
            continue
        (x,) = equation.invars
        if x in found and used[x] == 1 and equation.params["axis"] == x.aval.ndim - 1:
            ends = [0, *itertools.accumulate(int(size) for size in equation.params["sizes"])]
            for v, span in zip(equation.outvars, itertools.pairwise(ends), strict=True):
                found[v] = found[x]._replace(span=span)
    return found


def _variables(inputs: list) -> list:
    return [v for v in inputs if not isinstance(v, core.Literal)]
