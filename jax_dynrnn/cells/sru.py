"""The simple recurrent unit, which has no matmul with the state."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from .._cell import Params, StagedCell, Stages
from .._init import Initializer, glorot_uniform, init_vector, zeros
from .._tools import along_last, batch_tuple, check_units, input_size, matmul
from .._types import BatchShape, DTypeLike, Projected, Shapes


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class SRUCell(StagedCell):
    """Simple recurrent unit: the gates depend only on the inputs.

        x~, f, r, x' = split(x W)
        f, r = sigmoid([f, r] + b)
        c' = f * c + (1 - f) * x~                           # the state
        y  = r * act(c') + (1 - r) * x'                     # the output

    Args:
        num_units: size `H` of the state and of the output.
        activation: `None` is tanh.
        kernel_initializer: `None` is Glorot's uniform, TF1's default.
        bias_initializer: `None` is zeros.

    Params: `kernel` `[D, 4 H]`, `bias` `[2 H]`. State and output: `[..., H]`, in the dtype
    of the inputs and params.

    Raises:
        TypeError, ValueError: `num_units` is not a positive int.

    Reference: `tf.contrib.rnn.SRUCell`; Lei et al., arXiv:1709.02755.

    Example:
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> cell = rnn.SRUCell(4)
        >>> params = cell.init(jax.random.key(0), (2, 5, 3))
        >>> outputs, state = rnn.dynamic_rnn(cell, params, jnp.ones((2, 5, 3)))
        >>> outputs.shape, state.shape, bool((outputs[:, -1] == state).any())
        ((2, 5, 4), (2, 4), False)
    """

    num_units: int
    _: dataclasses.KW_ONLY
    activation: Callable[..., Any] | None = None
    kernel_initializer: Initializer | None = None
    bias_initializer: Initializer | None = None

    def __post_init__(self) -> None:
        check_units(self)

    def init(self, key: jax.Array, input_shape: Shapes, dtype: DTypeLike = jnp.float32) -> Params:
        keys, units = jax.random.split(key), self.num_units
        shape = (input_size(self, input_shape), 4 * units)
        return {
            "kernel": (self.kernel_initializer or glorot_uniform)(keys[0], shape, dtype),
            "bias": init_vector(self.bias_initializer, zeros, keys[1], 2 * units, dtype),
        }

    def zero_state(self, batch_shape: BatchShape = (), dtype: DTypeLike = jnp.float32) -> jax.Array:
        return jnp.zeros((*batch_tuple(batch_shape), self.num_units), dtype)

    def project(self, params: Params, inputs: jax.Array) -> Any:
        x, f, r, skip = jnp.split(matmul(inputs, params["kernel"]), 4, -1)
        b_f, b_r = jnp.split(params["bias"], 2)
        f, r = jax.nn.sigmoid(f + along_last(b_f, f)), jax.nn.sigmoid(r + along_last(b_r, r))
        # What does not depend on the state is computed here: engines batch it over all steps.
        return (1 - f) * x, f, r, (1 - r) * skip

    def stages(self, params: Params, projected: Projected, state: jax.Array) -> Stages:
        yield from ()  # makes this a generator, which requests no product
        gated_x, f, r, gated_skip = projected
        c = f * state + gated_x
        return r * (self.activation or jnp.tanh)(c) + gated_skip, c
