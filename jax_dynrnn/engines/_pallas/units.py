"""The arithmetic of a cell, of some of its units alone.

Arithmetic within each unit can be done for any of the units. Of an array whose last axis is `k`
times `H` units, gates side by side, there are `k` arrays of those units then: no split and no
concatenation is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from .gates import ELEMENTWISE, Gates, Unknown, converted, elementwise, sized, spread

INNER = ("jit", "pjit", "closed_call")
"""Calls of functions, which are looked into."""


class Arithmetic:
    """A function of arrays `[n, k H]`, traced for all units, to be computed of some.

    Args:
        f: of pytrees, as `jax.make_jaxpr` takes it; its results are pytrees of such arrays.
        units: `H`.
        arguments: of `f`, arrays or their shapes.
        instead: functions that are computed in the place of some primitives, by their names, where
            nobody differentiates.
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
        self.instead = instead

    @property
    def primitives(self) -> set[str]:
        """The names of those that compute something, in all functions that are called."""
        return {*_primitives(self.jaxpr.jaxpr)} & (ELEMENTWISE | {"convert_element_type"})

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
        if isinstance(value, jax.core.Tracer):
            raise Unknown("it closes over what is being traced")
        if jnp.size(value) != 1:
            raise Unknown(f"it has a constant of shape {jnp.shape(value)}")
        return [np.asarray(value).item()]

    def _equation(self, equation: Any, inputs: list[Gates]) -> list[Gates]:
        name, parameters = equation.primitive.name, equation.params
        if name in INNER:
            inner = parameters["jaxpr"]
            return self._run(inner.jaxpr, inner.consts, inputs)
        if name == "custom_jvp_call":
            return self._with_own_derivative(equation, inputs)
        if name in ELEMENTWISE:
            return [elementwise(equation, inputs, self.instead)]
        if name == "convert_element_type":
            return [[converted(x, parameters["new_dtype"]) for x in inputs[0]]]
        if name == "stop_gradient":
            return inputs if self.instead is not None else jax.lax.stop_gradient(inputs)
        if name in ("broadcast_in_dim", "reshape", "squeeze", "copy"):
            return [self._reshaped(equation, inputs[0])]
        if name in ("split", "slice", "concatenate"):
            return self._taken(equation, inputs)
        raise Unknown(f"it uses {name}, which kernels do not have")

    def _with_own_derivative(self, equation: Any, inputs: list[Gates]) -> list[Gates]:
        """A function like `jax.nn.relu`, whose derivative is traced too."""
        inner, varies = equation.params["call_jaxpr"], [sized(x) for x in inputs]
        if self.instead is not None:
            return self._run(inner.jaxpr, inner.consts, inputs)
        shapes = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in equation.invars]
        if not all(jnp.issubdtype(x.dtype, jnp.floating) for x in shapes):
            raise Unknown("a function with its own derivative has arguments that are not floating")
        alone = equation.replace(invars=inner.jaxpr.invars)
        alone = inner.jaxpr.replace(constvars=(), outvars=equation.outvars, eqns=[alone])
        original = core.jaxpr_as_fun(core.ClosedJaxpr(alone, ()))

        def every(some, numbers):
            some = iter(some)
            return [next(some) if v else x for v, x in zip(varies, numbers, strict=True)]

        @jax.custom_jvp
        def run(some):
            results = self._run(inner.jaxpr, inner.consts, every(some, inputs))
            return [spread(x, like=some[0]) for x in results] if some else results

        @run.defjvp
        def _(primals, tangents):
            traced = jax.make_jaxpr(lambda x, dx: jax.jvp(original, x, dx)[1])(shapes, shapes)
            (x,), (dx,), nothing = primals, tangents, [[0.0]] * len(inputs)
            given = every(x, inputs) + every(dx, nothing)
            results = run(x)
            pairs = zip(self._run(traced.jaxpr, traced.consts, given), results, strict=True)
            return results, [spread(d, like=x) for d, x in pairs]

        return run([x for v, x in zip(varies, inputs, strict=True) if v])

    def _reshaped(self, equation: Any, x: Gates) -> Gates:
        """A number for each unit stays one, and a number of none serves all."""
        shape = equation.outvars[0].aval.shape
        before = equation.invars[0].aval.shape
        if not sized(x) or (shape and before and shape[-1] == before[-1]):
            return x
        raise Unknown(f"it makes {before} into {shape}")

    def _taken(self, equation: Any, inputs: list[Gates]) -> list[Gates]:
        """Gates out of a row of them, or a longer row."""
        name, parameters = equation.primitive.name, equation.params
        last = len(equation.invars[0].aval.shape) - 1
        if name == "concatenate":
            if parameters["dimension"] != last or not all(map(sized, inputs)):
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
        if not sized(x) or start % self.units or end % self.units:
            raise Unknown("it takes apart the units of a gate")
        return x[start // self.units : end // self.units]


def _primitives(jaxpr: Any) -> Iterator[str]:
    """Without conversions of floating numbers, which are all the same in a kernel."""
    for equation in jaxpr.eqns:
        name, variables = equation.primitive.name, (*equation.invars, *equation.outvars)
        floating = all(jnp.issubdtype(v.aval.dtype, jnp.floating) for v in variables)
        inner = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
        if inner is not None:
            yield from _primitives(inner.jaxpr)
        elif not (floating and name == "convert_element_type"):
            yield name


class Leaf(list):
    """Gates, as a leaf of a pytree."""


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
