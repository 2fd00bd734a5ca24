"""The base classes of the NNX layers: they hold the params, find the key, and take one step."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ._arguments import explained
from ._cell import State
from ._check_cell import relabel_errors
from ._layer import Plan, Single, check_inputs, check_state, find_key, start, step, with_memory
from ._types import BatchShape, CellLike, DTypeLike, Inputs, Key, Lengths, Params, PyTree, Shapes


class Layer(nnx.Module):
    """A layer that calls `plan.run` with its params, and with a key if its cells draw.

    Attributes:
        params: a pytree of `nnx.Param`s.
        rngs: the stream of keys for dropout, or `None`.
        deterministic: whether calls evaluate; set by `model.eval()` and `model.train()`.
    """

    def __init__(self, plan: Plan, in_features: Shapes, rngs: nnx.Rngs, param_dtype: DTypeLike):
        if not isinstance(rngs, nnx.Rngs):
            raise TypeError(
                f"{type(self).__name__}: expected rngs=nnx.Rngs(seed), got {type(rngs).__name__}"
            )
        # A number of features stands for the shape of one row.
        shape = in_features if not hasattr(in_features, "__index__") else (in_features,)
        if not ("params" in rngs or "default" in rngs):
            raise ValueError(
                f"{type(self).__name__}: expected rngs with a stream of params or a default one, "
                "as of nnx.Rngs(0), got none"
            )
        with relabel_errors(dtype="param_dtype"):
            params = plan.init(rngs.params(), shape, param_dtype)
        self.plan = plan
        self.params = nnx.data(jax.tree.map(nnx.Param, params))
        has_stream = "dropout" in rngs or "default" in rngs
        # A fork, so that the draws of this layer do not depend on those of others.
        self.rngs = nnx.data(rngs.dropout.fork() if has_stream else None)
        self.deterministic = False

    def set_view(self, deterministic: bool | None = None) -> None:
        """Called by `nnx.view` with the attributes to set."""
        if deterministic is not None:
            self.deterministic = deterministic

    def _values(self) -> Any:
        """The params as plain arrays, which the pure functions take."""

        def is_param(x):
            return isinstance(x, nnx.Variable)

        return jax.tree.map(lambda p: p.get_value(), self.params, is_leaf=is_param)

    def _key(self, key: Key, deterministic: bool | None, params: Params, inputs: Inputs) -> Any:
        """The key of a run; see `find_key`."""
        deterministic = self.deterministic if deterministic is None else deterministic
        with relabel_errors():
            return find_key(key, deterministic, self.rngs, self.plan, params, inputs)

    def _run(self, inputs: Inputs, *arguments: Any, **options: Any) -> Any:
        """Calls `plan.run` with the params and the key in place."""
        inputs = check_inputs(self.plan, inputs, options.get("time_major", False))
        memory = options.pop("memory", None), options.pop("memory_length", None)
        params = with_memory(self.plan, self._values(), *memory)
        key, deterministic = options.pop("key", None), options.pop("deterministic", None)
        key = self._key(key, deterministic, params, inputs)
        with relabel_errors():
            return self.plan.run(params, inputs, *arguments, key=key, **options)


class OneCell(Layer):
    """A layer of one cell, which may also be run step by step."""

    @explained
    def __init__(
        self,
        cell: CellLike,
        *,
        in_features: Shapes,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
    ):
        super().__init__(Single(cell), in_features, rngs, param_dtype)
        self.cell = cell
        self.param_dtype = param_dtype

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
        params = with_memory(self.plan, self._values(), memory, memory_length)
        with relabel_errors():
            state = check_state(self.cell, params, inputs, state)
        key = self._key(key, deterministic, params, inputs)
        with relabel_errors():
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
        params = with_memory(self.plan, self._values(), memory, memory_length)
        dtype = self.param_dtype if dtype is None else dtype
        return start(self.cell, params, batch_shape, dtype)
