"""Flax NNX layers: thin wrappers around the pure functions that hold the params.

`B` is the batch size, `T` the number of time steps, `D` a feature size, `H` the units.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Unpack

import jax
import jax.numpy as jnp
from flax import nnx

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
    Plan,
    ScannedOptions,
    Single,
    Stack,
    check_inputs,
    check_state,
    find_key,
    run_scanned,
    start,
    step,
    with_memory,
)
from ._rnn import takes
from ._types import BatchShape, CellLike, DTypeLike, Inputs, Key, Lengths, Params, PyTree, Shapes

__all__ = ["Bidirectional", "RNN", "RNNCell", "ScannedRNN", "StackedBidirectional"]


class Layer(nnx.Module):
    """A layer that calls `plan.run` with its params, and with a key if its cells need one.

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
        memory = [options.pop(name, None) for name in MEMORY]
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
        memory_mask: PyTree = None,
    ) -> tuple[Any, State]:
        """Takes one time step: `inputs` `[B, D]` -> `(output, new_state)`.

        `dtype` is as for a run; a state in fewer bits is cast to it.
        """
        params = with_memory(self.plan, self._values(), memory, memory_length, memory_mask)
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
        memory_mask: PyTree = None,
    ) -> State:
        """The start state of a run in `dtype` (default: `param_dtype`).

        `batch_shape` is an int or a tuple.
        """
        params = with_memory(self.plan, self._values(), memory, memory_length, memory_mask)
        dtype = self.param_dtype if dtype is None else dtype
        return start(self.cell, params, batch_shape, dtype)


class RNN(OneCell):
    """Runs a cell: `layer(inputs, sequence_length, ...) -> (outputs, state)`.

    Args:
        cell: the cell.
        in_features: the number of features of the inputs; for inputs with more or fewer
            feature axes their shape, or a pytree of shapes.
        rngs: the streams of keys: `params` (or the default stream) initialises the params,
            `dropout` (or the default stream) supplies the keys for cells that draw random
            numbers.
        param_dtype: the dtype of the params.

    A call takes inputs `[B, T, *features]`, the other arguments of `dynamic_rnn`, and
    `deterministic`: True means evaluation; default: as set by `model.train()` and `model.eval()`.
    An `AttentionWrapper` attends to `memory=` (`memory_length=`, `memory_mask=`), in `step` and
    `start` too.

    Raises:
        ValueError: the cell draws random numbers and has neither a stream nor a key; other errors
            as `dynamic_rnn`.

    Example:
        >>> import jax.numpy as jnp, jax_dynrnn as rnn
        >>> from flax import nnx
        >>> from jax_dynrnn import nnx as rnnx
        >>> layer = rnnx.RNN(rnn.GRUCell(4), in_features=3, rngs=nnx.Rngs(0))
        >>> outputs, state = layer(jnp.ones((2, 5, 3)), sequence_length=[5, 3])
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
            key: as for `dynamic_rnn`; default: the layer's stream of keys,
                if the cell draws random numbers.
            deterministic: True means evaluation: no random numbers are drawn; default: as set by
                `model.train()` and `model.eval()`.
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

    Args:
        cell, in_features, rngs, param_dtype: as for `RNN`.

    A call takes the carry, or `None` for the start state; `inputs` `[T, B, ...]` and `resets`
    bool `[T, B]`, which `resets_from_done` makes; and the options of `RNN` except
    `initial_state`, `resets` and `time_major`. `start(batch_shape)` returns the first carry.

    Raises:
        TypeError: the second argument is not a pair; other errors as `RNN`.

    Example:
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> from flax import nnx
        >>> from jax_dynrnn import nnx as rnnx
        >>> layer = rnnx.ScannedRNN(rnn.GRUCell(4), in_features=3, rngs=nnx.Rngs(0))
        >>> done = jnp.zeros((5, 2), bool).at[2, 0].set(True)     # an episode ends with step 2
        >>> resets = rnn.resets_from_done(done, time_major=True)
        >>> carry, outputs = layer(layer.start(2), (jnp.ones((5, 2, 3)), resets))
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


class RNNCell(OneCell, nnx.RNNCellBase):
    """A cell for Flax's own `nnx.RNN`: `cell(carry, inputs) -> (carry, output)`.

    Args:
        cell, in_features, rngs, param_dtype: as for `RNN`; the carry has `param_dtype` too.

    The carry is the cell's state, and is initially the cell's start state; one step takes inputs
    `[B, ...]`. A cell that draws random numbers uses a new key at every step; `model.eval()`
    turns that off.

    Raises:
        ValueError: the cell draws random numbers and has no stream of keys.

    Example:
        >>> import jax.numpy as jnp, jax_dynrnn as rnn
        >>> from flax import nnx
        >>> from jax_dynrnn import nnx as rnnx
        >>> cell = rnnx.RNNCell(rnn.NASCell(4), in_features=3, rngs=nnx.Rngs(0))
        >>> n = jnp.array([5, 3])
        >>> carry, y = nnx.RNN(cell, return_carry=True)(jnp.ones((2, 5, 3)), seq_lengths=n)
        >>> y.shape, carry.c.shape
        ((2, 5, 4), (2, 4))
    """

    def __call__(self, carry: State, inputs: Inputs) -> tuple[State, Any]:
        """Takes one step: `inputs` `[B, ...]` -> `(carry, output)`; the carry is the new state."""
        output, new = self.step(inputs, carry)
        return new, output

    # Flax's own cells also accept `carry_init`. Here the wrapped cell defines the start state.
    def initialize_carry(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, input_shape: tuple[Any, ...], rngs: Any = None
    ) -> State:
        """The start state for inputs of shape `input_shape`, `[*batch, *features]`."""
        del rngs  # the layer already has params, on which the start state may depend
        return self.start(batch_shape_of_shapes(input_shape, self.num_feature_axes))

    @property
    def num_feature_axes(self) -> Any:
        """The number of feature axes of the inputs, which `nnx.RNN` asks for."""
        return as_cell(self.cell).feature_ndim


class Bidirectional(Layer):
    """Runs two cells: `layer(inputs, ...) -> (merge_fn(fw, bw), (state_fw, state_bw))`.

    Args:
        cell_fw, cell_bw: the cells of the two directions; `cell_bw=None` takes `cell_fw` for
            both, with params of its own.
        in_features, rngs, param_dtype: as for `RNN`.
        merge_fn: a function of both outputs; default: concatenates them on the last axis;
            `None` returns the pair.

    A call takes inputs `[B, T, *features]`, the other arguments of `bidirectional_dynamic_rnn`,
    and `deterministic`, as `RNN`.

    Raises:
        ValueError: a cell draws random numbers and has neither a stream nor a key; other errors
            as `bidirectional_dynamic_rnn`.

    Example:
        >>> import jax.numpy as jnp, jax_dynrnn as rnn
        >>> from flax import nnx
        >>> from jax_dynrnn import nnx as rnnx
        >>> layer = rnnx.Bidirectional(rnn.GRUCell(4), in_features=3, rngs=nnx.Rngs(0))
        >>> outputs, (fw, bw) = layer(jnp.ones((2, 5, 3)), sequence_length=[5, 3])
        >>> outputs.shape, fw.shape
        ((2, 5, 8), (2, 4))
    """

    @explained
    def __init__(
        self,
        cell_fw: CellLike,
        cell_bw: CellLike | None = None,
        *,
        in_features: Shapes,
        rngs: nnx.Rngs,
        merge_fn: Callable[..., Any] | None = concatenate,
        param_dtype: DTypeLike = jnp.float32,
    ):
        plan = Pair(cell_fw, cell_fw if cell_bw is None else cell_bw, merge_fn)
        super().__init__(plan, in_features, rngs, param_dtype)

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

    Args:
        cells_fw, cells_bw: one cell per layer; `cells_bw=None` takes `cells_fw` for both
            directions, with params of their own.
        in_features, rngs, param_dtype: as for `RNN`.

    A call takes inputs `[B, T, D]`, the other arguments of `stack_bidirectional_dynamic_rnn`,
    and `deterministic`, as `RNN`.

    Raises:
        ValueError: a cell draws random numbers and has neither a stream nor a key; other errors
            as `stack_bidirectional_dynamic_rnn`.

    Example:
        >>> import jax.numpy as jnp, jax_dynrnn as rnn
        >>> from flax import nnx
        >>> from jax_dynrnn import nnx as rnnx
        >>> cells = [rnn.GRUCell(4), rnn.GRUCell(5)]
        >>> layer = rnnx.StackedBidirectional(cells, in_features=3, rngs=nnx.Rngs(0))
        >>> outputs, (fw, bw) = layer(jnp.ones((2, 5, 3)), sequence_length=[5, 3])
        >>> outputs.shape, len(fw)
        ((2, 5, 10), 2)
    """

    @explained
    def __init__(
        self,
        cells_fw: Sequence[Any],
        cells_bw: Sequence[Any] | None = None,
        *,
        in_features: Shapes,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
    ):
        plan = Stack(cells_fw, cells_fw if cells_bw is None else cells_bw)
        super().__init__(plan, in_features, rngs, param_dtype)

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
