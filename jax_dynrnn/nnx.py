"""Flax NNX layers: thin wrappers of the pure functions that hold the params.

`B` is the batch size, `T` the number of time steps, `D` a feature size, `H` the units.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ._bidirectional import concatenate
from ._cell import State
from ._layer import Pair, Single, Stack, check_inputs, find_key, start, step, with_memory


class _Layer(nnx.Module):
    """A call of `plan.run` with the params, and a key where one is needed.

    Attributes:
        params: the tree of `nnx.Param`s.
        rngs: the stream of keys for dropout, or `None`.
        deterministic: whether calls evaluate; `model.eval()` and `model.train()` set it.
    """

    def __init__(self, plan: Any, in_features: Any, rngs: nnx.Rngs, param_dtype: Any):
        shape = in_features if not hasattr(in_features, "__index__") else (in_features,)
        params = plan.init(rngs.params(), shape, param_dtype)
        self.plan = plan
        self.params = nnx.data(jax.tree.map(nnx.Param, params))
        has_stream = "dropout" in rngs or "default" in rngs
        self.rngs = nnx.data(rngs.dropout.fork() if has_stream else None)
        self.deterministic = False

    def _values(self) -> Any:
        is_param = lambda x: isinstance(x, nnx.Variable)  # noqa: E731
        return jax.tree.map(lambda p: p.get_value(), self.params, is_leaf=is_param)

    def _key(self, key: Any, deterministic: bool | None, params: Any, inputs: Any) -> Any:
        deterministic = self.deterministic if deterministic is None else deterministic
        return find_key(key, deterministic, self.rngs, self.plan, params, inputs)

    def _run(self, inputs: Any, *arguments: Any, **options: Any) -> Any:
        inputs = check_inputs(self.plan, inputs, options.get("time_major"))
        memory = options.pop("memory", None), options.pop("memory_length", None)
        params = with_memory(self.plan, self._values(), *memory)
        key, deterministic = options.pop("key", None), options.pop("deterministic", None)
        key = self._key(key, deterministic, params, inputs)
        return self.plan.run(params, inputs, *arguments, key=key, **options)


class RNN(_Layer):
    """Runs a cell: `layer(inputs, sequence_length, ...) -> (outputs, state)`.

    Args:
        cell: the cell.
        in_features: the number of features of the inputs; for inputs with other feature
            axes their shape, or a pytree of shapes.
        rngs: the stream `params` (or the default one) makes the params, `dropout` (or the
            default one) is what a cell that draws draws from.
        param_dtype: of the params.

    A call takes the arguments of `dynamic_rnn` after `params`, and `deterministic`: True
    evaluates; default: what `model.train()` and `model.eval()` set. An `AttentionWrapper`
    attends to `memory=` and `memory_length=`, in `step` and `start` too.

    Raises:
        ValueError: the cell draws and has nothing to draw from; all else as `dynamic_rnn`.

    Example:
        >>> import jax.numpy as jnp, jax_dynrnn as rnn
        >>> from flax import nnx
        >>> from jax_dynrnn import nnx as rnnx
        >>> layer = rnnx.RNN(rnn.GRUCell(4), in_features=3, rngs=nnx.Rngs(0))
        >>> outputs, state = layer(jnp.ones((2, 5, 3)), sequence_length=[5, 3])
        >>> outputs.shape, state.shape
        ((2, 5, 4), (2, 4))
    """

    def __init__(
        self, cell: Any, *, in_features: Any, rngs: nnx.Rngs, param_dtype: Any = jnp.float32
    ):
        super().__init__(Single(cell), in_features, rngs, param_dtype)
        self.cell = cell
        self.param_dtype = param_dtype

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
        params = with_memory(self.plan, self._values(), memory, memory_length)
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
        params = with_memory(self.plan, self._values(), memory, memory_length)
        dtype = self.param_dtype if dtype is None else dtype
        return start(self.cell, params, batch_shape, dtype)


class Bidirectional(_Layer):
    """Runs two cells: `layer(inputs, ...) -> (merge_fn(fw, bw), (state_fw, state_bw))`.

    Args:
        cell_fw, cell_bw: the cells of the two directions; `None` is one like `cell_fw`.
        in_features, rngs, param_dtype: as for `RNN`.
        merge_fn: of both outputs; default: side by side on the last axis; `None`: the pair.

    A call takes the arguments of `bidirectional_dynamic_rnn` after `params`, and
    `deterministic`, as `RNN`.

    Raises:
        ValueError: a cell draws and has nothing to draw from; all else as
            `bidirectional_dynamic_rnn`.

    Example:
        >>> import jax.numpy as jnp, jax_dynrnn as rnn
        >>> from flax import nnx
        >>> from jax_dynrnn import nnx as rnnx
        >>> layer = rnnx.Bidirectional(rnn.GRUCell(4), in_features=3, rngs=nnx.Rngs(0))
        >>> outputs, (fw, bw) = layer(jnp.ones((2, 5, 3)), sequence_length=[5, 3])
        >>> outputs.shape, fw.shape
        ((2, 5, 8), (2, 4))
    """

    def __init__(
        self,
        cell_fw: Any,
        cell_bw: Any = None,
        *,
        in_features: Any,
        rngs: nnx.Rngs,
        merge_fn: Callable | None = concatenate,
        param_dtype: Any = jnp.float32,
    ):
        plan = Pair(cell_fw, cell_fw if cell_bw is None else cell_bw, merge_fn)
        super().__init__(plan, in_features, rngs, param_dtype)

    def __call__(
        self, inputs: Any, sequence_length: Any = None, *initial_states: Any, **options: Any
    ) -> tuple[Any, tuple[State, State]]:
        return self._run(inputs, sequence_length, *initial_states, **options)


class StackedBidirectional(_Layer):
    """Bidirectional layers: `layer(inputs, ...) -> (outputs, (states_fw, states_bw))`.

    Args:
        cells_fw, cells_bw: one cell a layer; `None` is cells like `cells_fw`.
        in_features, rngs, param_dtype: as for `RNN`.

    A call takes the arguments of `stack_bidirectional_dynamic_rnn` after `params`, and
    `deterministic`, as `RNN`.

    Raises:
        ValueError: a cell draws and has nothing to draw from; all else as
            `stack_bidirectional_dynamic_rnn`.

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

    def __init__(
        self,
        cells_fw: Sequence[Any],
        cells_bw: Sequence[Any] | None = None,
        *,
        in_features: Any,
        rngs: nnx.Rngs,
        param_dtype: Any = jnp.float32,
    ):
        plan = Stack(tuple(cells_fw), tuple(cells_fw if cells_bw is None else cells_bw))
        super().__init__(plan, in_features, rngs, param_dtype)

    def __call__(
        self, inputs: Any, sequence_length: Any = None, *initial_states: Any, **options: Any
    ) -> tuple[Any, tuple[tuple, tuple]]:
        return self._run(inputs, sequence_length, *initial_states, **options)
