"""The base classes of the Linen layers: they hold the params, find the key, and take one step."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from ._arguments import explained
from ._cell import State, as_cell
from ._check_cell import relabel_errors
from ._layer import (
    Single,
    check_inputs,
    check_state,
    find_key,
    shapes_of,
    start,
    step,
    with_memory,
)
from ._tools import batch_tuple
from ._types import BatchShape, DTypeLike, Inputs, Key, Lengths, Params, PyTree

PARAMS = 'variables["params"]["cell"]'


class Layer(nn.Module):
    """A layer that calls `plan().run` with its params, and with a key if its cells draw."""

    _: dataclasses.KW_ONLY
    param_dtype: Any = jnp.float32

    def __init_subclass__(cls, **options: Any) -> None:
        # Flax makes a dataclass of the class, and so its `__init__`, in this call.
        super().__init_subclass__(**options)
        cls.__init__ = explained(cls.__init__)

    def plan(self) -> Any:
        """The cells and how they are run; see `_layer`."""
        raise NotImplementedError

    @nn.compact
    def _params(self, inputs: Inputs) -> Any:
        """The params, which are made at the first call, in `init`."""
        # `self.param` would check existing params too, but the run does so with better messages.
        if self.has_variable("params", "cell") or not self.is_mutable_collection("params"):
            return self._existing_params()
        with relabel_errors(dtype="param_dtype"):
            return self.param("cell", self.plan().init, shapes_of(inputs), self.param_dtype)

    def _existing_params(self) -> Any:
        if not self.has_variable("params", "cell"):
            given = sorted(self.variables.get("params", {}))
            raise KeyError(
                f"{PARAMS}: expected the params that {type(self).__name__}.init made, got none; "
                f'variables["params"] has {", ".join(given) or "nothing"}'
            )
        return nn.unbox(self.get_variable("params", "cell"))

    def _key(self, key: Key, deterministic: bool | None, params: Params, inputs: Inputs) -> Any:
        """The key of a run; see `find_key`."""
        with relabel_errors(params=PARAMS):
            return self._find_key(key, deterministic, params, inputs)

    def _find_key(
        self, key: Key, deterministic: bool | None, params: Params, inputs: Inputs
    ) -> Any:
        has_stream = self.has_rng("dropout")
        if self.is_initializing() and not has_stream:
            deterministic = True  # the params do not depend on the draws
        stream = (lambda: self.make_rng("dropout")) if has_stream else None
        return find_key(key, deterministic, stream, self.plan(), params, inputs)

    def _run(self, inputs: Inputs, *arguments: Any, **options: Any) -> Any:
        """Calls `plan().run` with the params and the key in place."""
        inputs = check_inputs(self.plan(), inputs, options.get("time_major", False))
        memory = options.pop("memory", None), options.pop("memory_length", None)
        params = with_memory(self.plan(), self._params(inputs), *memory)
        key, deterministic = options.pop("key", None), options.pop("deterministic", None)
        key = self._key(key, deterministic, params, inputs)
        with relabel_errors(params=PARAMS):
            return self.plan().run(params, inputs, *arguments, key=key, **options)


class OneCell(Layer):
    """A layer of one cell, which may also be run step by step."""

    cell: Any

    def plan(self) -> Single:
        return Single(self.cell)

    @explained
    def step(
        self,
        inputs: Inputs,
        state: State,
        *,
        deterministic: bool | None = None,
        key: Key = None,
        dtype: DTypeLike | None = None,
        memory: PyTree = None,
        memory_length: Lengths | None = None,
    ) -> tuple[Any, State]:
        """Takes one time step: `inputs` `[B, D]` -> `(output, new_state)`.

        `dtype` is as for a run; a state in fewer bits is cast to it.
        """
        params = with_memory(self.plan(), self._params(inputs), memory, memory_length)
        with relabel_errors(params=PARAMS):
            state = check_state(self.cell, params, inputs, state)
        key = self._key(key, deterministic, params, inputs)
        with relabel_errors(params=PARAMS):
            return step(self.cell, params, inputs, state, key, dtype)

    @explained
    def start(
        self,
        batch_shape: BatchShape = (),
        *,
        dtype: DTypeLike | None = None,
        memory: PyTree = None,
        memory_length: Lengths | None = None,
    ) -> State:
        """The start state of a run in `dtype` (default: `param_dtype`).

        `batch_shape` is an int or a tuple.
        """
        dtype = self.param_dtype if dtype is None else dtype
        if self.is_initializing() and not self.has_variable("params", "cell"):
            # Params are made from inputs, which come later: until then only shapes matter.
            if as_cell(self.cell).attends:
                raise ValueError(
                    "start: in init() a layer that attends has no params yet, on which its state "
                    "depends; make them by a call of the layer, init(key, inputs, memory=...)"
                )
            return as_cell(self.cell).zero_state(batch_tuple(batch_shape), dtype)
        params = nn.unbox(self.get_variable("params", "cell"))
        params = with_memory(self.plan(), params, memory, memory_length)
        return start(self.cell, params, batch_shape, dtype)
