"""Random numbers for the rows of one device, equal to what these rows get on a single device.

A cell draws arrays `[rows, ...]` with the key of a step. A device that has a part of the batch must
get the same part of each draw of the whole batch. So its key belongs to a PRNG implementation whose
draws return that part. Which draws have a row axis is found by comparing the shapes in two traced
steps: one of the whole batch, and one of the rows of a device.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.extend.random
import jax.numpy as jnp
from jax.extend import core

from .._tools import inner_jaxprs

THREEFRY = "threefry2x32"
DRAWS = ("random_bits", "random_split")
MOVES_KEYS = frozenset(
    "broadcast_in_dim concatenate copy dynamic_slice dynamic_update_slice expand_dims gather pvary "
    "random_clone reshape reshard rev select_n slice split squeeze transpose unstack".split()
)
"""Primitives that take keys, and neither draw nor make other keys."""


class UnknownDraw(Exception):
    """A primitive takes a key, and it is not known what it draws."""


class Draw(NamedTuple):
    """One equation that takes a key."""

    primitive: str
    key_shape: tuple[int, ...]
    shape: tuple[int, ...]
    """Of what is drawn for each key, or of the numbers that are folded in."""
    is_of_run: bool
    """Whether the key comes from the key of the run."""


def draws_of(jaxpr: core.Jaxpr) -> list[Draw]:
    """All draws of a step, in their order, whose key is of `UNDIVIDED`.

    Raises:
        UnknownDraw: it is not known what the step draws.
    """
    return [*_draws(jaxpr)]


def _draws(jaxpr: core.Jaxpr) -> Iterator[Draw]:
    for equation in jaxpr.eqns:
        inside = inner_jaxprs(equation)
        for inner in inside:
            yield from _draws(inner)
        avals: list[Any] = [v.aval for v in equation.invars]
        keys = [aval for aval in avals if _is_key(aval)]
        name = equation.primitive.name
        if not keys or inside or name in MOVES_KEYS:
            continue
        (key,) = keys
        if name == "random_fold_in":
            shape = avals[1].shape
        elif name in DRAWS:
            shape = equation.params["shape"]
        else:
            raise UnknownDraw(name)
        yield Draw(name, key.shape, tuple(shape), "rows" in str(key.dtype))


def _is_key(aval: Any) -> bool:
    return jnp.issubdtype(aval.dtype, jax.dtypes.prng_key)


@dataclasses.dataclass(frozen=True)
class RowDraws:
    """How the draws of one part of the rows follow from those of the whole batch."""

    row_axis_of_draw: tuple[tuple[tuple[str, tuple[int, ...]], tuple[int, tuple[int, ...]]], ...]
    """By primitive and the shape that a part draws: the axis of its rows, and the shape that the
    whole batch draws. Other draws are the same for all parts."""

    @classmethod
    def of(cls, whole: list[Draw], own: list[Draw], sizes: tuple[int, int], key: Any) -> Any:
        """From the draws of a step, of the whole batch and of a part, whose sizes are `sizes`.

        `None` if it is not known which of them belong to which row.
        """
        if len(whole) != len(own):
            return None
        found: dict[Any, Any] = {}
        for of_whole, of_own in zip(whole, own, strict=True):
            axis = _row_axis(of_whole, of_own, sizes)
            # Other generators draw with one key of many: `vmap` over keys gives other numbers.
            has_row_keys = of_whole.key_shape != of_own.key_shape
            if axis is None or (has_row_keys and _base(key) != THREEFRY):
                return None
            draw = of_own.primitive, of_own.shape
            if found.setdefault(draw, (axis, of_whole.shape)) != (axis, of_whole.shape):
                return None
        return cls(tuple((draw, axis) for draw, axis in found.items() if axis[0] >= 0))

    def key(self, key: jax.Array, part: jax.Array) -> jax.Array:
        """The key of part number `part`."""
        data = jax.random.key_data(as_typed(key))
        data = jnp.concatenate([data, part.astype(data.dtype)[None]])
        return jax.random.wrap_key_data(data, impl=_implementation(self, _base(key)))


UNDIVIDED = RowDraws(())
"""Every draw is that of the whole batch: for tracing."""


def as_typed(key: Any) -> Any:
    """A key, if it is of numbers, as an array of keys."""
    is_typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    return key if is_typed else jax.random.wrap_key_data(key)


def _base(key: Any) -> Any:
    """The PRNG implementation of a key, or of the type of a key."""
    if isinstance(key, jax.ShapeDtypeStruct):
        return jax.random.key_impl(jax.eval_shape(as_typed, key))
    return jax.random.key_impl(as_typed(key))


def _row_axis(whole: Draw, own: Draw, sizes: tuple[int, int]) -> int | None:
    """Which axis of a draw the rows are; -1: none is; `None`: that is not known."""
    if (whole.primitive, whole.is_of_run) != (own.primitive, own.is_of_run):
        return None
    if whole.shape == own.shape:
        return -1
    # The numbers that are folded in for rows count from 0 in every part, and so would repeat.
    if whole.primitive not in DRAWS or not whole.is_of_run or whole.key_shape != own.key_shape:
        return None
    if len(whole.shape) != len(own.shape):
        return None
    sizes_of_axes = enumerate(zip(whole.shape, own.shape, strict=True))
    differ = [i for i, (of_whole, of_own) in sizes_of_axes if of_whole != of_own]
    if len(differ) != 1:
        return None
    axis = differ[0]
    return axis if (whole.shape[axis], own.shape[axis]) == sizes else None


@functools.lru_cache(maxsize=256)
def _implementation(draws: RowDraws, base: Any) -> Any:
    """A PRNG implementation that draws, for a part of the rows, what `base` draws for the batch.

    The data of a key are those of the key of the whole batch, and the number of the part.
    """
    of_draw = dict(draws.row_axis_of_draw)
    size = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0, impl=base))).shape[0]

    def whole_key(data):
        return jax.random.wrap_key_data(data[:size], impl=base)

    def drawn(name, data, shape, draw, from_threefry):
        """What `draw(key, shape)` gives for the whole batch, the rows of this part."""
        if (name, shape) not in of_draw:
            return draw(whole_key(data), shape)
        axis, whole_shape = of_draw[name, shape]
        start = data[size] * jnp.uint32(shape[axis])
        is_threefry = base == THREEFRY and jax.config.jax_threefry_partitionable  # pyright: ignore
        if is_threefry and math.prod(whole_shape) < 2**32:
            return from_threefry(*_threefry(data[:size], shape, whole_shape, axis, start))
        every = draw(whole_key(data), whole_shape)
        return jax.lax.dynamic_slice_in_dim(every, start, shape[axis], axis)

    def split(data, shape):
        def draw(key, shape):
            return jax.random.key_data(jax.random.split(key, shape))

        def from_threefry(high, low):
            return jnp.stack([high, low], -1)

        keys = drawn("random_split", data, tuple(shape), draw, from_threefry)
        return jnp.concatenate([keys, jnp.broadcast_to(data[size:], (*shape, 1))], -1)

    def random_bits(data, bit_width, shape):
        dtype = jnp.dtype(f"uint{bit_width}")

        def draw(key, shape):
            return jax.random.bits(key, shape, dtype)

        def from_threefry(high, low):
            if bit_width == 64:
                return (high.astype(dtype) << jnp.asarray(32, dtype)) | low.astype(dtype)
            return (high ^ low).astype(dtype)

        return drawn("random_bits", data, tuple(shape), draw, from_threefry)

    def fold_in(data, message):
        folded = jax.random.key_data(jax.random.fold_in(whole_key(data), message))
        return jnp.concatenate([folded, data[size:]])

    def seed(_):
        raise NotImplementedError("the key of a part is made from the key of the whole batch")

    return jax.extend.random.define_prng_impl(
        key_shape=(size + 1,),
        seed=seed,
        split=split,
        random_bits=random_bits,
        fold_in=fold_in,
        name="rows of a batch",
        tag="rows",
    )


def _threefry(
    key: jax.Array, shape: tuple[int, ...], whole_shape: tuple[int, ...], axis: int, start: Any
) -> tuple[jax.Array, jax.Array]:
    """The two halves of Threefry's hash of the indices of a part of a draw.

    Each number depends on the key and its own index in the whole draw, so that others need not be
    computed.
    """
    index = jnp.zeros(shape, jnp.uint32)
    for i, stride in enumerate(_strides(whole_shape)):
        offset = start if i == axis else jnp.uint32(0)
        index += (jax.lax.broadcasted_iota(jnp.uint32, shape, i) + offset) * jnp.uint32(stride)
    threefry: Callable[..., Any] = jax.extend.random.threefry2x32_p.bind
    high, low = threefry(key[0], key[1], jnp.zeros_like(index), index)
    return high, low


def _strides(shape: tuple[int, ...]) -> list[int]:
    return [math.prod(shape[i + 1 :]) for i in range(len(shape))]
