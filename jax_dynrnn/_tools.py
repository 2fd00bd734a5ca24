"""Helpers for writing cells: checks of options, checked matmuls, rank promotion, and shapes."""

from __future__ import annotations

import dataclasses
import functools
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Union, get_args, get_origin, get_type_hints

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from ._check_options import got
from ._types import BatchShape, Key, Params, PyTree, Shapes


def check_size(owner: object, name: str) -> None:
    """Checks that the field `name` of a configuration is a positive int."""
    size = getattr(owner, name)
    message = f"{type(owner).__name__}: {name} should be a positive int, got {size!r}"
    if isinstance(size, bool) or not hasattr(size, "__index__"):
        raise TypeError(message)
    if size.__index__() <= 0:
        raise ValueError(message)
    # A NumPy integer becomes an int. Configurations are frozen, hence object.__setattr__.
    object.__setattr__(owner, name, size.__index__())


def check_units(cell: Any) -> None:
    """Checks `num_units`, and all fields that are flags, numbers or functions."""
    check_size(cell, "num_units")
    check_options(cell)


def unboxed(params: Params) -> Any:
    """Strips Flax's partitioning metadata, which initializers may add, from params."""

    # Boxes are recognised by their attributes, because only the Flax layers may import Flax.
    def is_box(x):
        return hasattr(x, "replace_boxed") or hasattr(x, "raw_value")  # Linen's, and NNX's

    def strip(x):
        if hasattr(x, "replace_boxed"):
            # Not x.unbox(), which may add a sharding constraint of the axes that the box names.
            return jax.tree.leaves(x)[0]
        return getattr(x, "raw_value", x)

    return jax.tree.map(strip, params, is_leaf=is_box)


def boxed_as(box: Any, value: Any) -> Any:
    """Adds the partitioning metadata of `box`, if it has any, to `value`.

    Metadata that names another number of axes does not apply to `value`, and is dropped.
    """
    names = getattr(box, "names", None) or getattr(box, "metadata", {}).get("out_sharding")
    if names is not None and len(names) != value.ndim:
        return value
    if hasattr(box, "replace_boxed"):
        return box.replace_boxed(value)
    return dataclasses.replace(box, raw_value=value) if hasattr(box, "raw_value") else value


def as_dicts(params: Params) -> Any:
    """Converts every mapping in `params`, such as a `FrozenDict`, to a dict."""
    if not isinstance(params, Mapping):
        return params
    return {name: as_dicts(x) for name, x in params.items()}


def fold_in(key: Key, i: Any) -> Any:
    """`jax.random.fold_in`, or `None` if there is no key."""
    return None if key is None else jax.random.fold_in(key, i)


def inner_jaxprs(equation: Any) -> list[Any]:
    """The jaxprs among the params of an equation: bodies of loops, branches, and so on."""

    def is_jaxpr(x: object) -> bool:
        return isinstance(x, core.Jaxpr | core.ClosedJaxpr)

    leaves = jax.tree.leaves(tuple(equation.params.values()), is_leaf=is_jaxpr)
    return [getattr(x, "jaxpr", x) for x in leaves if is_jaxpr(x)]


def depends_on_last(f: Callable[..., Any], *arguments: Any) -> bool:
    """Whether a result of `f` depends on its last argument, one array.

    It decides whether a step uses its key: `f` is traced, and its jaxpr is walked backwards from
    the results.
    """
    jaxpr = jax.make_jaxpr(f)(*arguments).jaxpr
    needed = {v for v in jaxpr.outvars if not isinstance(v, core.Literal)}
    for equation in reversed(jaxpr.eqns):
        if not needed.isdisjoint(equation.outvars):
            needed.update(v for v in equation.invars if not isinstance(v, core.Literal))
    return jaxpr.invars[-1] in needed


def is_flag(x: object) -> bool:
    """Whether `x` is a bool of Python or NumPy."""
    return isinstance(x, bool | np.bool_)


def _is_number(x: object) -> bool:
    return hasattr(x, "__float__") and not is_flag(x)


class OptionType(NamedTuple):
    """The values that a field of a configuration accepts."""

    expected: str
    accepts: Callable[[Any], bool]
    convert: Callable[[Any], Any]
    allows_none: bool = False


def _identity(x: Any) -> Any:
    return x


OPTION_TYPES: dict[Any, OptionType] = {
    bool: OptionType("True or False", is_flag, bool),
    float: OptionType("a float", _is_number, float),
    Callable: OptionType("a function", callable, _identity),
}
"""The types of options, by the annotation of the field."""


@functools.cache
def _option_types(cls: type[Any]) -> dict[str, OptionType]:
    """The type of each field of a configuration that is a flag, a number or a function."""
    found = {}
    for name, hint in get_type_hints(cls).items():
        is_union = get_origin(hint) in (Union, types.UnionType)
        members = get_args(hint) if is_union else (hint,)
        not_none = [t for t in members if t is not type(None)]
        if len(not_none) != 1:
            continue
        # The origin of Callable[..., Any] is Callable; a plain type has none.
        option = OPTION_TYPES.get(get_origin(not_none[0]) or not_none[0])
        if option is not None:
            found[name] = option._replace(allows_none=len(members) > len(not_none))
    return found


def check_options(owner: Any) -> None:
    """Checks the flags, numbers and functions of a configuration, by the types of its fields."""
    option_types = _option_types(type(owner))
    for field in dataclasses.fields(owner):
        value, option = getattr(owner, field.name), option_types.get(field.name)
        if option is None or (option.allows_none and value is None):
            continue
        if not option.accepts(value):
            raise TypeError(
                f"{type(owner).__name__}: expected {field.name} to be {option.expected}"
                f"{' or None' * option.allows_none}, got {value!r}"
            )
        # A NumPy scalar, or an array of rank 0, becomes a Python value, which can be hashed.
        object.__setattr__(owner, field.name, option.convert(value))


def check_probability(owner: object, name: str) -> None:
    """Checks that the field `name` of a configuration is a float in (0, 1]."""
    probability = getattr(owner, name)
    expected = f"{type(owner).__name__}: expected {name} to be a float in (0, 1], got "
    # An array, which may be traced, cannot be part of a static configuration.
    if isinstance(probability, jax.Array) or not hasattr(probability, "__float__"):
        raise TypeError(
            f"{expected}{type(probability).__name__}; for a rate that changes use "
            "two cells: their params are the same"
        )
    if not 0 < float(probability) <= 1:
        raise ValueError(f"{expected}{probability!r}")
    object.__setattr__(owner, name, float(probability))


def is_symbolic(size: Any) -> bool:
    """Whether `size` is a symbolic dimension of `jax.export`."""
    # JAX has no public name for the type of symbolic dimensions.
    is_of_jax = type(size).__module__.startswith("jax.")
    return is_of_jax and not isinstance(size, type | jax.Array) and not hasattr(size, "dtype")


def batch_tuple(batch_shape: BatchShape) -> tuple[Any, ...]:
    """Converts the batch shape of `zero_state`, an int or a tuple, to a tuple, and checks it."""
    sizes = tuple(batch_shape) if isinstance(batch_shape, tuple | list) else (batch_shape,)
    for size in sizes:
        if is_symbolic(size):
            continue
        # A tracer has __index__ too, but shapes must be known at trace time.
        is_traced = isinstance(size, jax.core.Tracer)
        is_size = hasattr(size, "__index__") and not (is_flag(size) or getattr(size, "ndim", 0))
        if is_traced or not is_size or (isinstance(size, int | np.integer) and size < 0):
            raise TypeError(
                f"batch_shape: expected an int >= 0, or a tuple of them, got {got(batch_shape)}"
            )
    return sizes


def matmul(x: jax.Array, kernel: jax.Array, name: str = "inputs") -> jax.Array:
    """Computes `x @ kernel`, after checking that dtypes and sizes match.

    XLA accumulates a 16-bit product in float32 and rounds the result.
    """
    # Checked here, since JAX would promote dtypes, and its errors would not name the argument.
    x = jnp.asarray(x)
    if not jnp.issubdtype(kernel.dtype, jnp.floating):
        raise TypeError(
            f"params: expected kernels of a real floating dtype, got {kernel.dtype}; cast the "
            "params to the dtype of the inputs"
        )
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
    """Computes `x @ kernel + bias`, with the params of a dense layer."""
    y = matmul(x, layer["kernel"], name)
    return y + along_last(layer["bias"], y)


def widened(x: jax.Array) -> jax.Array:
    """Casts an array of 16 bits to float32, in which sums of squares do not overflow."""
    return x.astype(jnp.float32) if x.dtype.itemsize < 4 else x


def along_last(vector: jax.Array, like: jax.Array) -> jax.Array:
    """Expands a vector `[Z]` to the rank of `like`, so that it broadcasts along the last axis."""
    # Implicit rank promotion is an error where users set jax_numpy_rank_promotion to "raise".
    return jnp.expand_dims(vector, tuple(range(like.ndim - vector.ndim)))


def filled_like(value: Any, tree: PyTree) -> Any:
    """A pytree of the structure of `tree` whose every leaf is `value`."""
    return jax.tree.map(lambda _: value, tree)


def is_shape(x: object) -> bool:
    """Whether `x` is one shape, rather than a pytree of shapes (which may be a tuple too)."""
    return isinstance(x, tuple | list) and not any(
        isinstance(size, tuple | list | Mapping) for size in x
    )


def map_shapes(f: Callable[..., Any], shapes: Shapes) -> Any:
    """Maps over a pytree whose leaves are shapes."""
    return jax.tree.map(f, shapes, is_leaf=is_shape)


def input_size(cell: Any, input_shape: Shapes) -> int:
    """Returns the number of features `D`, for a cell that takes one array `[..., D]`."""
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
    if (features := size.__index__()) < 0:
        raise ValueError(f"{cell!r}: expected a number of features >= 0, got {features}")
    return features


def importable_name(x: object) -> str | None:
    """Returns the name by which an object can be imported from its module, or `None`."""
    module, name = getattr(x, "__module__", None), getattr(x, "__qualname__", None)
    if not (callable(x) and isinstance(module, str) and isinstance(name, str)):
        return None
    return name if getattr(sys.modules.get(module), name, None) is x else None
