"""Arrays of some units, gate by gate, and the arithmetic of each of their numbers.

Floating numbers are float32 in it, whatever they were when it was traced.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

ELEMENTWISE = frozenset(
    "abs add add_any and ceil clamp cos div eq exp exp2 expm1 floor ge gt integer_pow le log "
    "log1p logistic lt max min mul ne neg not one_minus_square or round rsqrt select_n sign "
    "sin sqrt square sub tan tanh xor".split()
)
Gates = list[Any]
"""Of an array `[n, k H]`: `k` arrays, or one number that has no units."""


class Unknown(Exception):
    """What cannot be done for some units alone; the message says what."""


def sized(x: Gates) -> bool:
    """Whether it has units."""
    return not isinstance(x[0], (bool, int, float))


def spread(x: Gates, like: Gates) -> Gates:
    """With units."""
    return x if sized(x) else [jnp.full_like(gate, x[0]) for gate in like]


def elementwise(
    equation: Any, inputs: list[Gates], instead: Mapping[str, Callable] | None
) -> Gates:
    """The result of an equation, or of what stands `instead` of its primitive."""
    with_units = [x for x in inputs if sized(x)]
    if not with_units:
        return [_of_numbers(equation, [x[0] for x in inputs])]
    if len({len(x) for x in with_units}) > 1:
        raise Unknown("it computes one gate with several")
    results = []
    for i, gate in enumerate(with_units[0]):
        row = [
            x[i] if sized(x) else jnp.full(gate.shape, x[0], _wide(v.aval.dtype))
            for x, v in zip(inputs, equation.invars, strict=True)
        ]
        results.append(_bound(equation, row, instead or {}))
    return results


def _of_numbers(equation: Any, numbers: list[Any]) -> Any:
    """A number, of numbers that have no units."""
    row = [
        np.asarray(x, _wide(v.aval.dtype)) for x, v in zip(numbers, equation.invars, strict=True)
    ]
    with jax.ensure_compile_time_eval():
        return np.asarray(equation.primitive.bind(*row, **equation.params)).item()


def _bound(equation: Any, row: list[Any], instead: Mapping[str, Callable]) -> Any:
    name, parameters = equation.primitive.name, equation.params
    return instead.get(name, equation.primitive.bind)(*row, **parameters)


def converted(x: Any, dtype: Any) -> Any:
    """A gate or a number in another dtype."""
    dtype = _wide(dtype)
    if isinstance(x, (bool, int, float)):
        return np.asarray(x, dtype).item()
    if dtype == jnp.bool and x.dtype != dtype:
        return x != 0  # Pallas has no such conversion
    return x if x.dtype == dtype else x.astype(dtype)


def _wide(dtype: Any) -> Any:
    return jnp.float32 if jnp.issubdtype(dtype, jnp.floating) else dtype
