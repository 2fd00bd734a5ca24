"""The vanilla recurrent cell."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from .._cell import MatmulCell, Params
from .._init import Initializer, init_kernel, init_vector, zeros
from .._tools import along_last, batch_tuple, check_units, input_size, matmul
from .._types import BatchShape, DTypeLike, Shapes


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class BasicRNNCell(MatmulCell):
    """The vanilla recurrent cell: `h' = act([x, h] W + b)`; the output is `h'`.

    Args:
        num_units: size `H` of the state and of the output.
        activation: `None` is tanh.
        kernel_initializer: of `kernel`; `None` is Glorot's uniform, TF1's default.
        recurrent_initializer: of the rows of `kernel` that multiply `h`.
        bias_initializer: of `bias`; `None` is zeros.

    Params: `kernel` `[D + H, H]`, `bias` `[H]`, for inputs `[..., D]`.
    State and output: `[..., H]`, in the dtype of the inputs and params.

    Raises:
        TypeError, ValueError: `num_units` is not a positive int.

    Reference: `tf.nn.rnn_cell.BasicRNNCell`; Elman, Finding structure in time (1990).

    Example:
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> cell = rnn.BasicRNNCell(4)
        >>> params = cell.init(jax.random.key(0), (2, 5, 3))
        >>> outputs, state = rnn.dynamic_rnn(cell, params, jnp.ones((2, 5, 3)))
        >>> outputs.shape, state.shape
        ((2, 5, 4), (2, 4))
    """

    num_units: int
    _: dataclasses.KW_ONLY
    activation: Callable[..., Any] | None = None
    kernel_initializer: Initializer | None = None
    recurrent_initializer: Initializer | None = None
    bias_initializer: Initializer | None = None

    def __post_init__(self) -> None:
        check_units(self)

    def init(self, key: jax.Array, input_shape: Shapes, dtype: DTypeLike = jnp.float32) -> Params:
        units = self.num_units
        kernel, bias = jax.random.split(key)
        rows = (input_size(self, input_shape), units)
        return {
            "kernel": init_kernel(kernel, rows, 1, self, dtype),
            "bias": init_vector(self.bias_initializer, zeros, bias, units, dtype),
        }

    def zero_state(self, batch_shape: BatchShape = (), dtype: DTypeLike = jnp.float32) -> jax.Array:
        return jnp.zeros((*batch_tuple(batch_shape), self.num_units), dtype)

    def project(self, params: Params, inputs: jax.Array) -> jax.Array:
        projected = matmul(inputs, params["kernel"][: -self.num_units])
        return projected + along_last(params["bias"], projected)

    def hidden(self, state: jax.Array) -> jax.Array:
        return state

    def recurrent_kernel(self, params: Params) -> jax.Array:
        return params["kernel"][-self.num_units :]

    def pointwise(
        self, params: Params, projected: jax.Array, recurred: jax.Array, state: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        del params, state
        new = (self.activation or jnp.tanh)(projected + recurred)
        return new, new
