"""Flax's cells, Linen's and NNX's, as cells of this package."""

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
    """What the adapters of both have in common: the carry, and how many axes inputs have."""

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
        """What `initialize_carry` makes where `RNN` is given no key, in `dtype`."""
        features = self.input_shape or (None,) * self.feature_ndim  # most cells do not ask
        try:
            carry = self._carry((*batch_tuple(batch_shape), *features))
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
        module: an `RNNCellBase`. Its variables are all params.
        input_shape: the shape of one step of one row, for a module whose carry depends on
            it, such as `ConvLSTMCell`.

    Params: those of Flax, the collection `params`; of a trained `nn.RNN(module)` they are
    `variables["params"]["cell"]`. `init` makes them in its `dtype`, whatever `param_dtype`.
    State: Flax's carry, `(c, h)` of an LSTM. Output: the module's. The key of a step is the
    module's stream `dropout`; without one a module that draws fails, so evaluate another one,
    with its own flag (`deterministic`).

    Raises:
        TypeError: `module` is not a cell, or has other variables than params.
        ValueError: its carry depends on `input_shape`, and none is given.

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
        unbound = self.module.clone(parent=None, name=None)  # it may be made inside a model
        object.__setattr__(self, "module", unbound)

    def init(self, key: jax.Array, input_shape: Shapes, dtype: DTypeLike = jnp.float32) -> Params:
        if not is_shape(input_shape):
            raise ValueError(
                f"{self!r} takes one array of inputs, as Flax's RNN does: expected one shape, got "
                f"{input_shape!r}"
            )
        row = (1, *input_shape[len(input_shape) - self.feature_ndim :])
        carry = self._carry(row)  # it has the dtype that the module makes its params in
        variables = self.module.init(key, carry, jnp.zeros(row, promoted(carry)))
        if set(variables) - {"params"}:
            raise TypeError(
                f"{self!r}: expected a module with no variables but params, got "
                f"{', '.join(variables)}; what changes from step to step belongs to the carry"
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
        module: an `nnx.RNNCellBase`. Its variables are `nnx.Param`s and streams of keys.
        input_shape: the shape of one step of one row, for a module whose carry depends on it.

    Params: the nested dict of the module's `nnx.Param`s, which `cell.params` has as they are
    now. The module has them, so `init` draws nothing: it returns the same, in `dtype`.
    `nnx.update(module, params)` puts trained ones back. State: Flax's carry, `(c, h)` of an
    LSTM. Output: the module's. The key of a step is that of all streams of the module, which
    does not change; without a key the module evaluates, as after `module.eval()`.

    It is not compared by value, as cells otherwise are: run it under `jax.jit`. A model may
    make one of a submodule at every call.

    Raises:
        TypeError: `module` is not a cell, or has other variables (statistics).
        ValueError: its carry depends on `input_shape`, and none is given.

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
        """The params that the module has."""
        return self._split()[1]

    def init(self, key: jax.Array, input_shape: Shapes, dtype: DTypeLike = jnp.float32) -> Params:
        """The params that the module has, in `dtype`."""
        return cast(self.params, dtype)

    def _carry(self, input_shape: tuple[Any, ...]) -> State:
        from flax import nnx

        return self.module.initialize_carry(input_shape, nnx.RngStream(0, tag="carry"))

    def __call__(
        self, params: Params, inputs: Inputs, state: State, *, key: Key = None
    ) -> tuple[Any, State]:
        from flax import nnx

        graph, _, streams = self._split()
        streams = nnx.to_pure_dict(streams if key is None else _begun_anew(streams, key))
        module = nnx.merge(graph, as_dicts(params), streams)  # a copy
        if key is None:
            module.eval()
        new, output = module(state, inputs)
        return output, new

    def _split(self) -> tuple[Any, Params, Any]:
        """The module without variables, its params, and its streams of keys."""
        from flax import nnx

        graph, params, streams, rest = nnx.split(self.module, nnx.Param, nnx.RngState, ...)
        others = {type(x).__name__ for _, x in nnx.to_flat_state(rest)}
        if others:
            raise TypeError(
                f"{self!r}: expected a module with no variables but nnx.Param and streams of "
                f"keys, got {', '.join(sorted(others))}; what changes from step to step belongs "
                "to the carry"
            )
        return graph, nnx.to_pure_dict(params), streams


def _begun_anew(streams: Any, key: jax.Array) -> Any:
    """The streams of keys, each from a key of its own made of `key`."""
    from flax import nnx

    place = itertools.count()

    def leaf(x):
        if not isinstance(x, nnx.RngKey):
            return x.replace(jnp.zeros_like(x.get_value()))
        return x.replace(jax.random.split(jax.random.fold_in(key, next(place)), x.shape))

    return jax.tree.map(leaf, streams, is_leaf=lambda x: isinstance(x, nnx.Variable))
