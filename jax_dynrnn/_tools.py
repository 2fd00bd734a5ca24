"""What cells are written with: checked sizes and products, explicit ranks, shapes."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def check_size(owner: Any, name: str) -> None:
    """Checks that the field `name` of a configuration is a positive int."""
    size = getattr(owner, name)
    described = f"{type(owner).__name__}: {name} should be a positive int, got {size!r}"
    if isinstance(size, bool) or not hasattr(size, "__index__"):
        raise TypeError(described)
    if size.__index__() <= 0:
        raise ValueError(described)
    object.__setattr__(owner, name, size.__index__())


def check_units(cell: Any) -> None:
    """Checks `num_units`, flags, numbers and functions."""
    check_size(cell, "num_units")
    check_options(cell)


def unboxed(params: Any) -> Any:
    """Params without what Flax's initializers put around them: where they lie on a mesh."""
    around = ("unbox", "raw_value")  # of Linen, of NNX

    def leaf(x):
        if hasattr(x, "unbox"):
            return x.unbox()
        return getattr(x, "raw_value", x)

    return jax.tree.map(leaf, params, is_leaf=lambda x: any(hasattr(x, name) for name in around))


def boxed_as(box: Any, value: Any) -> Any:
    """`value` with what is around another array, if anything is."""
    if hasattr(box, "replace_boxed"):
        return box.replace_boxed(value)
    return dataclasses.replace(box, raw_value=value) if hasattr(box, "raw_value") else value


def fold_in(key: Any, i: Any) -> Any:
    """The key of part `i`; of no key none."""
    return None if key is None else jax.random.fold_in(key, i)


def is_flag(x: Any) -> bool:
    """Whether `x` is True or False, of Python or NumPy."""
    return isinstance(x, bool | np.bool_)


def _is_number(x: Any) -> bool:
    return hasattr(x, "__float__") and not is_flag(x)


OPTIONS: dict[str, tuple[str, Callable, Callable]] = {
    "bool": ("True or False", is_flag, bool),
    "float": ("a float", _is_number, float),
    "Callable": ("a function", callable, lambda f: f),
    "Initializer": ("a function", callable, lambda f: f),
}
"""By the type of a field, as it is written: what is expected, whether it is that, the field."""


def check_options(owner: Any) -> None:
    """Checks the flags, numbers and functions of a configuration, by the types of its fields."""
    for field in dataclasses.fields(owner):
        kind, _, none = str(field.type).partition(" | ")
        value = getattr(owner, field.name)
        if kind not in OPTIONS or (none and value is None):
            continue
        expected, is_one, made = OPTIONS[kind]
        if not is_one(value):
            raise TypeError(
                f"{type(owner).__name__}: expected {field.name} to be {expected}"
                f"{' or None' * bool(none)}, got {value!r}"
            )
        object.__setattr__(owner, field.name, made(value))


def check_probability(owner: Any, name: str) -> None:
    """Checks that the field `name` of a configuration is a float in (0, 1]."""
    probability = getattr(owner, name)
    expected = f"{type(owner).__name__}: expected {name} to be a float in (0, 1], got "
    if isinstance(probability, jax.Array) or not hasattr(probability, "__float__"):
        raise TypeError(
            f"{expected}{type(probability).__name__}; for a rate that changes use "
            "two cells: their params are the same"
        )
    if not 0 < float(probability) <= 1:
        raise ValueError(f"{expected}{probability!r}")
    object.__setattr__(owner, name, float(probability))


def batch_tuple(batch_shape: Any) -> tuple:
    """`zero_state`'s batch shape, an int or a tuple, as a tuple."""
    return tuple(batch_shape) if isinstance(batch_shape, tuple | list) else (batch_shape,)


def matmul(x: jax.Array, kernel: jax.Array, name: str = "inputs") -> jax.Array:
    """`x @ kernel`, after checking that the two belong together.

    XLA accumulates a 16-bit product in float32 and rounds the result.
    """
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(
            f"{name}: expected a real floating dtype, got {x.dtype}, which this cell "
            "cannot multiply by its kernel; embed or one-hot first"
        )
    if x.dtype != kernel.dtype:
        raise TypeError(
            f"{name}: expected {kernel.dtype}, the dtype of the params, got {x.dtype}; "
            "cast one of them"
        )
    if x.shape[-1] != kernel.shape[0]:
        raise ValueError(
            f"{name}: expected a last axis of {kernel.shape[0]}, which the params were "
            f"made for, got {x.shape[-1]}, in shape {tuple(x.shape)}"
        )
    return x @ kernel


def dense(layer: Any, x: jax.Array, name: str = "inputs") -> jax.Array:
    """`x @ kernel + bias`."""
    y = matmul(x, layer["kernel"], name)
    return y + along_last(layer["bias"], y)


def widened(x: jax.Array) -> jax.Array:
    """`x` in float32 if it has 16 bits: sums of squares overflow there."""
    return x.astype(jnp.float32) if x.dtype.itemsize < 4 else x


def along_last(vector: jax.Array, like: jax.Array) -> jax.Array:
    """A `[Z]` vector with the leading axes of `like`: explicit rank promotion."""
    return jnp.expand_dims(vector, tuple(range(like.ndim - vector.ndim)))


def is_shape(x: Any) -> bool:
    """Whether `x` is one shape, not a pytree of shapes (which may hold tuples too)."""
    return isinstance(x, tuple | list) and not any(
        isinstance(size, tuple | list | dict) for size in x
    )


def map_shapes(f: Callable, shapes: Any) -> Any:
    """Maps over a pytree whose leaves are shapes."""
    return jax.tree.map(f, shapes, is_leaf=is_shape)


def input_size(cell: Any, input_shape: Any) -> int:
    """The one feature size of a cell that takes one array `[..., D]`."""
    if hasattr(input_shape, "shape"):
        raise ValueError(
            f"{cell!r}: expected the shape of the inputs, got an array; give its shape, "
            f"{tuple(input_shape.shape)}"
        )
    if not is_shape(input_shape) or not input_shape:
        raise ValueError(
            f"{cell!r} takes one array of inputs [batch, time, features]: expected one "
            f"shape, got {input_shape!r}"
        )
    size = input_shape[-1]
    if not hasattr(size, "__index__"):
        raise ValueError(
            f"{cell!r} needs to know the number of features, the last size of the input "
            f"shape: expected an int, got {size!r}"
        )
    return size.__index__()


def is_configuration(cell: Any) -> bool:
    """Whether a cell, and every cell inside it, says that it may be compared.

    Those are registered as static: equal ones are compiled once. Any other object is
    closed over; it is not even hashed.
    """
    if jax.tree.leaves(cell):
        return False
    fields = dataclasses.fields(cell) if dataclasses.is_dataclass(cell) else ()
    values = [getattr(cell, field.name) for field in fields]
    parts = [x for v in values for x in (v if isinstance(v, tuple) else (v,))]
    if not all(is_configuration(x) for x in parts if hasattr(x, "zero_state")):
        return False
    try:
        hash(cell)
    except TypeError:
        return False
    return True


def remembering(ask: Callable) -> Callable:
    """`ask(cell, ...)`, which is asked once of cells that are equal.

    Not of those that hold arrays, or what is being traced: they would live as long as the process.
    """
    remembered = functools.lru_cache(1024)(ask)

    def asked(cell: Any, *more: Any) -> Any:
        once = is_configuration(cell) and not _closes_over_arrays(cell)
        return remembered(cell, *more) if once else ask(cell, *more)

    return asked


def _closes_over_arrays(x: Any) -> bool:
    """Whether functions in a configuration close over arrays."""
    if isinstance(x, tuple | list):
        return any(map(_closes_over_arrays, x))
    if dataclasses.is_dataclass(x):
        return any(map(_closes_over_arrays, vars(x).values()))
    cells = getattr(x, "__closure__", None) or ()
    return any(isinstance(cell.cell_contents, jax.Array) for cell in cells)
