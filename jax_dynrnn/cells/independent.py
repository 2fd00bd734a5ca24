"""Cells in which each unit receives only its own state: TF1's IndRNN, IndyGRU and IndyLSTM."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from .._cell import LSTMStateTuple, Params, StagedCell, Stages
from .._init import Initializer, glorot_uniform, init_vector, ones, zeros
from .._tools import along_last, batch_tuple, check_units, input_size, matmul
from .._types import BatchShape, DTypeLike, Projected, Shapes


def uniform(key: jax.Array, shape: tuple[Any, ...], dtype: DTypeLike) -> jax.Array:
    """TF1's default initializer of recurrent weights: U(-1, 1)."""
    return jax.random.uniform(key, shape, dtype, minval=-1.0)


@dataclasses.dataclass(frozen=True)
class _Independent(StagedCell):
    """Base class of the three cells: the recurrent weights are one row, not a matrix."""

    num_units: int
    _: dataclasses.KW_ONLY
    activation: Callable[..., Any] | None = None
    kernel_initializer: Initializer | None = None
    recurrent_initializer: Initializer | None = None
    bias_initializer: Initializer | None = None

    def __post_init__(self) -> None:
        check_units(self)

    def zero_state(self, batch_shape: BatchShape = (), dtype: DTypeLike = jnp.float32) -> Any:
        return jnp.zeros((*batch_tuple(batch_shape), self.num_units), dtype)

    def _layer(
        self, key: jax.Array, input_shape: Shapes, gates: int, bias: Initializer, dtype: DTypeLike
    ) -> Params:
        keys, units = jax.random.split(key, 3), gates * self.num_units
        shape = (input_size(self, input_shape), units)
        return {
            "kernel_w": (self.kernel_initializer or glorot_uniform)(keys[0], shape, dtype),
            "kernel_u": (self.recurrent_initializer or uniform)(keys[1], (1, units), dtype),
            "bias": init_vector(self.bias_initializer, bias, keys[2], units, dtype),
        }

    def _activate(self, x: jax.Array) -> jax.Array:
        return (self.activation or jnp.tanh)(x)


def _dense(kernel: jax.Array, bias: jax.Array, inputs: jax.Array) -> jax.Array:
    projected = matmul(inputs, kernel)
    return projected + along_last(bias, projected)


def _recur(layer: Params, state: jax.Array, gates: int) -> jax.Array:
    """Computes the recurrent term of each gate: the state of the same unit times a weight."""
    repeated = jnp.concatenate([state] * gates, -1)
    return along_last(layer["kernel_u"][0], repeated) * repeated


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class IndRNNCell(_Independent):
    """A vanilla cell whose units are independent: `h' = act(x W + u * h + b)`.

    Args:
        num_units: size `H` of the state and of the output.
        activation: `None` is tanh.
        kernel_initializer: of `kernel_w`; `None` is Glorot's uniform, TF1's default.
        recurrent_initializer: of `kernel_u`; `None` is U(-1, 1), TF1's default.
        bias_initializer: `None` is zeros.

    Params: `kernel_w` `[D, H]`, `kernel_u` `[1, H]`, `bias` `[H]`. State and output:
    `[..., H]`, in the dtype of the inputs and params.

    Raises:
        TypeError, ValueError: `num_units` is not a positive int.

    Reference: `tf.contrib.rnn.IndRNNCell`; Li et al., arXiv:1803.04831.

    Example: a unit that sums its inputs
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> cell = rnn.IndRNNCell(1, activation=jax.nn.relu)
        >>> one = jnp.ones((1, 1))
        >>> params = {"kernel_w": one, "kernel_u": one, "bias": jnp.zeros(1)}
        >>> outputs, _ = rnn.dynamic_rnn(cell, params, jnp.array([[[1.0], [2.0], [3.0]]]))
        >>> outputs.ravel().tolist()
        [1.0, 3.0, 6.0]
    """

    def init(self, key: jax.Array, input_shape: Shapes, dtype: DTypeLike = jnp.float32) -> Params:
        return self._layer(key, input_shape, 1, zeros, dtype)

    def project(self, params: Params, inputs: jax.Array) -> jax.Array:
        return _dense(params["kernel_w"], params["bias"], inputs)

    def stages(self, params: Params, projected: jax.Array, state: jax.Array) -> Stages:
        yield from ()  # makes this a generator, which requests no product
        new = self._activate(projected + _recur(params, state, 1))
        return new, new


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class IndyGRUCell(_Independent):
    """A GRU whose units are independent.

        r, u = sigmoid(x W_gates + u_gates * [h, h] + b_gates)
        c    = act(x W_candidate + u_candidate * r * h + b_candidate)
        h'   = u * h + (1 - u) * c                          # also the output

    Args:
        num_units: size `H` of the state and of the output.
        activation: of the candidate; `None` is tanh.
        kernel_initializer: of both kernels; `None` is Glorot's uniform, TF1's default.
        recurrent_initializer: of both `kernel_u`; `None` is U(-1, 1), TF1's default.
        bias_initializer: `None` is ones for the gates, zeros for the candidate.

    Params: `gates/{kernel_w [D, 2 H], kernel_u [1, 2 H], bias [2 H]}` and
    `candidate/{kernel [D, H], kernel_u [1, H], bias [H]}`. TF1's names are not consistent.
    State and output: `[..., H]`, in the dtype of the inputs and params.

    Raises:
        TypeError, ValueError: `num_units` is not a positive int.

    Reference: `tf.contrib.rnn.IndyGRUCell`; Gonnet and Deselaers, arXiv:1903.08023.

    Example:
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> cell = rnn.IndyGRUCell(4)
        >>> params = cell.init(jax.random.key(0), (2, 5, 3))
        >>> sorted(params["gates"]), sorted(params["candidate"])
        (['bias', 'kernel_u', 'kernel_w'], ['bias', 'kernel', 'kernel_u'])
    """

    def init(self, key: jax.Array, input_shape: Shapes, dtype: DTypeLike = jnp.float32) -> Params:
        keys = jax.random.split(key)
        candidate = self._layer(keys[1], input_shape, 1, zeros, dtype)
        candidate["kernel"] = candidate.pop("kernel_w")  # TF1's name
        return {"gates": self._layer(keys[0], input_shape, 2, ones, dtype), "candidate": candidate}

    def project(self, params: Params, inputs: jax.Array) -> Any:
        gates, candidate = params["gates"], params["candidate"]
        return (
            _dense(gates["kernel_w"], gates["bias"], inputs),
            _dense(candidate["kernel"], candidate["bias"], inputs),
        )

    def stages(self, params: Params, projected: Projected, state: jax.Array) -> Stages:
        yield from ()  # makes this a generator, which requests no product
        gates, candidate = projected
        gates = jax.nn.sigmoid(gates + _recur(params["gates"], state, 2))
        reset, update = jnp.split(gates, 2, -1)
        candidate = self._activate(candidate + _recur(params["candidate"], reset * state, 1))
        new = update * state + (1 - update) * candidate
        return new, new


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class IndyLSTMCell(_Independent):
    """An LSTM whose units are independent.

        i, j, f, o = split(x W + u * [h, h, h, h] + b)
        c' = sigmoid(f + forget_bias) * c + sigmoid(i) * act(j)
        h' = sigmoid(o) * act(c')                           # also the output

    Args:
        num_units: size `H` of the memory and of the output.
        forget_bias: added to the forget gate at run time, not stored.
        activation: `None` is tanh.
        kernel_initializer: of `kernel_w`; `None` is Glorot's uniform, TF1's default.
        recurrent_initializer: of `kernel_u`; `None` is U(-1, 1), TF1's default.
        bias_initializer: `None` is zeros.

    Params: `kernel_w` `[D, 4 H]`, `kernel_u` `[1, 4 H]`, `bias` `[4 H]`.
    State: `LSTMStateTuple(c [..., H], h [..., H])`; output: `h'`; in the dtype of the
    inputs and params.

    Raises:
        TypeError, ValueError: `num_units` is not a positive int.

    Reference: `tf.contrib.rnn.IndyLSTMCell`; Gonnet and Deselaers, arXiv:1903.08023.

    Example:
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> cell = rnn.IndyLSTMCell(4)
        >>> params = cell.init(jax.random.key(0), (2, 5, 3))
        >>> outputs, state = rnn.dynamic_rnn(cell, params, jnp.ones((2, 5, 3)))
        >>> bool((outputs[:, -1] == state.h).all())
        True
    """

    _: dataclasses.KW_ONLY
    forget_bias: float = 1.0

    def init(self, key: jax.Array, input_shape: Shapes, dtype: DTypeLike = jnp.float32) -> Params:
        return self._layer(key, input_shape, 4, zeros, dtype)

    def zero_state(
        self, batch_shape: BatchShape = (), dtype: DTypeLike = jnp.float32
    ) -> LSTMStateTuple:
        zero = super().zero_state(batch_shape, dtype)
        return LSTMStateTuple(zero, zero)

    def project(self, params: Params, inputs: jax.Array) -> jax.Array:
        return _dense(params["kernel_w"], params["bias"], inputs)

    def stages(self, params: Params, projected: jax.Array, state: LSTMStateTuple) -> Stages:
        yield from ()  # makes this a generator, which requests no product
        i, j, f, o = jnp.split(projected + _recur(params, state.h, 4), 4, -1)
        c = jax.nn.sigmoid(f + self.forget_bias) * state.c + jax.nn.sigmoid(i) * self._activate(j)
        h = jax.nn.sigmoid(o) * self._activate(c)
        return h, LSTMStateTuple(c, h)
