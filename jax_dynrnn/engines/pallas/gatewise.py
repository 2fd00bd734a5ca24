"""The arithmetic of a cell for some of its units alone, gate by gate.

Arithmetic within each unit can be done for any of the units. An array whose last axis is `k` times
`H` units, gates side by side, becomes `k` arrays of those units: no split and no concatenation is
left. Floating-point numbers are float32, whatever they were when the arithmetic was traced.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from ..._types import DTypeLike
from ..types import types_of

ELEMENTWISE = frozenset(
    "abs add add_any and ceil clamp cos div eq exp exp2 expm1 floor ge gt integer_pow le log "
    "log1p logistic lt max min mul ne neg not one_minus_square or round rsqrt select_n sign "
    "sin sqrt square sub tan tanh xor".split()
)
Gates = list[Any]
"""An array `[n, k H]` as `k` arrays of some units, or one number."""


class UnsupportedArithmetic(Exception):
    """Arithmetic that cannot be done for some units alone; the message says what."""


def has_units(x: Gates) -> bool:
    """Whether it is of units, and not one number."""
    return not isinstance(x[0], (bool, int, float))


def broadcast(x: Gates, like: Gates) -> Gates:
    """`x`, a number too, as gates with units."""
    return x if has_units(x) else [jnp.full_like(gate, x[0]) for gate in like]


def elementwise(
    equation: Any, inputs: list[Gates], replacements: Mapping[str, Callable[..., Any]] | None
) -> Gates:
    """The result of an equation, or of the replacement of its primitive."""
    with_units = [x for x in inputs if has_units(x)]
    if not with_units:
        return [_of_numbers(equation, [x[0] for x in inputs])]
    if len(numbers := sorted({len(x) for x in with_units})) > 1:
        raise UnsupportedArithmetic(f"it combines arrays of {numbers[0]} and {numbers[-1]} gates")
    results = []
    for i, gate in enumerate(with_units[0]):
        row = [
            x[i] if has_units(x) else jnp.full(gate.shape, x[0], _widened(v.aval.dtype))
            for x, v in zip(inputs, equation.invars, strict=True)
        ]
        results.append(_apply(equation, row, replacements or {}))
    return results


def _of_numbers(equation: Any, numbers: list[Any]) -> Any:
    """The result for numbers, a number."""
    row = [
        np.asarray(x, _widened(v.aval.dtype)) for x, v in zip(numbers, equation.invars, strict=True)
    ]
    # On the CPU: the program may be compiled for a device that is not here.
    with jax.ensure_compile_time_eval(), jax.default_device("cpu"):
        return np.asarray(equation.primitive.bind(*row, **equation.params)).item()


def _apply(equation: Any, row: list[Any], replacements: Mapping[str, Callable[..., Any]]) -> Any:
    name, parameters = equation.primitive.name, equation.params
    return replacements.get(name, equation.primitive.bind)(*row, **parameters)


def convert(x: Any, dtype: DTypeLike) -> Any:
    """A gate or a number in another dtype."""
    dtype = _widened(dtype)
    if isinstance(x, (bool, int, float)):
        return np.asarray(x, dtype).item()
    if dtype == jnp.bool and x.dtype != dtype:
        return x != 0  # Mosaic has no such conversion
    return x if x.dtype == dtype else x.astype(dtype)


def _widened(dtype: DTypeLike) -> Any:
    return jnp.float32 if jnp.issubdtype(dtype, jnp.floating) else dtype


INNER = ("jit", "pjit", "closed_call")
"""Calls of functions, whose equations are run one by one."""


class Arithmetic:
    """A function of arrays `[n, k H]`, traced for all units, and computed for some of them.

    Args:
        f: of pytrees, as `jax.make_jaxpr` takes it; its results are pytrees of such arrays.
        units: `H`.
        arguments: those of `f`, or their types.
        replacements: functions that replace primitives, by their names, where the result is not
            differentiated.
    """

    def __init__(
        self,
        f: Callable[..., Any],
        units: int,
        *arguments: Any,
        replacements: Mapping[str, Callable[..., Any]] | None = None,
    ):
        jaxpr, shape = jax.make_jaxpr(f, return_shape=True)(*arguments)
        self.jaxpr: Any = jaxpr
        self.units: int = units
        self.structure: Any = jax.tree.structure(shape)
        self.replacements = replacements

    @property
    def primitives(self) -> set[str]:
        """The names of the primitives that compute something, in called functions too."""
        return {*_primitives(self.jaxpr.jaxpr)} & (ELEMENTWISE | {"convert_element_type"})

    def same(self, result: int) -> int | None:
        """Which argument a result is, unchanged, counted in leaves; `None`: none."""
        variable = self.jaxpr.jaxpr.outvars[result]
        found = [i for i, v in enumerate(self.jaxpr.jaxpr.invars) if v is variable]
        return found[0] if found else None

    def __call__(self, arguments: Sequence[Gates]) -> Any:
        """The results, each a list of gates, for the gates of all leaves of the arguments.

        Raises:
            UnsupportedArithmetic: it cannot be done for some units alone.
        """
        results = self._run(self.jaxpr.jaxpr, self.jaxpr.consts, arguments)
        return self.structure.unflatten([Leaf(gates) for gates in results])

    def _run(self, jaxpr: Any, consts: Sequence[Any], arguments: Sequence[Gates]) -> list[Gates]:
        values = dict(zip(jaxpr.invars, arguments, strict=True))
        values |= {v: self._constant(c) for v, c in zip(jaxpr.constvars, consts, strict=True)}

        def read(v):
            return self._constant(v.val) if isinstance(v, core.Literal) else values[v]

        for equation in jaxpr.eqns:
            inputs = [read(v) for v in equation.invars]
            values.update(zip(equation.outvars, self._equation(equation, inputs), strict=True))
        return [read(v) for v in jaxpr.outvars]

    def _constant(self, value: Any) -> Gates:
        if isinstance(value, jax.core.Tracer):
            raise UnsupportedArithmetic("it closes over what is being traced")
        if np.size(value) != 1:
            raise UnsupportedArithmetic(f"it has a constant of shape {np.shape(value)}")
        return [np.asarray(value).item()]

    def _equation(self, equation: Any, inputs: list[Gates]) -> list[Gates]:
        name, parameters = equation.primitive.name, equation.params
        if name in INNER:
            inner = parameters["jaxpr"]
            return self._run(inner.jaxpr, inner.consts, inputs)
        if name == "custom_jvp_call":
            return self._with_own_derivative(equation, inputs)
        if name in ELEMENTWISE:
            return [elementwise(equation, inputs, self.replacements)]
        if name == "convert_element_type":
            return [[convert(x, parameters["new_dtype"]) for x in inputs[0]]]
        if name == "stop_gradient":
            return inputs if self.replacements is not None else jax.lax.stop_gradient(inputs)
        if name in ("broadcast_in_dim", "reshape", "squeeze", "copy"):
            return [self._reshaped(equation, inputs[0])]
        if name in ("split", "slice", "concatenate"):
            return self._select_gates(equation, inputs)
        raise UnsupportedArithmetic(f"it uses {name}, which kernels do not have")

    def _with_own_derivative(self, equation: Any, inputs: list[Gates]) -> list[Gates]:
        """A function like `jax.nn.relu`, whose own derivative is run gate by gate too."""
        inner, varies = equation.params["call_jaxpr"], [has_units(x) for x in inputs]
        if self.replacements is not None:
            return self._run(inner.jaxpr, inner.consts, inputs)
        shapes = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in equation.invars]
        if not all(jnp.issubdtype(x.dtype, jnp.floating) for x in shapes):
            raise UnsupportedArithmetic(
                "a function with its own derivative has arguments that are not floating"
            )
        alone = equation.replace(invars=inner.jaxpr.invars)
        alone = inner.jaxpr.replace(constvars=(), outvars=equation.outvars, eqns=[alone])
        original = core.jaxpr_as_fun(core.ClosedJaxpr(alone, ()))

        def with_numbers(some, numbers):
            some = iter(some)
            return [next(some) if v else x for v, x in zip(varies, numbers, strict=True)]

        @jax.custom_jvp
        def run(some):
            results = self._run(inner.jaxpr, inner.consts, with_numbers(some, inputs))
            return [broadcast(x, like=some[0]) for x in results] if some else results

        @run.defjvp
        def _(primals, tangents):
            traced = jax.make_jaxpr(lambda x, dx: jax.jvp(original, x, dx)[1])(shapes, shapes)
            (x,), (dx,), zeros = primals, tangents, [[0.0]] * len(inputs)
            given = with_numbers(x, inputs) + with_numbers(dx, zeros)
            results = run(x)
            pairs = zip(self._run(traced.jaxpr, traced.consts, given), results, strict=True)
            return results, [broadcast(d, like=x) for d, x in pairs]

        return run([x for v, x in zip(varies, inputs, strict=True) if v])

    def _reshaped(self, equation: Any, x: Gates) -> Gates:
        """An array with the same last axis, or a number."""
        shape = equation.outvars[0].aval.shape
        before = equation.invars[0].aval.shape
        if not has_units(x) or (shape and before and shape[-1] == before[-1]):
            return x
        raise UnsupportedArithmetic(f"it reshapes {before} to {shape}")

    def _select_gates(self, equation: Any, inputs: list[Gates]) -> list[Gates]:
        """Some of the gates of an array, or the gates of several arrays side by side."""
        name, parameters = equation.primitive.name, equation.params
        last = len(equation.invars[0].aval.shape) - 1
        if name == "concatenate":
            if parameters["dimension"] != last or not all(map(has_units, inputs)):
                raise UnsupportedArithmetic("it concatenates along rows")
            return [[gate for x in inputs for gate in x]]
        if name == "split":
            if parameters["axis"] != last:
                raise UnsupportedArithmetic("it splits rows")
            sizes = parameters["sizes"]
            ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
            return [
                self._gates_between(inputs[0], e - s, e) for s, e in zip(sizes, ends, strict=True)
            ]
        start, limit = parameters["start_indices"], parameters["limit_indices"]
        takes_all_rows = all(
            s == 0 and e == n
            for s, e, n in zip(start[:-1], limit[:-1], equation.invars[0].aval.shape, strict=False)
        )
        if not takes_all_rows or set(parameters["strides"] or [1]) != {1}:
            raise UnsupportedArithmetic("it slices rows, or in strides")
        return [self._gates_between(inputs[0], start[-1], limit[-1])]

    def _gates_between(self, x: Gates, start: int, end: int) -> Gates:
        if not has_units(x) or start % self.units or end % self.units:
            raise UnsupportedArithmetic("it slices inside a gate")
        return x[start // self.units : end // self.units]


def _primitives(jaxpr: Any) -> Iterator[str]:
    """The names of all primitives, but for conversions between floating-point dtypes."""
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


def is_leaf(x: object) -> bool:
    return isinstance(x, Leaf)


def inlined(
    f: Callable[..., Any], arguments: Any, replacements: Mapping[str, Callable[..., Any]]
) -> Any:
    """`f(*arguments)` with called functions inlined, and primitives replaced."""
    shapes = types_of(arguments)
    units = max(x.shape[-1] for x in jax.tree.leaves(shapes))
    arithmetic = Arithmetic(f, units, *shapes, replacements=replacements)
    results = arithmetic([[x] for x in jax.tree.leaves(arguments)])
    return jax.tree.map(operator.itemgetter(0), results, is_leaf=is_leaf)
