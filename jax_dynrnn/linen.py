"""Flax Linen layers: thin wrappers of the pure functions that hold the params.

`B` is the batch size, `T` the number of time steps, `D` a feature size, `H` the units.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from ._bidirectional import concatenate
from ._cell import State
from ._layer import (
    Pair,
    Single,
    Stack,
    check_inputs,
    find_key,
    input_shape,
    start,
    step,
    with_memory,
)


class _Layer(nn.Module):
    """A call of `plan().run` with the params, and a key where one is needed."""

    _: dataclasses.KW_ONLY
    param_dtype: Any = jnp.float32

    def plan(self) -> Any:
        raise NotImplementedError

    @nn.compact
    def _params(self, inputs: Any) -> Any:
        if self.has_variable("params", "cell"):  # whose shapes the run checks, and says more
            return nn.unbox(self.get_variable("params", "cell"))
        return self.param("cell", self.plan().init, input_shape(inputs), self.param_dtype)

    def _key(self, key: Any, deterministic: bool | None, params: Any, inputs: Any) -> Any:
        has_stream = self.has_rng("dropout")
        if self.is_initializing() and not has_stream:
            deterministic = True  # the params do not depend on what is drawn
        stream = (lambda: self.make_rng("dropout")) if has_stream else None
        return find_key(key, deterministic, stream, self.plan(), params, inputs)

    def _run(self, inputs: Any, *arguments: Any, **options: Any) -> Any:
        inputs = check_inputs(self.plan(), inputs, options.get("time_major"))
        memory = options.pop("memory", None), options.pop("memory_length", None)
        params = with_memory(self.plan(), self._params(inputs), *memory)
        key, deterministic = options.pop("key", None), options.pop("deterministic", None)
        key = self._key(key, deterministic, params, inputs)
        return self.plan().run(params, inputs, *arguments, key=key, **options)


class RNN(_Layer):
    """Runs a cell: `layer(inputs, sequence_length, ...) -> (outputs, state)`.

    Attributes:
        cell: the cell.
        param_dtype: of the params.

    A call takes the arguments of `dynamic_rnn` after `params`, and `deterministic`: True
    evaluates. Otherwise a cell that draws needs the `dropout` stream of keys (or `key=`).
    An `AttentionWrapper` attends to `memory=` and `memory_length=`, in `step` and `start` too.

    Variables: `params/cell`, what `cell.init` makes.

    Raises:
        ValueError: the cell draws and has nothing to draw from; all else as `dynamic_rnn`.

    Example:
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> from jax_dynrnn import linen as rnnl
        >>> layer, inputs = rnnl.RNN(rnn.GRUCell(4)), jnp.ones((2, 5, 3))
        >>> variables = layer.init(jax.random.key(0), inputs)
        >>> outputs, state = layer.apply(variables, inputs, sequence_length=[5, 3])
        >>> outputs.shape, state.shape
        ((2, 5, 4), (2, 4))
    """

    cell: Any

    def plan(self) -> Single:
        return Single(self.cell)

    def __call__(
        self,
        inputs: Any,
        sequence_length: Any = None,
        initial_state: State | None = None,
        **options: Any,
    ) -> tuple[Any, State]:
        return self._run(inputs, sequence_length, initial_state, **options)

    def step(
        self,
        inputs: Any,
        state: State,
        *,
        deterministic: bool | None = None,
        key: Any = None,
        dtype: Any = None,
        memory: Any = None,
        memory_length: Any = None,
    ) -> tuple[Any, State]:
        """One time step: `inputs` `[B, D]` -> `(output, new_state)`.

        `dtype` is as in a run; a state in fewer bits is widened to it.
        """
        params = with_memory(self.plan(), self._params(inputs), memory, memory_length)
        key = self._key(key, deterministic, params, inputs)
        return step(self.cell, params, inputs, state, key, dtype)

    def start(
        self,
        batch_shape: Any = (),
        *,
        dtype: Any = None,
        memory: Any = None,
        memory_length: Any = None,
    ) -> State:
        """The state in which a run in `dtype` (default: `param_dtype`) begins.

        `batch_shape` is an int or a tuple.
        """
        params = nn.unbox(self.get_variable("params", "cell"))
        params = with_memory(self.plan(), params, memory, memory_length)
        dtype = self.param_dtype if dtype is None else dtype
        return start(self.cell, params, batch_shape, dtype)


class Bidirectional(_Layer):
    """Runs two cells: `layer(inputs, ...) -> (merge_fn(fw, bw), (state_fw, state_bw))`.

    Attributes:
        cell_fw, cell_bw: the cells of the two directions; `None` is one like `cell_fw`.
        merge_fn: of both outputs; default: side by side on the last axis; `None`: the pair.
        param_dtype: of the params.

    A call takes the arguments of `bidirectional_dynamic_rnn` after `params`, and
    `deterministic`, as `RNN`. Variables: `params/cell/{fw,bw}`.

    Raises:
        ValueError: a cell draws and has nothing to draw from; all else as
            `bidirectional_dynamic_rnn`.

    Example:
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> from jax_dynrnn import linen as rnnl
        >>> layer, inputs = rnnl.Bidirectional(rnn.GRUCell(4)), jnp.ones((2, 5, 3))
        >>> variables = layer.init(jax.random.key(0), inputs)
        >>> outputs, (fw, bw) = layer.apply(variables, inputs, sequence_length=[5, 3])
        >>> outputs.shape, fw.shape
        ((2, 5, 8), (2, 4))
    """

    cell_fw: Any
    cell_bw: Any = None
    _: dataclasses.KW_ONLY
    merge_fn: Callable | None = concatenate

    def plan(self) -> Pair:
        return Pair(
            self.cell_fw, self.cell_fw if self.cell_bw is None else self.cell_bw, self.merge_fn
        )

    def __call__(
        self, inputs: Any, sequence_length: Any = None, *initial_states: Any, **options: Any
    ) -> tuple[Any, tuple[State, State]]:
        return self._run(inputs, sequence_length, *initial_states, **options)


class StackedBidirectional(_Layer):
    """Bidirectional layers: `layer(inputs, ...) -> (outputs, (states_fw, states_bw))`.

    Attributes:
        cells_fw, cells_bw: one cell a layer; `None` is cells like `cells_fw`.
        param_dtype: of the params.

    A call takes the arguments of `stack_bidirectional_dynamic_rnn` after `params`, and
    `deterministic`, as `RNN`. Variables: `params/cell/cell_0/{fw,bw}`, ...

    Raises:
        ValueError: a cell draws and has nothing to draw from; all else as
            `stack_bidirectional_dynamic_rnn`.

    Example:
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> from jax_dynrnn import linen as rnnl
        >>> layer = rnnl.StackedBidirectional([rnn.GRUCell(4), rnn.GRUCell(5)])
        >>> inputs = jnp.ones((2, 5, 3))
        >>> variables = layer.init(jax.random.key(0), inputs)
        >>> outputs, (fw, bw) = layer.apply(variables, inputs, sequence_length=[5, 3])
        >>> outputs.shape, len(fw)
        ((2, 5, 10), 2)
    """

    cells_fw: Sequence[Any]
    cells_bw: Sequence[Any] | None = None

    def plan(self) -> Stack:
        return Stack(self.cells_fw, self.cells_fw if self.cells_bw is None else self.cells_bw)

    def __call__(
        self, inputs: Any, sequence_length: Any = None, *initial_states: Any, **options: Any
    ) -> tuple[Any, tuple[tuple, tuple]]:
        return self._run(inputs, sequence_length, *initial_states, **options)
