"""The arithmetic of a cell, of some of its units alone.

Arithmetic within each unit can be done for any of the units. Of an array whose last axis is `k`
times `H` units, gates side by side, there are `k` arrays of those units then: no split and no
concatenation is left. Floating numbers are float32 in it, whatever they were when it was traced.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

ELEMENTWISE = frozenset(
    "abs add add_any and ceil clamp cos div eq erf exp exp2 expm1 floor ge gt integer_pow le log "
    "log1p logistic lt max min mul ne neg not one_minus_square or pow round rsqrt select_n sign "
    "sin sqrt square sub tan tanh xor".split()
)
INNER = ("jit", "pjit", "closed_call")
"""Calls of functions, which are looked into."""

Gates = list[Any]
"""Of an array `[n, k H]`: `k` arrays, or one number that has no units."""


class Unknown(Exception):
    """What cannot be done for some units alone; the message says what."""


class Arithmetic:
    """A function of arrays `[n, k H]`, traced for all units, to be computed of some.

    Args:
        f: of pytrees, as `jax.make_jaxpr` takes it; its results are pytrees of such arrays.
        units: `H`.
        arguments: of `f`, arrays or their shapes.
        instead: functions that are computed in the place of some primitives, by their names.
    """

    def __init__(
        self,
        f: Callable,
        units: int,
        *arguments: Any,
        instead: Mapping[str, Callable] | None = None,
    ):
        self.jaxpr, shape = jax.make_jaxpr(f, return_shape=True)(*arguments)
        self.units, self.structure = units, jax.tree.structure(shape)
        self.instead = instead or {}

    def same(self, result: int) -> int | None:
        """Which argument, of all leaves, a result is, unchanged; `None`: none."""
        variable = self.jaxpr.jaxpr.outvars[result]
        found = [i for i, v in enumerate(self.jaxpr.jaxpr.invars) if v is variable]
        return found[0] if found else None

    def __call__(self, arguments: Sequence[Gates]) -> Any:
        """The results, each a list of gates, of the gates of all leaves of the arguments.

        Raises:
            Unknown: it cannot be done for some units alone.
        """
        results = self._run(self.jaxpr.jaxpr, self.jaxpr.consts, arguments)
        return self.structure.unflatten([Leaf(gates) for gates in results])

    def _run(self, jaxpr: Any, consts: Sequence[Any], arguments: Sequence[Gates]) -> list[Gates]:
        known = dict(zip(jaxpr.invars, arguments, strict=True))
        known |= {v: self._constant(c) for v, c in zip(jaxpr.constvars, consts, strict=True)}

        def read(v):
            return self._constant(v.val) if isinstance(v, core.Literal) else known[v]

        for equation in jaxpr.eqns:
            inputs = [read(v) for v in equation.invars]
            known.update(zip(equation.outvars, self._equation(equation, inputs), strict=True))
        return [read(v) for v in jaxpr.outvars]

    def _constant(self, value: Any) -> Gates:
        if jnp.size(value) != 1:
            raise Unknown(f"it has a constant of shape {jnp.shape(value)}")
        return [np.asarray(value).item()]

    def _equation(self, equation: Any, inputs: list[Gates]) -> list[Gates]:
        name, parameters = equation.primitive.name, equation.params
        if name in INNER:
            inner = parameters["jaxpr"]
            return self._run(inner.jaxpr, inner.consts, inputs)
        if name in ELEMENTWISE:
            return [_elementwise(equation, inputs, self.instead)]
        if name == "convert_element_type":
            return [[_converted(x, parameters["new_dtype"]) for x in inputs[0]]]
        if name in ("broadcast_in_dim", "reshape", "squeeze", "copy", "stop_gradient"):
            return [self._reshaped(equation, inputs[0])]
        if name in ("split", "slice", "concatenate"):
            return self._taken(equation, inputs)
        raise Unknown(f"it uses {name}, which is no arithmetic of each number")

    def _reshaped(self, equation: Any, x: Gates) -> Gates:
        """A number for each unit stays one, and a number of none serves all."""
        shape = equation.outvars[0].aval.shape
        before = equation.invars[0].aval.shape
        if not _sized(x) or (shape and before and shape[-1] == before[-1]):
            return x
        raise Unknown(f"it makes {before} into {shape}")

    def _taken(self, equation: Any, inputs: list[Gates]) -> list[Gates]:
        """Gates out of a row of them, or a longer row."""
        name, parameters = equation.primitive.name, equation.params
        last = len(equation.invars[0].aval.shape) - 1
        if name == "concatenate":
            if parameters["dimension"] != last or not all(map(_sized, inputs)):
                raise Unknown("it concatenates along rows")
            return [[gate for x in inputs for gate in x]]
        if name == "split":
            if parameters["axis"] != last:
                raise Unknown("it splits rows")
            sizes = parameters["sizes"]
            ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
            return [self._some(inputs[0], e - s, e) for s, e in zip(sizes, ends, strict=True)]
        start, limit = parameters["start_indices"], parameters["limit_indices"]
        whole = all(
            s == 0 and e == n
            for s, e, n in zip(start[:-1], limit[:-1], equation.invars[0].aval.shape, strict=False)
        )
        if not whole or set(parameters["strides"] or [1]) != {1}:
            raise Unknown("it slices rows, or in strides")
        return [self._some(inputs[0], start[-1], limit[-1])]

    def _some(self, x: Gates, start: int, end: int) -> Gates:
        if not _sized(x) or start % self.units or end % self.units:
            raise Unknown("it takes apart the units of a gate")
        return x[start // self.units : end // self.units]


class Leaf(list):
    """Gates, as a leaf of a pytree."""


def _sized(x: Gates) -> bool:
    return not isinstance(x[0], (bool, int, float))


def _elementwise(equation: Any, inputs: list[Gates], instead: Mapping[str, Callable]) -> Gates:
    count = max(len(x) for x in inputs)
    if any(_sized(x) and len(x) != count for x in inputs):
        raise Unknown("it computes one gate with several")
    sized = next((x for x in inputs if _sized(x)), None)
    if sized is None:
        raise Unknown("it computes with numbers that have no units")
    shape, results = jnp.shape(sized[0]), []
    for i in range(count):
        row = [
            x[i] if _sized(x) else jnp.full(shape, x[0], _wide(v.aval.dtype))
            for x, v in zip(inputs, equation.invars, strict=True)
        ]
        results.append(_bound(equation, row, instead))
    return results


def _bound(equation: Any, row: list[Any], instead: Mapping[str, Callable]) -> Any:
    """The primitive of an equation, or what kernels have in its place."""
    name, parameters = equation.primitive.name, equation.params
    if name in instead:
        return instead[name](*row)
    if name == "add_any":  # of cotangents
        return row[0] + row[1]
    if name == "one_minus_square":  # of newer JAX's derivative of tanh
        return 1 - row[0] * row[0]
    if name == "integer_pow" and parameters["y"] < 0:
        return 1 / row[0] ** -parameters["y"]
    return equation.primitive.bind(*row, **parameters)


def _converted(x: Any, dtype: Any) -> Any:
    dtype = _wide(dtype)
    if isinstance(x, (bool, int, float)):
        return np.asarray(x, dtype).item()
    return x if x.dtype == dtype else x.astype(dtype)


def _wide(dtype: Any) -> Any:
    return jnp.float32 if jnp.issubdtype(dtype, jnp.floating) else dtype


def inlined(f: Callable, arguments: Any, instead: Mapping[str, Callable]) -> Any:
    """`f(*arguments)`, all whose inner functions and sums of cotangents are plain arithmetic.

    And some primitives what stands `instead` of them.
    """
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arguments)
    units = max(x.shape[-1] for x in jax.tree.leaves(shapes))
    arithmetic = Arithmetic(f, units, *shapes, instead=instead)
    return jax.tree.map(
        lambda leaf: leaf[0],
        arithmetic([[x] for x in jax.tree.leaves(arguments)]),
        is_leaf=lambda x: isinstance(x, Leaf),
    )
