"""What a user asked for, and what an engine runs.

`B` is the batch size, `T` the number of time steps.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from .._cell import Cell
from .._tools import fold_in
from .._types import Index, Inputs, Key, Params, State
from .devices import Device, device
from .masks import Masks, first_valid_step, select


@dataclasses.dataclass(frozen=True)
class _Batch:
    """A padded batch and a cell: what a request and a run have in common."""

    cell: Cell
    params: Any
    inputs: Any
    """Pytree of `[B, T, ...]`, or `[T, B, ...]` where `time_axis` is 0."""
    initial_state: Any = None
    key: Any = None
    _: dataclasses.KW_ONLY
    time_axis: int = 1
    reverse: bool = False
    dtype: Any = jnp.float32
    unroll: int = 1
    remat: Any = None
    device: Device = dataclasses.field(default_factory=device)
    """What it runs on."""
    row_axes: tuple[str, ...] | None = None
    """The mesh axes that the rows of the whole batch are distributed over, if this is the part of
    one device of a mesh."""
    key_derivations: tuple[Callable[..., Any], ...] = ()
    """The functions that derive this cell's key from the key of a step, those of the outermost
    wrapper or stack first."""

    @property
    def platform(self) -> str:
        """`"cpu"`, `"gpu"` or `"tpu"`."""
        return self.device.platform

    @property
    def time(self) -> Any:
        """`T`: an int, or a symbolic size."""
        return jax.tree.leaves(self.inputs)[0].shape[self.time_axis]

    @property
    def batch(self) -> Any:
        """`B`: an int, or a symbolic size."""
        return jax.tree.leaves(self.inputs)[0].shape[1 - self.time_axis]

    @property
    def has_known_sizes(self) -> bool:
        """Whether neither `B` nor `T` is symbolic."""
        return isinstance(self.time, int) and isinstance(self.batch, int)

    @property
    def remat_steps(self) -> int | None:
        """The steps between saved states, or `None` if `remat` is no interval."""
        if self.remat is None or self.remat == "offload":
            return None
        return math.isqrt(self.time - 1) + 1 if self.remat == "sqrt" else min(self.remat, self.time)

    def step_key(self, t: Index) -> Key:
        """The key of step `t`, or `None`."""
        key = fold_in(self.key, t)
        for derive in self.key_derivations:
            key = derive(key)
        return key


STATIC = [
    *("cell", "time_axis", "reverse", "dtype", "unroll", "remat"),
    *("device", "row_axes", "key_derivations"),
]


@dataclasses.dataclass(frozen=True)
class Request(_Batch):
    """What a user asked for: engines say of it whether they can run it.

    Its arrays may be `jax.ShapeDtypeStruct`s, and params and states have not been checked against
    the cell. `initial_state` is `None` where it was not given.
    """

    lengths: Any = None
    """Integers `[B]`, or `None`."""
    mask: Any = None
    """bool, laid out like the inputs, or `None`."""
    resets: Any = None
    """bool, laid out like the inputs, or `None`."""

    @property
    def raw_params(self) -> Any:
        """The params, which have not been prepared."""
        return self.params

    @property
    def is_mapped(self) -> bool:
        """Whether this is inside of a `jax.vmap` that maps an argument."""
        # JAX has no public name for these tracers.
        return any(type(x).__name__ == "BatchTracer" for x in jax.tree.leaves(self))


jax.tree_util.register_dataclass(
    Request, ["params", "inputs", "initial_state", "key", "lengths", "mask", "resets"], STATIC
)


@dataclasses.dataclass(frozen=True)
class Run(_Batch):
    """What an engine runs: checked, cast, with prepared params, both states, and masks."""

    raw_params: Any = None
    """The params before `Cell.prepare`: their types say what the cell is like."""
    start_state: Any = None
    """The state after a reset."""
    masks: Masks = Masks()
    padding: Any = None
    """What the cell receives instead of the inputs of an invalid step: `[B, ...]`, each row's first
    valid step. `None` where all steps are valid, or the padding is left as it is."""

    @classmethod
    def of(
        cls,
        request: Request,
        *,
        params: Params,
        raw_params: Params,
        inputs: Inputs,
        initial_state: State,
        start_state: State,
        masks: Masks,
    ) -> Run:
        """The run of a request, of which params, inputs and states have been checked."""
        common = {field.name: getattr(request, field.name) for field in dataclasses.fields(_Batch)}
        common |= {"params": params, "initial_state": initial_state}
        run = cls(**common, raw_params=raw_params, start_state=start_state, masks=masks)
        return run.with_inputs(inputs)

    def with_inputs(self, inputs: Inputs) -> Run:
        """The run with other inputs, of the same steps."""
        padding = first_valid_step(self.masks, inputs, self.time_axis)
        return dataclasses.replace(self, inputs=inputs, padding=padding)

    def time_major(self) -> Run:
        """The same run with time as the first axis of the inputs, and so of the outputs."""
        inputs = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), self.inputs)
        return dataclasses.replace(self, inputs=inputs, time_axis=0)

    @property
    def lengths(self) -> jax.Array:
        """int32 `[B]`: the steps of each row up to its last valid one."""
        if self.masks.lengths is None:
            return jnp.full(self.batch, self.time, jnp.int32)
        return self.masks.lengths

    def valid_like_inputs(self) -> jax.Array | None:
        """`masks.valid` laid out like the inputs."""
        valid = self.masks.valid
        return valid.T if valid is not None and self.time_axis == 1 else valid

    def masked_inputs(self) -> Any:
        """The inputs with each row's first valid step in place of its padding."""
        if self.padding is None:
            return self.inputs
        padding = jax.tree.map(
            functools.partial(jnp.expand_dims, axis=self.time_axis), self.padding
        )
        return select(self.valid_like_inputs(), self.inputs, padding)


jax.tree_util.register_dataclass(
    Run,
    [
        "params",
        "inputs",
        "initial_state",
        "key",
        "raw_params",
        "start_state",
        "masks",
        "padding",
    ],
    STATIC,
)
