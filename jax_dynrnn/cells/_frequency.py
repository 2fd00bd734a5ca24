"""The configuration of a grid LSTM: the windows over its inputs, and the names of its states."""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.export
import jax.numpy as jnp

from .._cell import StagedCell
from .._init import Initializer
from .._tools import batch_tuple, check_size
from .._types import BatchShape, DTypeLike
from ._lstm import check_lstm

STATE_PREFIXES = {"": "state", "fwd": "fwd_state", "bwd": "bwd_state"}
"""TF1's prefix of the state's fields, by direction."""


# Cached, since JAX compares the types of NamedTuples: equal grids must have one and the same type.
@functools.cache
def state_type(name: str, directions: tuple[str, ...], blocks: tuple[int, ...]) -> Any:
    """Creates the NamedTuple type of a grid's state, with TF1's field names.

    Its values can be pickled, and programs with them exported by `jax.export`.
    """
    fields = [
        f"{STATE_PREFIXES[direction]}_f{frequency:02d}_b{block:02d}_{part}"
        for direction in directions
        for block, frequencies in enumerate(blocks)
        for frequency in range(frequencies)
        for part in "cm"
    ]

    class State(collections.namedtuple("State", fields)):
        __slots__ = ()

        def __reduce__(self):
            # Pickle cannot find a type by name that is created at run time.
            return _state, (name, directions, blocks, tuple(self))

    State.__name__ = State.__qualname__ = name
    sizes = "_".join(map(str, blocks))
    jax.export.register_namedtuple_serialization(
        State, serialized_name=f"jax_dynrnn.{name}_{sizes}"
    )
    return State


def _state(
    name: str, directions: tuple[Any, ...], blocks: tuple[Any, ...], leaves: tuple[Any, ...]
) -> Any:
    """Reconstructs a state; pickles refer to this function by its name."""
    return state_type(name, directions, blocks)(*leaves)


@dataclasses.dataclass(frozen=True)
class FrequencyBlocks(StagedCell):
    """The configuration of a grid LSTM; a subclass defines the directions."""

    num_units: int
    _: dataclasses.KW_ONLY
    feature_size: int
    num_frequency_blocks: Sequence[int]
    frequency_skip: int = 1
    start_freqindex_list: Sequence[int] | None = None
    end_freqindex_list: Sequence[int] | None = None
    use_peepholes: bool = False
    share_time_frequency_weights: bool = False
    couple_input_forget_gates: bool = False
    cell_clip: float | None = None
    forget_bias: float = 1.0
    kernel_initializer: Initializer | None = None
    recurrent_initializer: Initializer | None = None
    bias_initializer: Initializer | None = None

    directions: ClassVar[tuple[str, ...]]
    state_name: ClassVar[str]
    # check_lstm reads these; a grid LSTM has no projection.
    num_proj: ClassVar[None] = None
    proj_clip: ClassVar[None] = None

    def __post_init__(self) -> None:
        check_lstm(self)
        check_size(self, "feature_size")
        check_size(self, "frequency_skip")
        self._check_list("num_frequency_blocks", 1)
        starts, ends = self.start_freqindex_list, self.end_freqindex_list
        if starts is None and ends is None:
            if len(self.num_frequency_blocks) != 1:
                raise ValueError(
                    f"{type(self).__name__}: expected one number in num_frequency_blocks, or "
                    "start_freqindex_list and end_freqindex_list with it, got "
                    f"{self.num_frequency_blocks}"
                )
            return
        self._check_list("start_freqindex_list", 0)
        self._check_list("end_freqindex_list", 1)
        for block, (start, end) in enumerate(self._bounds()):
            self._check_block(block, end - start)

    def _check_list(self, name: str, minimum: int) -> None:
        given, blocks = getattr(self, name), self.num_frequency_blocks
        sizes = tuple(given) if isinstance(given, Sequence) else ()
        are_valid = all(hasattr(n, "__index__") and n.__index__() >= minimum for n in sizes)
        if not sizes or not are_valid or len(sizes) != len(blocks):
            raise ValueError(
                f"{type(self).__name__}: expected {name} to be a list of ints >= {minimum}, one "
                f"for each block, got {given!r} with num_frequency_blocks={blocks!r}"
            )
        # A list becomes a tuple, which can be hashed.
        object.__setattr__(self, name, tuple(n.__index__() for n in sizes))

    def _check_block(self, block: int, size: int) -> None:
        """Checks that `size` features have as many windows as `num_frequency_blocks` states."""
        windows = max(0, (size - self.feature_size) // self.frequency_skip + 1)
        if windows != self.num_frequency_blocks[block]:
            raise ValueError(
                f"{type(self).__name__}: expected num_frequency_blocks[{block}] to be {windows}, "
                f"the windows of feature_size={self.feature_size} in {size} features with "
                f"frequency_skip={self.frequency_skip}, got {self.num_frequency_blocks[block]}"
            )

    def _bounds(self) -> list[tuple[int, int]]:
        """Returns the start and end of each block; none if they were not given."""
        starts, ends = self.start_freqindex_list or (), self.end_freqindex_list or ()
        return list(zip(starts, ends, strict=True))

    def check_inputs(self, size: int) -> None:
        """Checks that all windows lie within inputs of `size` features."""
        end = max([end for _, end in self._bounds()], default=None)
        if end is None:  # one block, of all features
            self._check_block(0, size)
        elif end > size:
            raise ValueError(
                f"{type(self).__name__}: expected inputs of at least {end} features, as "
                f"end_freqindex_list={self.end_freqindex_list}, got {size}"
            )

    def windows(self, inputs: jax.Array, direction: str) -> list[list[jax.Array]]:
        """Returns the windows of each block, in the order in which the direction visits them."""
        del direction
        skip, size = self.frequency_skip, self.feature_size
        blocks = zip(self.start_freqindex_list or (0,), self.num_frequency_blocks, strict=True)
        starts = [[start + k * skip for k in range(windows)] for start, windows in blocks]
        return [[inputs[..., k : k + size] for k in block] for block in starts]

    @property
    def state_tuple_type(self) -> Any:
        """The NamedTuple type of the state: `c` and `m` for each window of each block."""
        return state_type(self.state_name, self.directions, tuple(self.num_frequency_blocks))

    def zero_state(self, batch_shape: BatchShape = (), dtype: DTypeLike = jnp.float32) -> Any:
        shape, state = (*batch_tuple(batch_shape), self.num_units), self.state_tuple_type
        return state(*(jnp.zeros(shape, dtype) for _ in state._fields))
