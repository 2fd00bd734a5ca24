"""Replacements for primitives that Mosaic, the compiler of kernels, cannot lower, or lowers slowly.

Their errors are a few units in the last place of float32; those of `tanh` and `logistic` for
bfloat16 are smaller than its rounding.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ..._types import DTypeLike


def for_gpu(dtype: DTypeLike) -> dict[str, Callable[..., Any]]:
    """By the names of the primitives: functions of float32 operands, and of their parameters.

    On GPUs Mosaic's division, and so its `logistic`, takes many instructions, and its exact `tanh`
    has branches. For bfloat16 `tanh` is one instruction of the GPU.
    """
    if dtype == jnp.bfloat16:
        return NOT_ON_GPUS | {"logistic": _logistic_of_tanh}
    return NOT_ON_GPUS | {"logistic": _logistic, "tanh": _tanh}


def for_tpu(dtype: DTypeLike) -> dict[str, Callable[..., Any]]:
    """The same for TPUs, which have an instruction for `tanh`, and divide slowly."""
    if dtype == jnp.bfloat16:
        return NOT_ON_TPUS | {"logistic": _logistic_of_tanh}
    return NOT_ON_TPUS


def _logistic_of_tanh(x: jax.Array, **_: Any) -> jax.Array:
    return 0.5 * jnp.tanh(0.5 * x) + 0.5


def _logistic(x: jax.Array, **_: Any) -> jax.Array:
    """1 / (1 + exp(-x)), with a relative error of 2^-21."""
    root = jax.lax.rsqrt(1 + jnp.exp(-x))
    return root * root


def _tanh(x: jax.Array, **_: Any) -> jax.Array:
    """By its series near 0, where the difference below would cancel."""
    y = x * x
    series = x * (1 + y * (-1 / 3 + y * (2 / 15 + y * (-17 / 315))))
    return jnp.where(y < 0.06, series, 2 * _logistic(2 * x) - 1)


def _expm1(x: jax.Array, **_: Any) -> jax.Array:
    """exp(x) - 1, by its series near 0, where the difference would cancel."""
    series = x * (1 + x / 2 * (1 + x / 3 * (1 + x / 4 * (1 + x / 5 * (1 + x / 6)))))
    return jnp.where(jnp.abs(x) < 0.25, series, jnp.exp(x) - 1)


def _log1p(x: jax.Array, **_: Any) -> jax.Array:
    """log(1 + x), corrected by the factor that the rounding of 1 + x lost."""
    y = 1 + x
    lost = jnp.where(y == x, 1, x / (y - 1))  # 1 for large and infinite x
    return jnp.where(y == 1, x, jnp.log(y) * lost)


def _sqrt(x: jax.Array, **_: Any) -> jax.Array:
    return jnp.where((x == 0) | (x == jnp.inf), x, x * jax.lax.rsqrt(x))


def _floor(x: jax.Array) -> jax.Array:
    near = jnp.round(x)
    return jnp.where(near > x, near - 1, near)


def _ceil(x: jax.Array) -> jax.Array:
    return -_floor(-x)


def _one_minus_square(x: jax.Array) -> jax.Array:
    return 1 - x * x


def _tan(x: jax.Array, **_: Any) -> jax.Array:
    return jnp.sin(x) / jnp.cos(x)


def _not(x: jax.Array) -> jax.Array:
    return x ^ jnp.full_like(x, True if x.dtype == jnp.bool else -1)


def _integer_pow(x: jax.Array, y: int) -> jax.Array:
    """Mosaic has powers of 2 and more."""
    size = abs(y)
    power = x**size if size > 1 else x if size else jnp.ones_like(x)
    return power if y >= 0 else 1 / power


def _select_n(which: jax.Array, *cases: jax.Array) -> jax.Array:
    """Mosaic selects between two."""
    if len(cases) == 2:
        return jax.lax.select_n(which, *cases)
    result = cases[0]
    for i, case in enumerate(cases[1:], 1):
        result = jnp.where(which == i, case, result)
    return result


NOT_ON_GPUS: dict[str, Callable[..., Any]] = {
    "add_any": operator.add,  # of cotangents
    "ceil": _ceil,
    "expm1": _expm1,
    "floor": _floor,
    "integer_pow": _integer_pow,
    "log1p": _log1p,
    "not": _not,  # of JAX 0.12
    "one_minus_square": _one_minus_square,  # in the derivative of tanh, in newer JAX
    "select_n": _select_n,
    "sqrt": _sqrt,  # of JAX 0.10
    "tan": _tan,
}

NOT_ON_TPUS: dict[str, Callable[..., Any]] = {
    name: NOT_ON_GPUS[name] for name in ("add_any", "expm1", "one_minus_square", "select_n")
}
