"""Adapts Flax's cells, Linen's and NNX's, to this package."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp

from ..._cell import Cell, Params, State
from ..._rnn import cast, promoted
from ..._tools import as_dicts, batch_tuple, is_shape
from ..._types import BatchShape, DTypeLike, Inputs, Key, Shapes


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class _FlaxCell(Cell):
    """The common base of both adapters: the carry, and the number of feature axes."""

    module: Any
    input_shape: tuple[Any, ...] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.module, type) or not hasattr(self.module, "initialize_carry"):
            raise TypeError(
                f"{type(self).__name__}: expected an instance of RNNCellBase, as of LSTMCell, "
                f"got {self.module!r:.60}"
            )
        if self.input_shape is not None:
            self._check_input_shape()

    def _check_input_shape(self) -> None:
        shape = self.input_shape
        if not isinstance(shape, tuple | list) or len(shape) != self.feature_ndim:
            raise ValueError(
                f"{self!r}: expected input_shape to be that of one step of one row, of "
                f"{self.feature_ndim} axes, got {shape!r}"
            )
        object.__setattr__(self, "input_shape", tuple(shape))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self.module).__name__})"

    @property
    def feature_ndim(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.module.num_feature_axes

    def zero_state(self, batch_shape: BatchShape = (), dtype: DTypeLike = jnp.float32) -> State:
        """The carry that an `RNN` without a key starts from, in `dtype`."""
        # Most carries do not depend on the sizes of the features, which are unknown here.
        features = self.input_shape or (None,) * self.feature_ndim
        try:
            carry = self._carry((*batch_tuple(batch_shape), *features))
        # A carry that does depend on them fails to compute with `None`.
        except TypeError as error:
            if self.input_shape is not None:
                raise
            raise ValueError(
                f"{self!r}: its carry depends on the size of the inputs; expected input_shape=, "
                f"the shape of one step of one row, of {self.feature_ndim} axes, got None"
            ) from error
        return cast(carry, dtype)

    def _carry(self, input_shape: tuple[Any, ...]) -> State:
        raise NotImplementedError


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, repr=False)
class LinenCell(_FlaxCell):
    """Runs a `flax.linen` cell.

    Args:
        module: an `RNNCellBase` whose only variables are params.
        input_shape: the shape of one step of one row, for a module whose carry depends on
            it, such as `ConvLSTMCell`.

    Params: Flax's, the collection `params`; for a trained `nn.RNN(module)` they are
    `variables["params"]["cell"]`. `init` returns them in its `dtype`, not in
    `param_dtype`.
    State: Flax's carry, `(c, h)` for an LSTM. Output: the module's. The key of a step is the
    module's stream `dropout`. Without a key, a module that draws random numbers fails: to
    evaluate, use a module that is made with `deterministic=True`.

    Raises:
        TypeError: `module` is not a cell, or has variables that are not params.
        ValueError: its carry depends on `input_shape`, which is missing.

    Example:
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> from flax import linen as nn
        >>> from jax_dynrnn.interop import foreign
        >>> inputs, layer = jnp.ones((2, 5, 3)), nn.RNN(nn.LSTMCell(4))
        >>> variables = layer.init(jax.random.key(0), inputs)
        >>> cell, params = foreign.LinenCell(nn.LSTMCell(4)), variables["params"]["cell"]
        >>> outputs, (c, h) = rnn.dynamic_rnn(cell, params, inputs, [5, 3])
        >>> bool(jnp.allclose(outputs[0], layer.apply(variables, inputs)[0]))
        True
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        # A module that was made inside a model is bound to it, and could not be run alone.
        unbound = self.module.clone(parent=None, name=None)
        object.__setattr__(self, "module", unbound)

    def init(self, key: jax.Array, input_shape: Shapes, dtype: DTypeLike = jnp.float32) -> Params:
        if not is_shape(input_shape):
            raise ValueError(
                f"{self!r} takes one array of inputs, as Flax's RNN does: expected one shape, got "
                f"{input_shape!r}"
            )
        row = (1, *input_shape[len(input_shape) - self.feature_ndim :])
        # The carry has the module's `param_dtype`, in which it is initialized here.
        carry = self._carry(row)
        variables = self.module.init(key, carry, jnp.zeros(row, promoted(carry)))
        if set(variables) - {"params"}:
            raise TypeError(
                f"{self!r}: expected a module with no variables but params, got "
                f"{', '.join(variables)}; values that change with the step belong in the carry"
            )
        return cast(variables.get("params", {}), dtype)

    def _carry(self, input_shape: tuple[Any, ...]) -> State:
        return self.module.initialize_carry(jax.random.key(0), input_shape)

    def __call__(
        self, params: Params, inputs: Inputs, state: State, *, key: Key = None
    ) -> tuple[Any, State]:
        rngs = None if key is None else {"dropout": key}
        new, output = self.module.apply({"params": as_dicts(params)}, state, inputs, rngs=rngs)
        return output, new


class NNXCell(_FlaxCell):
    """Runs a `flax.nnx` cell.

    Args:
        module: an `nnx.RNNCellBase` whose only variables are `nnx.Param`s and streams of keys.
        input_shape: the shape of one step of one row, for a module whose carry depends on it.

    Params: the nested dict of the module's `nnx.Param`s; `cell.params` returns their current
    values. They exist already, so `init` draws nothing: it returns them, in `dtype`.
    `nnx.update(module, params)` puts trained ones back. State: Flax's carry, `(c, h)` for an
    LSTM. Output: the module's. All streams of keys are derived from the key of the step, and
    the module itself is not changed; without a key it evaluates, as after `module.eval()`.

    Unlike other cells it is compared by identity, not by value: run it under `jax.jit`. A
    model may construct one around a submodule at every call.

    Raises:
        TypeError: `module` is not a cell, or has other variables (such as batch statistics).
        ValueError: its carry depends on `input_shape`, which is missing.

    Example:
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> from flax import nnx
        >>> from jax_dynrnn.interop import foreign
        >>> inputs, module = jnp.ones((2, 5, 3)), nnx.GRUCell(3, 4, rngs=nnx.Rngs(0))
        >>> cell = foreign.NNXCell(module)
        >>> outputs, state = rnn.dynamic_rnn(cell, cell.params, inputs, [5, 3])
        >>> bool(jnp.allclose(outputs[0], nnx.RNN(module)(inputs)[0]))
        True
    """

    @property
    def params(self) -> Params:
        """The current params of the module."""
        return self._split()[1]

    def init(self, key: jax.Array, input_shape: Shapes, dtype: DTypeLike = jnp.float32) -> Params:
        """The current params of the module, in `dtype`: nothing is drawn."""
        return cast(self.params, dtype)

    def _carry(self, input_shape: tuple[Any, ...]) -> State:
        from flax import nnx

        return self.module.initialize_carry(input_shape, nnx.RngStream(0, tag="carry"))

    def __call__(
        self, params: Params, inputs: Inputs, state: State, *, key: Key = None
    ) -> tuple[Any, State]:
        from flax import nnx

        graph, _, streams = self._split()
        streams = nnx.to_pure_dict(streams if key is None else _reseeded(streams, key))
        # `merge` makes a copy: the streams of the module itself do not advance.
        module = nnx.merge(graph, as_dicts(params), streams)
        if key is None:
            module.eval()
        new, output = module(state, inputs)
        return output, new

    def _split(self) -> tuple[Any, Params, Any]:
        """The module's graph without variables, its params, and its streams of keys."""
        from flax import nnx

        graph, params, streams, rest = nnx.split(self.module, nnx.Param, nnx.RngState, ...)
        others = {type(x).__name__ for _, x in nnx.to_flat_state(rest)}
        if others:
            raise TypeError(
                f"{self!r}: expected a module with no variables but nnx.Param and streams of "
                f"keys, got {', '.join(sorted(others))}; values that change with the step belong "
                "in the carry"
            )
        return graph, nnx.to_pure_dict(params), streams


def _reseeded(streams: Any, key: jax.Array) -> Any:
    """The streams of keys, each with a key of its own derived from `key` and its count at 0."""
    from flax import nnx

    counter = itertools.count()

    def leaf(x):
        if not isinstance(x, nnx.RngKey):
            return x.replace(jnp.zeros_like(x.get_value()))
        # A stream may be an array of keys: it receives as many.
        return x.replace(jax.random.split(jax.random.fold_in(key, next(counter)), x.shape))

    return jax.tree.map(leaf, streams, is_leaf=lambda x: isinstance(x, nnx.Variable))
