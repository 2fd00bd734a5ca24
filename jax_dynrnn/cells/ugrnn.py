"""The update gate network, and the +RNN, which is also gated in depth."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from .._cell import MatmulCell, Params
from .._init import Initializer, init_dense, init_kernel, init_vector, zeros
from .._tools import along_last, batch_tuple, check_size, check_units, dense, input_size, matmul
from .._types import BatchShape, DTypeLike, Projected, Shapes


class _Gated(MatmulCell):
    """Base class of both cells: one kernel for inputs and state, `[x, h] W + b`."""

    GATES: int
    num_units: int
    forget_bias: float
    kernel_initializer: Initializer | None
    recurrent_initializer: Initializer | None
    bias_initializer: Initializer | None

    def __post_init__(self) -> None:
        check_units(self)

    def _layer(self, key: jax.Array, size: int, dtype: DTypeLike) -> Params:
        keys, units = jax.random.split(key), self.GATES * self.num_units
        return {
            "kernel": init_kernel(keys[0], (size, self.num_units), self.GATES, self, dtype),
            "bias": init_vector(self.bias_initializer, zeros, keys[1], units, dtype),
        }

    def zero_state(self, batch_shape: BatchShape = (), dtype: DTypeLike = jnp.float32) -> jax.Array:
        return jnp.zeros((*batch_tuple(batch_shape), self.num_units), dtype)

    def _project(self, params: Params, x: jax.Array) -> jax.Array:
        """Computes the part of the pre-activations that depends on the inputs."""
        projected = matmul(x, params["kernel"][: -self.num_units])
        return projected + along_last(params["bias"], projected)

    def hidden(self, state: jax.Array) -> jax.Array:
        return state

    def recurrent_kernel(self, params: Params) -> jax.Array:
        return params["kernel"][-self.num_units :]


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class UGRNNCell(_Gated):
    """The update gate network: one gate interpolates between the old state and a candidate.

        g, c = split([x, h] W + b)
        g  = sigmoid(g + forget_bias)
        h' = g * h + (1 - g) * act(c)                       # also the output

    Args:
        num_units: size `H` of the state and of the output.
        forget_bias: added to the gate at run time, not stored.
        activation: `None` is tanh.
        kernel_initializer: `None` is Glorot's uniform, TF1's default.
        recurrent_initializer: of the rows of `kernel` that multiply `h`, gate by gate.
        bias_initializer: `None` is zeros.

    Params: `kernel` `[D + H, 2 H]`, `bias` `[2 H]`. State and output: `[..., H]`, in the
    dtype of the inputs and params.

    Raises:
        TypeError, ValueError: `num_units` is not a positive int.

    Reference: `tf.contrib.rnn.UGRNNCell`; Collins et al., arXiv:1611.09913.

    Example:
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> cell = rnn.UGRNNCell(4)
        >>> params = cell.init(jax.random.key(0), (2, 5, 3))
        >>> outputs, state = rnn.dynamic_rnn(cell, params, jnp.ones((2, 5, 3)))
        >>> bool((outputs[:, -1] == state).all())
        True
    """

    GATES = 2

    num_units: int
    _: dataclasses.KW_ONLY
    forget_bias: float = 1.0
    activation: Callable[..., Any] | None = None
    kernel_initializer: Initializer | None = None
    recurrent_initializer: Initializer | None = None
    bias_initializer: Initializer | None = None

    def init(self, key: jax.Array, input_shape: Shapes, dtype: DTypeLike = jnp.float32) -> Params:
        return self._layer(key, input_size(self, input_shape), dtype)

    def project(self, params: Params, inputs: jax.Array) -> jax.Array:
        return self._project(params, inputs)

    def pointwise(
        self, params: Params, projected: jax.Array, recurred: jax.Array, state: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        gate, candidate = jnp.split(projected + recurred, 2, -1)
        gate = jax.nn.sigmoid(gate + self.forget_bias)
        new = gate * state + (1 - gate) * (self.activation or jnp.tanh)(candidate)
        return new, new


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class IntersectionRNNCell(_Gated):
    """The +RNN: one gate along time, one along depth.

        x  = x W_in + b_in                                  # if x does not have H features
        g_h, h~, g_y, y~ = split([x, h] W + b)
        h' = sigmoid(g_h + forget_bias) * h + (1 - ...) * tanh(h~)
        y  = sigmoid(g_y + forget_bias) * x + (1 - ...) * y_act(y~)     # the output

    It is meant for stacks: the first cell projects its inputs; the others receive `H` features
    and, as in TF1, do not project them.

    Args:
        num_units: size `H` of the state and of the output.
        num_in_proj: size to which inputs of another size are projected, equal to `num_units`;
            `None`: the inputs must have that size.
        forget_bias: added to both gates at run time, not stored.
        y_activation: `None` is relu.
        kernel_initializer: of both kernels; `None` is Glorot's uniform, TF1's default.
        recurrent_initializer: of the rows of `kernel` that multiply `h`, gate by gate.
        bias_initializer: of both biases; `None` is zeros.

    Params: `kernel` `[2 H, 4 H]`, `bias` `[4 H]`, and where the inputs are projected
    `in_projection/{kernel [D, H], bias [H]}`. State and output: `[..., H]`, in the dtype of
    the inputs and params.

    Raises:
        TypeError, ValueError: a size is not a positive int; the inputs, projected or not,
            do not have `num_units` features.

    Reference: `tf.contrib.rnn.IntersectionRNNCell`; Collins et al., arXiv:1611.09913.

    Example:
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> cell = rnn.MultiRNNCell([rnn.IntersectionRNNCell(4, num_in_proj=4)] * 2)
        >>> params = cell.init(jax.random.key(0), (2, 5, 3))
        >>> sorted(params["cell_0"]), sorted(params["cell_1"])
        (['bias', 'in_projection', 'kernel'], ['bias', 'kernel'])
    """

    GATES = 4

    num_units: int
    _: dataclasses.KW_ONLY
    num_in_proj: int | None = None
    forget_bias: float = 1.0
    y_activation: Callable[..., Any] | None = None
    kernel_initializer: Initializer | None = None
    recurrent_initializer: Initializer | None = None
    bias_initializer: Initializer | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_in_proj is not None:
            check_size(self, "num_in_proj")
            self._check(self.num_in_proj)

    def _check(self, size: int) -> None:
        if size != self.num_units:
            raise ValueError(
                f"IntersectionRNNCell: expected inputs of num_units={self.num_units} features, "
                f"got {size}; give num_in_proj={self.num_units} to project them"
            )

    def init(self, key: jax.Array, input_shape: Shapes, dtype: DTypeLike = jnp.float32) -> Params:
        own, before = jax.random.split(key)
        size, params = input_size(self, input_shape), {}
        if size != self.num_units and self.num_in_proj is not None:
            layer = init_dense(before, (size, self.num_in_proj), self, dtype)
            params, size = {"in_projection": layer}, self.num_in_proj
        self._check(size)
        return self._layer(own, size, dtype) | params

    def project(self, params: Params, inputs: jax.Array) -> Any:
        if "in_projection" in params:
            inputs = dense(params["in_projection"], inputs)
        return inputs, self._project(params, inputs)

    def pointwise(
        self, params: Params, projected: Projected, recurred: jax.Array, state: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        x, gates = projected
        h_gate, h, y_gate, y = jnp.split(gates + recurred, 4, -1)
        h_gate = jax.nn.sigmoid(h_gate + self.forget_bias)
        y_gate = jax.nn.sigmoid(y_gate + self.forget_bias)
        new = h_gate * state + (1 - h_gate) * jnp.tanh(h)
        return y_gate * x + (1 - y_gate) * (self.y_activation or jax.nn.relu)(y), new
