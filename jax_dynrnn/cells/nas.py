"""The cell that was found by neural architecture search."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from .._cell import LSTMStateTuple, MatmulCell, Params, Stages
from .._init import Initializer, glorot_uniform, init_gates, init_vector, zeros
from .._tools import along_last, batch_tuple, check_size, check_units, input_size, matmul
from .._types import BatchShape, DTypeLike, Projected, Shapes


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class NASCell(MatmulCell):
    """The cell found by neural architecture search: eight branches, combined as a tree.

        x_0 ... x_7 = split(x W);  m_0 ... m_7 = split(h U + b)
        a = tanh(sigmoid(x_0 + m_0) * relu(x_1 + m_1))
        b = tanh(sigmoid(x_2 + m_2) + relu(x_3 * m_3))      # a product
        c'= tanh(a + c) * b
        d = tanh(tanh(x_4 + m_4) * sigmoid(x_5 + m_5))
        e = sigmoid(tanh(x_6 + m_6) + sigmoid(x_7 + m_7))
        h'= tanh(c' * tanh(d + e)), or that times P         # also the output

    Args:
        num_units: size `H` of the memory `c`.
        num_proj: size `P` of the projected output; `None`: no projection, `P = H`.
        use_bias: whether a bias is added to `h U`.
        kernel_initializer: of all kernels; `None` is Glorot's uniform, TF1's default.
        recurrent_initializer: of `recurrent_kernel`, branch by branch; `None` is
            `kernel_initializer`, of all of it.
        bias_initializer: `None` is zeros.

    Params: `kernel` `[D, 8 H]`, `recurrent_kernel` `[P, 8 H]`, `bias` `[8 H]` with
    `use_bias`, `projection_weights` `[H, P]` with a projection.
    State: `LSTMStateTuple(c [..., H], h [..., P])`; output: `h'`; in the dtype of the
    inputs and params.

    Raises:
        TypeError, ValueError: a size is not a positive int.

    Reference: `tf.contrib.rnn.NASCell`; Zoph and Le, arXiv:1611.01578.

    Example:
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> cell = rnn.NASCell(4, num_proj=2)
        >>> params = cell.init(jax.random.key(0), (2, 5, 3))
        >>> outputs, state = rnn.dynamic_rnn(cell, params, jnp.ones((2, 5, 3)))
        >>> outputs.shape, state.c.shape, state.h.shape
        ((2, 5, 2), (2, 4), (2, 2))
    """

    num_units: int
    _: dataclasses.KW_ONLY
    num_proj: int | None = None
    use_bias: bool = False
    kernel_initializer: Initializer | None = None
    recurrent_initializer: Initializer | None = None
    bias_initializer: Initializer | None = None

    def __post_init__(self) -> None:
        check_units(self)
        if self.num_proj is not None:
            check_size(self, "num_proj")

    @property
    def _hidden_size(self) -> int:
        return self.num_units if self.num_proj is None else self.num_proj

    def init(self, key: jax.Array, input_shape: Shapes, dtype: DTypeLike = jnp.float32) -> Params:
        keys, units, hidden = jax.random.split(key, 11), self.num_units, self._hidden_size
        initialize = self.kernel_initializer or glorot_uniform
        size = input_size(self, input_shape)
        params = {
            "kernel": initialize(keys[0], (size, 8 * units), dtype),
            "recurrent_kernel": initialize(keys[1], (hidden, 8 * units), dtype),
        }
        if self.recurrent_initializer is not None:
            params["recurrent_kernel"] = init_gates(
                self.recurrent_initializer, keys[3:], (hidden, units), dtype
            )
        if self.use_bias:
            params["bias"] = init_vector(self.bias_initializer, zeros, keys[2], 8 * units, dtype)
        if self.num_proj is not None:
            key = jax.random.fold_in(key, 0)
            params["projection_weights"] = initialize(key, (units, self.num_proj), dtype)
        return params

    def zero_state(
        self, batch_shape: BatchShape = (), dtype: DTypeLike = jnp.float32
    ) -> LSTMStateTuple:
        batch, sizes = batch_tuple(batch_shape), (self.num_units, self._hidden_size)
        return LSTMStateTuple(*(jnp.zeros((*batch, size), dtype) for size in sizes))

    def project(self, params: Params, inputs: jax.Array) -> jax.Array:
        return matmul(inputs, params["kernel"])

    def hidden(self, state: LSTMStateTuple) -> jax.Array:
        return state.h

    def recurrent_kernel(self, params: Params) -> jax.Array:
        return params["recurrent_kernel"]

    def pointwise(
        self, params: Params, projected: jax.Array, recurred: jax.Array, state: LSTMStateTuple
    ) -> tuple[jax.Array, LSTMStateTuple]:
        # TF1 adds the bias to the recurrent product; in the branch `b`, which multiplies x and m,
        # that is not the same as adding it to x W.
        if self.use_bias:
            recurred = recurred + along_last(params["bias"], recurred)
        x, m = jnp.split(projected, 8, -1), jnp.split(recurred, 8, -1)
        sigmoid, tanh, relu = jax.nn.sigmoid, jnp.tanh, jax.nn.relu
        a = tanh(sigmoid(x[0] + m[0]) * relu(x[1] + m[1]))
        b = tanh(sigmoid(x[2] + m[2]) + relu(x[3] * m[3]))
        c = tanh(a + state.c) * b
        d = tanh(tanh(x[4] + m[4]) * sigmoid(x[5] + m[5]))
        e = sigmoid(tanh(x[6] + m[6]) + sigmoid(x[7] + m[7]))
        h = tanh(c * tanh(d + e))
        return h, LSTMStateTuple(c, h)

    def stages(self, params: Params, projected: Projected, state: LSTMStateTuple) -> Stages:
        output, state = yield from super().stages(params, projected, state)
        if self.num_proj is None:
            return output, state
        h = yield output, params["projection_weights"]
        return h, LSTMStateTuple(state.c, h)
