"""Checks of dtypes and keys.

They are in a file of their own because cells need them, and `_check_data` imports cells.
"""

from __future__ import annotations

import difflib
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from ._types import DTypeLike, Key


def got(x: object) -> str:
    """A rejected value in an error message; for a traced one also what to do."""
    if not isinstance(x, jax.core.Tracer):
        return f"{x!r:.200}"
    return (
        f"a traced {x.aval.str_short()}: the program depends on its value, which must be known "  # pyright: ignore
        "when it is traced; jax.jit(f, static_argnames=...) keeps it a Python value"
    )


def floating(dtype: DTypeLike | None) -> Any:
    """The dtype to compute in, after checking that it is a real floating one; `None` stays."""
    if dtype is None or dtype is float:
        return None if dtype is None else jnp.result_type(float)
    expected = "dtype: expected a real floating dtype"
    if isinstance(dtype, jax.Array | np.ndarray):
        raise TypeError(f"{expected}, got an array; its dtype is x.dtype")
    try:
        found = jnp.dtype(dtype)
    except TypeError:
        name = dtype if isinstance(dtype, str) else ""
        close = difflib.get_close_matches(name.replace("fp", "float"), FLOATING, 1, 0.4)
        hint = f"; did you mean {close[0]!r}?" if close else "; jnp.float32 is one"
        raise TypeError(f"{expected}, got {got(dtype)}{hint}") from None
    if not jnp.issubdtype(found, jnp.floating):
        raise TypeError(f"{expected}, got {found}")
    # Without x64 JAX would silently compute in float32.
    if jax.dtypes.canonicalize_dtype(found) != found:
        raise ValueError(
            f"dtype: {found} needs 64-bit types, which are off; turn them on before anything "
            "runs, jax.config.update('jax_enable_x64', True), or use jnp.float32"
        )
    return found


FLOATING = ("bfloat16", "float16", "float32", "float64")
"""The names that are suggested for a misspelt dtype."""


def one_key(key: Key) -> None:
    """Checks that `key` is one key, or `None`."""
    if key is not None:
        a_key(key)


def a_key(key: Any) -> None:
    """Checks that `key` is one key, typed or of the older kind, a uint32 vector."""
    dtype = getattr(key, "dtype", None)
    has_shape = isinstance(key, jax.Array | jax.ShapeDtypeStruct)
    typed = has_shape and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    legacy = dtype == np.uint32 and key.ndim == 1
    if not (legacy or (typed and key.ndim == 0)):
        is_array = isinstance(key, jax.Array | np.ndarray)
        found = f"shape {key.shape} of {dtype}" if is_array else f"{key!r:.80}"
        raise ValueError(f"key: expected one key, as of jax.random.key(0), got {found}")
