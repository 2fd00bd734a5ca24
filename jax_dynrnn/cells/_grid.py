"""The equations of grid LSTMs, which go over time and over frequency, and their states."""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.export
import jax.numpy as jnp

from .._cell import Params, StagedCell, Stages
from .._init import Initializer, glorot_uniform, init_kernel, init_vector, zeros
from .._tools import along_last, batch_tuple, check_size, check_units, input_size, matmul
from ._lstm import clip

DIRECTIONS = {"": "state", "fwd": "fwd_state", "bwd": "bwd_state"}


@functools.cache
def state_type(name: str, directions: tuple[str, ...], blocks: tuple[int, ...]) -> Any:
    """TF1's named tuple for a grid: one type for equal grids, which pickle and export know."""
    fields = [
        f"{DIRECTIONS[direction]}_f{frequency:02d}_b{block:02d}_{part}"
        for direction in directions
        for block, frequencies in enumerate(blocks)
        for frequency in range(frequencies)
        for part in "cm"
    ]

    class State(collections.namedtuple("State", fields)):
        __slots__ = ()

        def __reduce__(self):
            return _state, (name, directions, blocks, tuple(self))

    State.__name__ = State.__qualname__ = name
    sizes = "_".join(map(str, blocks))
    jax.export.register_namedtuple_serialization(
        State, serialized_name=f"jax_dynrnn.{name}_{sizes}"
    )
    return State


def _state(name: str, directions: tuple, blocks: tuple, leaves: tuple) -> Any:
    return state_type(name, directions, blocks)(*leaves)


@dataclasses.dataclass(frozen=True)
class GridLSTM(StagedCell):
    """The configuration and the equations; a subclass names the directions."""

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

    def __post_init__(self):
        check_units(self)
        check_size(self, "feature_size")
        check_size(self, "frequency_skip")
        object.__setattr__(self, "forget_bias", float(self.forget_bias))
        if self.cell_clip is not None:
            if not float(self.cell_clip) >= 0:
                raise ValueError(f"{self._who}: expected cell_clip >= 0, got {self.cell_clip}")
            object.__setattr__(self, "cell_clip", float(self.cell_clip))
        lists = ("num_frequency_blocks", "start_freqindex_list", "end_freqindex_list")
        for name, least in zip(lists, (1, 0, 1), strict=True):
            self._check_list(name, least)
        starts, ends = self.start_freqindex_list, self.end_freqindex_list
        if starts is None and ends is None:
            if len(self.num_frequency_blocks) != 1:
                raise ValueError(
                    f"{self._who}: expected one number in num_frequency_blocks, or "
                    "start_freqindex_list and end_freqindex_list with it, got "
                    f"{self.num_frequency_blocks}"
                )
            return
        if starts is None or ends is None or not (
            len(starts) == len(ends) == len(self.num_frequency_blocks)
        ):  # fmt: skip
            raise ValueError(
                f"{self._who}: expected num_frequency_blocks, start_freqindex_list and "
                "end_freqindex_list of one length, got "
                f"{self.num_frequency_blocks}, {starts} and {ends}"
            )
        for block, size in enumerate(e - s for s, e in zip(starts, ends, strict=True)):
            self._check_block(block, size)

    @property
    def _who(self) -> str:
        return type(self).__name__

    def _check_list(self, name: str, least: int) -> None:
        given = getattr(self, name)
        if given is None and name != "num_frequency_blocks":
            return
        sizes = tuple(given) if isinstance(given, Sequence) else ()
        if not sizes or not all(hasattr(n, "__index__") and n.__index__() >= least for n in sizes):
            raise ValueError(
                f"{self._who}: expected {name} to be a list of ints >= {least}, one for each "
                f"block, got {given!r}"
            )
        object.__setattr__(self, name, tuple(n.__index__() for n in sizes))

    def _check_block(self, block: int, size: int) -> None:
        """That the windows in `size` features are as many as was said."""
        windows = (size - self.feature_size) // self.frequency_skip + 1
        if windows != self.num_frequency_blocks[block]:
            raise ValueError(
                f"{self._who}: expected num_frequency_blocks[{block}] to be the number of "
                f"windows of {self.feature_size} features, {self.frequency_skip} apart, in "
                f"{size} features, which is {max(0, windows)}, got "
                f"{self.num_frequency_blocks[block]}"
            )

    @property
    def state_tuple_type(self) -> Any:
        """The named tuple of the state: `c` and `m` for each window of each block."""
        blocks = tuple(self.num_frequency_blocks)
        return state_type(self.state_name, self.directions, blocks)

    def zero_state(self, batch_shape: Any = (), dtype: Any = jnp.float32) -> Any:
        shape, state = (*batch_tuple(batch_shape), self.num_units), self.state_tuple_type
        return state(*(jnp.zeros(shape, dtype) for _ in state._fields))

    @property
    def _gates(self) -> int:
        return 3 if self.couple_input_forget_gates else 4

    @property
    def _lstms(self) -> tuple[str, ...]:
        return ("freq",) if self.share_time_frequency_weights else ("freq", "time")

    def _peepholes(self, lstm: str) -> list[str]:
        gates = "IO" if self.couple_input_forget_gates else "FIO"
        return [f"W_{gate}_diag_{lstm}{of}" for gate in gates for of in "ft"]

    def init(self, key: jax.Array, input_shape: Any, dtype: Any = jnp.float32) -> Params:
        self._check_inputs(input_size(self, input_shape))
        keys = jax.random.split(key, len(self.directions))
        params = [self._init_direction(k, dtype) for k in keys]
        return params[0] if len(params) == 1 else dict(zip(self.directions, params, strict=True))

    def _init_direction(self, key: jax.Array, dtype: Any) -> Params:
        params, units, size = {}, self.num_units, self._gates * self.num_units
        keys = iter(jax.random.split(key, 16 * len(self.num_frequency_blocks)))
        for block in range(len(self.num_frequency_blocks)):
            for lstm in self._lstms:
                rows, bias = (self.feature_size, 2 * units), self.bias_initializer
                kernel = init_kernel(next(keys), rows, self._gates, self, dtype)
                params[f"W_{lstm[0]}_{block}_0"] = kernel
                params[f"B_{lstm[0]}_{block}"] = init_vector(bias, zeros, next(keys), size, dtype)
                for name in self._peepholes(lstm) if self.use_peepholes else ():
                    params[f"{name}_{block}"] = init_vector(
                        self.kernel_initializer, glorot_uniform, next(keys), units, dtype
                    )
        return params

    def _check_inputs(self, size: int) -> None:
        if self.end_freqindex_list is None:
            self._check_block(0, size)
        elif max(self.end_freqindex_list) > size:
            raise ValueError(
                f"{self._who}: expected at least {max(self.end_freqindex_list)} features, as "
                f"end_freqindex_list is {self.end_freqindex_list}, got {size}"
            )

    def prepare(self, params: Params, *, key: Any = None, batch_shape: tuple) -> Params:
        """For each direction and block: the kernels of its LSTMs side by side."""
        del key, batch_shape

        def block(params, k):
            def beside(name):
                return jnp.concatenate([params[name.format(x[0], k)] for x in self._lstms], -1)

            kernel, rows = beside("W_{}_{}_0"), self.feature_size
            peepholes = [p for x in self._lstms for p in self._peepholes(x) if self.use_peepholes]
            return {"inputs": kernel[:rows], "hidden": kernel[rows:], "bias": beside("B_{}_{}")} | {
                name: params[f"{name}_{k}"] for name in peepholes
            }

        each = [params] if len(self.directions) == 1 else [params[d] for d in self.directions]
        return [[block(p, k) for k in range(len(self.num_frequency_blocks))] for p in each]

    def _windows(self, inputs: jax.Array, direction: str) -> list[list[jax.Array]]:
        """The windows of each block, in the order in which the direction takes them."""
        self._check_inputs(inputs.shape[-1])
        starts = self.start_freqindex_list or (0,)
        return [
            [
                inputs[..., start + n * self.frequency_skip :][..., : self.feature_size]
                for n in range(windows)
            ]
            for start, windows in zip(starts, self.num_frequency_blocks, strict=True)
        ]

    def project(self, params: Params, inputs: jax.Array) -> Any:
        def dense(block, x):
            projected = matmul(x, block["inputs"])
            return projected + along_last(block["bias"], projected)

        return [
            [
                [dense(block, x) for x in windows]
                for block, windows in zip(blocks, self._windows(inputs, direction), strict=True)
            ]
            for blocks, direction in zip(params, self.directions, strict=True)
        ]

    def stages(self, params: Params, projected: Any, state: Any) -> Stages:
        before = iter(zip(state[::2], state[1::2], strict=True))
        outputs, new = [], []
        for blocks, direction in zip(params, projected, strict=True):
            for block, windows in zip(blocks, direction, strict=True):
                c_freq = m_freq = jnp.zeros_like(state[0])
                for x in windows:
                    c_time, m_time = next(before)
                    recurred = yield jnp.concatenate([m_time, m_freq], -1), block["hidden"]
                    (c_freq, c_time), (m_freq, m_time) = self._step(
                        block, x + recurred, (c_freq, c_time)
                    )
                    new += [c_time, m_time]
                    outputs += [m_time, m_freq]
        return jnp.concatenate(outputs, -1), self.state_tuple_type(*new)

    def _step(self, params: Params, gates: jax.Array, memories: tuple) -> tuple[tuple, tuple]:
        """Of both LSTMs, over frequency and over time: the new memories, and the outputs."""
        split = jnp.split(gates, self._gates * len(self._lstms), -1)
        lstms = [(self._lstms[0], split[: self._gates]), (self._lstms[-1], split[-self._gates :])]

        def peep(gate, lstm, x, memories):
            if not self.use_peepholes:
                return x
            f, t = (along_last(params[f"W_{gate}_diag_{lstm}{of}"], x) for of in "ft")
            return x + f * memories[0] + t * memories[1]

        def remember(lstm, gates, c):
            i, j = jax.nn.sigmoid(peep("I", lstm, gates[0], memories)), jnp.tanh(gates[1])
            if self.couple_input_forget_gates:
                return clip((1 - i) * c + i * j, self.cell_clip)
            f = jax.nn.sigmoid(peep("F", lstm, gates[2], memories) + self.forget_bias)
            return clip(f * c + i * j, self.cell_clip)

        new = tuple(remember(*lstm, c) for lstm, c in zip(lstms, memories, strict=True))
        outputs = tuple(
            jax.nn.sigmoid(peep("O", lstm, gates[-1], new)) * jnp.tanh(c)
            for (lstm, gates), c in zip(lstms, new, strict=True)
        )
        return new, outputs
