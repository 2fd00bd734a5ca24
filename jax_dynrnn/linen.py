"""Flax Linen layers: thin wrappers around the pure functions that hold the params.

`B` is the batch size, `T` the number of time steps, `D` a feature size, `H` the units.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Unpack

import jax.numpy as jnp
from flax import linen as nn

from ._adapter import as_cell
from ._arguments import explained
from ._bidirectional import concatenate
from ._cell import State
from ._check_cell import relabel_errors
from ._features import batch_shape_of_shapes
from ._flax_core import (
    MEMORY,
    LayerOptions,
    OneCellOptions,
    Pair,
    ScannedOptions,
    Single,
    Stack,
    check_inputs,
    check_state,
    find_key,
    run_scanned,
    shapes_of,
    start,
    step,
    with_memory,
)
from ._rnn import takes
from ._tools import batch_tuple, map_shapes, unboxed
from ._types import BatchShape, DTypeLike, Inputs, Key, Lengths, Params, PyTree
from .engines.devices import explicit_axes_remain

__all__ = ["Bidirectional", "RNN", "RNNCell", "ScannedRNN", "StackedBidirectional"]

PARAMS = 'variables["params"]["cell"]'


class Layer(nn.Module):
    """A layer that calls `plan().run` with its params, and with a key if its cells need one."""

    _: dataclasses.KW_ONLY
    param_dtype: Any = jnp.float32

    def __init_subclass__(cls, **options: Any) -> None:
        # Flax makes a dataclass of the class, and so its `__init__`, in this call.
        super().__init_subclass__(**options)
        cls.__init__ = explained(cls.__init__)

    def plan(self) -> Any:
        """The cells and how they are run; see `_flax_core`."""
        raise NotImplementedError

    @nn.compact
    def _params(self, inputs: Inputs) -> Any:
        """The params, which are made at the first call, in `init`."""
        # `self.param` would check existing params too, but the run does so with better messages.
        if self.has_variable("params", "cell") or not self.is_mutable_collection("params"):
            return self._existing_params()
        with relabel_errors(dtype="param_dtype"):
            init, shapes = self.plan().init, shapes_of(inputs)
            return _without_metadata(
                self.param("cell", init, shapes, self.param_dtype, unbox=False)
            )

    def _existing_params(self) -> Any:
        if not self.has_variable("params", "cell"):
            given = sorted(self.variables.get("params", {}))
            raise KeyError(
                f"{PARAMS}: expected the params that {type(self).__name__}.init made, got none; "
                f'variables["params"] has {", ".join(given) or "nothing"}'
            )
        return _without_metadata(self.get_variable("params", "cell"))

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
        memory = [options.pop(name, None) for name in MEMORY]
        params = with_memory(self.plan(), self._params(inputs), *memory)
        key, deterministic = options.pop("key", None), options.pop("deterministic", None)
        key = self._key(key, deterministic, params, inputs)
        with relabel_errors(params=PARAMS):
            return self.plan().run(params, inputs, *arguments, key=key, **options)


def _without_metadata(params: Params) -> Any:
    """Params without partitioning metadata, sharded as it says.

    On explicit axes their types say how they are sharded: Flax's constraint would only check it.
    """
    return unboxed(params) if explicit_axes_remain() else nn.unbox(params)


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
        memory_mask: PyTree = None,
    ) -> tuple[Any, State]:
        """Takes one time step: `inputs` `[B, D]` -> `(output, new_state)`.

        `dtype` is as for a run; a state in fewer bits is cast to it.
        """
        params = with_memory(self.plan(), self._params(inputs), memory, memory_length, memory_mask)
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
        memory_mask: PyTree = None,
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
        params = with_memory(self.plan(), params, memory, memory_length, memory_mask)
        return start(self.cell, params, batch_shape, dtype)


class RNN(OneCell):
    """Runs a cell: `layer(inputs, sequence_length, ...) -> (outputs, state)`.

    Attributes:
        cell: the cell.
        param_dtype: the dtype of the params.

    A call takes inputs `[B, T, *features]`, the other arguments of `dynamic_rnn`, and
    `deterministic`: True means evaluation. Otherwise a cell that draws random numbers needs the
    `dropout` stream of keys (or `key=`). An `AttentionWrapper` attends to `memory=`
    (`memory_length=`, `memory_mask=`), in `step` and `start` too.

    Variables: `params/cell`, the params as returned by `cell.init`.

    Raises:
        ValueError: the cell draws random numbers and has neither a stream nor a key; other errors
            as `dynamic_rnn`.

    Example:
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> from jax_dynrnn import linen as rnnl
        >>> layer, inputs = rnnl.RNN(rnn.GRUCell(4)), jnp.ones((2, 5, 3))
        >>> variables = layer.init(jax.random.key(0), inputs)
        >>> outputs, state = layer.apply(variables, inputs, sequence_length=[5, 3])
        >>> outputs.shape, state.shape
        ((2, 5, 4), (2, 4))
    """

    @takes(OneCellOptions)
    def __call__(
        self,
        inputs: Inputs,
        sequence_length: Lengths | None = None,
        initial_state: State | None = None,
        **options: Unpack[OneCellOptions],
    ) -> tuple[Any, State]:
        """Runs the cell over a padded batch of sequences.

        Args:
            inputs: pytree of `[B, T, *features]`.
            sequence_length, initial_state, mask, resets, reverse, time_major, dtype, unroll, remat,
                implementation: as for `dynamic_rnn`.
            key: as for `dynamic_rnn`; default: the `dropout` stream of keys,
                if the cell draws random numbers.
            deterministic: True means evaluation: no random numbers are drawn.
            memory, memory_length, memory_mask: for an `AttentionWrapper`: as for its `attend`.

        Returns:
            `(outputs, state)`: the outputs `[B, T, H]`, and the state after each row's last valid
            step, as `dynamic_rnn`.
        """
        return self._run(inputs, sequence_length, initial_state, **options)


class ScannedRNN(OneCell):
    """Runs a cell over a rollout: `layer(carry, (inputs, resets)) -> (carry, outputs)`.

    It is time-major, and a reset comes *before* a step, as in the `ScannedRNN` of many code bases
    for reinforcement learning:

        for each step: carry = where(reset, start, carry); carry, output = cell(carry, input)

    where `start` is the cell's start state: that of a `LearnedInitialState` keeps its gradient,
    and a NaN in the state ends with its episode.

    Attributes:
        cell: the cell.
        param_dtype: the dtype of the params.

    A call takes the carry, or `None` for the start state; `inputs` `[T, B, ...]` and `resets`
    bool `[T, B]`, which `resets_from_done` makes; and the options of `RNN` except
    `initial_state`, `resets` and `time_major`. `start(batch_shape)` returns the first carry.

    Variables: `params/cell`, as those of `RNN`.

    Raises:
        TypeError: the second argument is not a pair; other errors as `RNN`.

    Example:
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> from jax_dynrnn import linen as rnnl
        >>> layer, inputs = rnnl.ScannedRNN(rnn.GRUCell(4)), jnp.ones((5, 2, 3))
        >>> done = jnp.zeros((5, 2), bool).at[2, 0].set(True)     # an episode ends with step 2
        >>> steps = inputs, rnn.resets_from_done(done, time_major=True)
        >>> variables = layer.init(jax.random.key(0), None, steps)
        >>> carry, outputs = layer.apply(variables, None, steps)
        >>> carry.shape, outputs.shape, bool(jnp.allclose(outputs[3, 0], outputs[0, 0]))
        ((2, 4), (5, 2, 4), True)
    """

    @takes(ScannedOptions)
    def __call__(
        self, carry: State | None, inputs: Any, **options: Unpack[ScannedOptions]
    ) -> tuple[State, Any]:
        """Runs the cell over the steps of a rollout.

        Args:
            carry: the state before the first step; `None`: the start state.
            inputs: the pair of the inputs `[T, B, ...]` and the resets, bool `[T, B]`.
            sequence_length, mask, dtype, key, unroll, remat, implementation, deterministic,
                reverse, memory, memory_length, memory_mask: as for `RNN`; masks are `[T, B]`.

        Returns:
            `(carry, outputs)`: the state after the last step, and the outputs `[T, B, H]`.
        """
        return run_scanned(self._run, carry, inputs, {**options})


class RNNCell(OneCell, nn.RNNCellBase):
    """A cell for Flax's own `nn.RNN`: `cell(carry, inputs) -> (carry, output)`.

    Attributes:
        cell: the cell.
        deterministic: whether to evaluate; otherwise a cell that draws random numbers needs the
            `dropout` stream of keys, and `nn.RNN` the option
            `split_rngs={"params": False, "dropout": True}`. (With `"dropout": False` all steps
            draw the same: variational dropout.)
        param_dtype: the dtype of the params and of the carry.

    The carry is the cell's state, and is initially the cell's start state; one step takes inputs
    `[B, ...]`. Outside of `init` and
    `apply` there are no variables: the start state is then that of new params, made from `rng`.

    Variables: `params/cell`, the params as returned by `cell.init`; in `nn.RNN`
    `params/cell/cell`.

    Raises:
        ValueError: the cell draws random numbers and has no stream of keys.

    Example:
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> from flax import linen as nn
        >>> from jax_dynrnn import linen as rnnl
        >>> layer, inputs = nn.RNN(rnnl.RNNCell(rnn.NASCell(4))), jnp.ones((2, 5, 3))
        >>> variables = layer.init(jax.random.key(0), inputs)
        >>> n = jnp.array([5, 3])
        >>> carry, y = layer.apply(variables, inputs, seq_lengths=n, return_carry=True)
        >>> params = variables["params"]["cell"]["cell"]
        >>> outputs, state = rnn.dynamic_rnn(rnn.NASCell(4), params, inputs, n)
        >>> bool(jnp.allclose(carry.c, state.c)), bool(jnp.allclose(y[0], outputs[0]))
        (True, True)
    """

    _: dataclasses.KW_ONLY
    deterministic: bool = False

    def __call__(self, carry: State, inputs: Inputs) -> tuple[State, Any]:
        """Takes one step: `inputs` `[B, ...]` -> `(carry, output)`; the carry is the new state."""
        output, new = self.step(inputs, carry, deterministic=self.deterministic)
        return new, output

    @nn.nowrap
    def initialize_carry(self, rng: Any, input_shape: tuple[Any, ...]) -> State:
        """The start state for inputs of shape `input_shape`, `[*batch, *features]`."""
        cell, dtype = as_cell(self.cell), self.param_dtype
        if self.scope is None:
            params = cell.init(rng, input_shape, dtype)
        else:
            # Only the shapes of the inputs matter, for params that are not made yet.
            params = self._params(map_shapes(lambda s: jnp.zeros(s, dtype), input_shape))
        return cell.start(params, batch_shape_of_shapes(input_shape, cell.feature_ndim), dtype)

    @property
    def num_feature_axes(self) -> Any:
        """The number of feature axes of the inputs, which `nn.RNN` asks for."""
        return as_cell(self.cell).feature_ndim


class Bidirectional(Layer):
    """Runs two cells: `layer(inputs, ...) -> (merge_fn(fw, bw), (state_fw, state_bw))`.

    Attributes:
        cell_fw, cell_bw: the cells of the two directions; `cell_bw=None` takes `cell_fw` for
            both, with params of its own.
        merge_fn: a function of both outputs; default: concatenates them on the last axis;
            `None` returns the pair.
        param_dtype: the dtype of the params.

    A call takes inputs `[B, T, *features]`, the other arguments of `bidirectional_dynamic_rnn`,
    and `deterministic`, as `RNN`.

    Variables: `params/cell/{fw,bw}`.

    Raises:
        ValueError: a cell draws random numbers and has neither a stream nor a key; other errors
            as `bidirectional_dynamic_rnn`.

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
    merge_fn: Callable[..., Any] | None = concatenate

    def plan(self) -> Pair:
        return Pair(
            self.cell_fw, self.cell_fw if self.cell_bw is None else self.cell_bw, self.merge_fn
        )

    @takes(LayerOptions)
    def __call__(
        self,
        inputs: Inputs,
        sequence_length: Lengths | None = None,
        initial_state_fw: State | None = None,
        initial_state_bw: State | None = None,
        **options: Unpack[LayerOptions],
    ) -> tuple[Any, tuple[State, State]]:
        """Runs both cells over a padded batch of sequences.

        Args:
            inputs: pytree of `[B, T, *features]`.
            sequence_length, initial_state_fw, initial_state_bw, mask, resets, time_major, dtype,
                unroll, remat, implementation: as for `bidirectional_dynamic_rnn`.
            key, deterministic: as for `RNN`.

        Returns:
            `(merge_fn(outputs_fw, outputs_bw), (state_fw, state_bw))`; by default the outputs are
            `[B, T, H_fw + H_bw]`.
        """
        return self._run(inputs, sequence_length, initial_state_fw, initial_state_bw, **options)


class StackedBidirectional(Layer):
    """Runs stacked bidirectional layers: `layer(inputs) -> (outputs, (states_fw, states_bw))`.

    Attributes:
        cells_fw, cells_bw: one cell per layer; `cells_bw=None` takes `cells_fw` for both
            directions, with params of their own.
        param_dtype: the dtype of the params.

    A call takes inputs `[B, T, D]`, the other arguments of `stack_bidirectional_dynamic_rnn`,
    and `deterministic`, as `RNN`.

    Variables: `params/cell/cell_0/{fw,bw}`, ...

    Raises:
        ValueError: a cell draws random numbers and has neither a stream nor a key; other errors
            as `stack_bidirectional_dynamic_rnn`.

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

    @takes(LayerOptions)
    def __call__(
        self,
        inputs: Inputs,
        sequence_length: Lengths | None = None,
        initial_states_fw: Sequence[State] | None = None,
        initial_states_bw: Sequence[State] | None = None,
        **options: Unpack[LayerOptions],
    ) -> tuple[Any, tuple[tuple[Any, ...], tuple[Any, ...]]]:
        """Runs the layers over a padded batch of sequences.

        Args:
            inputs: `[B, T, D]`.
            sequence_length, initial_states_fw, initial_states_bw, mask, resets, time_major, dtype,
                unroll, remat, implementation: as for `stack_bidirectional_dynamic_rnn`.
            key, deterministic: as for `RNN`.

        Returns:
            `(outputs, (states_fw, states_bw))`: the outputs `[B, T, H_fw + H_bw]` of the last
            layer, and for each direction a tuple of states, one per layer.
        """
        return self._run(inputs, sequence_length, initial_states_fw, initial_states_bw, **options)
