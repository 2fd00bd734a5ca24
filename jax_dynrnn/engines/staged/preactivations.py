"""Pure pre-activations: gate columns where a step only adds `h @ U` to `x @ W`.

There the sum alone is a sufficient residual for the backward pass.
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

    array: int
    """Which array."""
    width: int
    """How many columns the array has."""
    span: tuple[int, int]
    """The columns `[start, stop)`."""


class Preactivation(NamedTuple):
    """The product of one matmul, and the projected inputs that it is added to."""

    product: int
    """Which matmul's product."""
    leaf: int
    """Which leaf of the projected inputs."""
    width: int
    """How many columns both have."""
    spans: tuple[tuple[int, int], ...]
    """The columns `[start, stop)` where only the sum is used, in order."""

    @property
    def covers_all_columns(self) -> bool:
        return sum(stop - start for start, stop in self.spans) == self.width

    def sum(self, projected: jax.Array, product: jax.Array) -> jax.Array:
        """The sum in the columns where only that is used; `projected` in the others."""
        if self.covers_all_columns:
            return projected + product
        column = jnp.arange(self.width, dtype=jnp.int32)
        inside = [(start <= column) & (column < stop) for start, stop in self.spans]
        return jnp.where(functools.reduce(operator.or_, inside), projected + product, projected)

    def other_columns(self, product: jax.Array) -> jax.Array | None:
        """The columns of the product that are used apart from the sum; `None`: there are none."""
        if self.covers_all_columns:
            return None
        return jnp.concatenate([product[..., a:b] for a, b in self._other_spans()], -1)

    def product_beside(self, total: jax.Array, others: jax.Array | None) -> jax.Array:
        """The product to pass beside `total`: 0 in the columns that `total` already includes."""
        zeros = jnp.zeros_like(total)
        if others is None:
            return zeros
        pieces, used = [], 0
        for start, stop in sorted([*self.spans, *self._other_spans()]):
            if (start, stop) in self.spans:
                pieces.append(zeros[..., start:stop])
            else:
                pieces.append(others[..., used : used + stop - start])
                used += stop - start
        return jnp.concatenate(pieces, -1)

    def _other_spans(self) -> list[tuple[int, int]]:
        ends = [0, *itertools.chain(*self.spans), self.width]
        return [(a, b) for a, b in zip(ends[::2], ends[1::2], strict=True) if a < b]


def find_preactivations(
    jaxpr: Any, projected: list[Any], products: list[Any]
) -> tuple[Preactivation, ...]:
    """The pre-activations of a step's arithmetic.

    Args:
        jaxpr: the arithmetic.
        projected, products: its variables that are the projected inputs and the products.
    """
    used = collections.Counter(
        v for inputs in [*(e.invars for e in jaxpr.eqns), jaxpr.outvars] for v in _variables(inputs)
    )
    found_columns = [_columns(jaxpr, variables, used) for variables in (projected, products)]
    found: dict[Any, list[Any]] = collections.defaultdict(list)
    for equation in jaxpr.eqns:
        if equation.primitive.name != "add":
            continue
        # The sum is a sufficient residual only if neither summand is used elsewhere.
        once = {v for v in _variables(equation.invars) if used[v] == 1}
        own, theirs = ([columns[v] for v in once & columns.keys()] for columns in found_columns)
        if len(own) == len(theirs) == 1:
            (p,), (r,) = own, theirs
            if (p.width, p.span) == (r.width, r.span):
                found[r.array, p.array, p.width].append(p.span)
    return tuple(
        Preactivation(i, j, width, tuple(sorted(spans))) for (i, j, width), spans in found.items()
    )


def _columns(jaxpr: Any, variables: list[Any], used: Any) -> dict[Any, Columns]:
    """The columns that each variable holds, and each part that one is split into."""
    widths = [v.aval.shape[-1] if v.aval.shape else 1 for v in variables]
    every = [Columns(i, width, (0, width)) for i, width in enumerate(widths)]
    found = dict(zip(variables, every, strict=True))
    for equation in jaxpr.eqns:
        if equation.primitive.name != "split":
            continue
        (x,) = equation.invars
        if x in found and used[x] == 1 and equation.params["axis"] == x.aval.ndim - 1:
            ends = [0, *itertools.accumulate(int(size) for size in equation.params["sizes"])]
            for v, span in zip(equation.outvars, itertools.pairwise(ends), strict=True):
                found[v] = found[x]._replace(span=span)
    return found


def _variables(inputs: list[Any]) -> list[Any]:
    return [v for v in inputs if not isinstance(v, core.Literal)]
