"""Two small cells: the minimal recurrent network, and the chaos free network."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from .._cell import MatmulCell, Params
from .._init import (
    Initializer,
    glorot_uniform,
    init_gates,
    init_vector,
    ones,
    with_last_rows,
)
from .._tools import along_last, batch_tuple, check_options, check_size, input_size, matmul
from .._types import BatchShape, DTypeLike, Projected, Shapes


@dataclasses.dataclass(frozen=True)
class _Small(MatmulCell):
    """The configuration that both cells share."""

    units: int
    _: dataclasses.KW_ONLY
    activation: Callable[..., Any] | None = None
    kernel_initializer: Initializer | None = None
    recurrent_initializer: Initializer | None = None
    bias_initializer: Initializer | None = None

    def __post_init__(self) -> None:
        check_size(self, "units")
        check_options(self)

    def zero_state(self, batch_shape: BatchShape = (), dtype: DTypeLike = jnp.float32) -> jax.Array:
        return jnp.zeros((*batch_tuple(batch_shape), self.units), dtype)

    def hidden(self, state: jax.Array) -> jax.Array:
        return state

    def _activate(self, x: jax.Array) -> jax.Array:
        return (self.activation or jnp.tanh)(x)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class MinimalRNNCell(_Small):
    """The minimal recurrent network: one gate between the state and the embedded input.

        z  = act(x W_x)
        u  = sigmoid([z, h] W + b)
        h' = u * h + (1 - u) * z                            # also the output

    Args:
        units: size `H` of the state and of the output.
        activation: of the embedded input; `None` is tanh.
        kernel_initializer: of `kernel`; `None` is Glorot's uniform, TF1's default.
        recurrent_initializer: of its last `H` rows, which multiply `h`.
        bias_initializer: `None` is ones.

    Params: `kernel` `[D + 2 H, H]`, of which the first `D` rows are `W_x`; `bias` `[H]`.
    State and output: `[..., H]`, in the dtype of the inputs and params.

    Raises:
        TypeError, ValueError: `units` is not a positive int.

    Differs from TF1: activations and initializers are functions, not names.

    Reference: `MinimalRNNCell` in `tensorflow/contrib/rnn`; Chen, arXiv:1711.06788; Chen et al.,
    arXiv:1806.05394.

    Example:
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> cell = rnn.MinimalRNNCell(4)
        >>> params = cell.init(jax.random.key(0), (2, 5, 3))
        >>> outputs, state = rnn.dynamic_rnn(cell, params, jnp.ones((2, 5, 3)))
        >>> bool((jnp.abs(outputs) < 1).all())              # a weighted mean of tanh values
        True
    """

    def init(self, key: jax.Array, input_shape: Shapes, dtype: DTypeLike = jnp.float32) -> Params:
        keys, units = jax.random.split(key, 3), self.units
        shape = (input_size(self, input_shape) + 2 * units, units)
        kernel = (self.kernel_initializer or glorot_uniform)(keys[0], shape, dtype)
        if self.recurrent_initializer is not None:
            recurrent = self.recurrent_initializer(keys[1], (units, units), dtype)
            kernel = with_last_rows(kernel, recurrent)
        return {
            "kernel": kernel,
            "bias": init_vector(self.bias_initializer, ones, keys[2], units, dtype),
        }

    def project(self, params: Params, inputs: jax.Array) -> Any:
        kernel = params["kernel"]
        embedded = self._activate(matmul(inputs, kernel[: -2 * self.units]))
        # This product does not depend on the state: engines batch it over all steps.
        gate = embedded @ kernel[-2 * self.units : -self.units]
        return embedded, gate + along_last(params["bias"], gate)

    def recurrent_kernel(self, params: Params) -> jax.Array:
        return params["kernel"][-self.units :]

    def pointwise(
        self, params: Params, projected: Projected, recurred: jax.Array, state: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        embedded, gate = projected
        update = jax.nn.sigmoid(gate + recurred)
        new = update * state + (1 - update) * embedded
        return new, new


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class CFNCell(_Small):
    """The chaos free network: without inputs, the state converges to 0.

        t, e = split(sigmoid(h U + x V + b))
        h'   = t * act(h) + (1 - e) * act(x W)              # also the output

    Args:
        units: size `H` of the state and of the output.
        activation: `None` is tanh.
        kernel_initializer: of `kernel`; `None` is Glorot's uniform, TF1's default.
        recurrent_initializer: of `recurrent_kernel`, gate by gate; `None` is
            `kernel_initializer`, of all of it.
        bias_initializer: `None` is ones.

    Params: `kernel` `[D, 3 H]`, which is `[V, W]`; `recurrent_kernel` `[H, 2 H]`; `bias`
    `[2 H]`. State and output: `[..., H]`, in the dtype of the inputs and params.

    Raises:
        TypeError, ValueError: `units` is not a positive int.

    Differs from TF1: activations and initializers are functions, not names.

    Reference: `CFNCell` in `tensorflow/contrib/rnn`; Laurent and von Brecht,
    arXiv:1612.06212.

    Example:
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> cell = rnn.CFNCell(4)
        >>> params = cell.init(jax.random.key(0), (2, 5, 3))
        >>> inputs, start = jnp.zeros((2, 5, 3)), jnp.ones((2, 4))
        >>> outputs, _ = rnn.dynamic_rnn(cell, params, inputs, initial_state=start)
        >>> bool((jnp.diff(outputs, axis=1) < 0).all())
        True
    """

    def init(self, key: jax.Array, input_shape: Shapes, dtype: DTypeLike = jnp.float32) -> Params:
        keys, units = jax.random.split(key, 5), self.units
        initialize = self.kernel_initializer or glorot_uniform
        size = input_size(self, input_shape)
        recurrent = initialize(keys[1], (units, 2 * units), dtype)
        if self.recurrent_initializer is not None:
            shape = (units, units)
            recurrent = init_gates(self.recurrent_initializer, keys[3:], shape, dtype)
        return {
            "kernel": initialize(keys[0], (size, 3 * units), dtype),
            "recurrent_kernel": recurrent,
            "bias": init_vector(self.bias_initializer, ones, keys[2], 2 * units, dtype),
        }

    def project(self, params: Params, inputs: jax.Array) -> Any:
        projected = matmul(inputs, params["kernel"])
        gates, candidate = jnp.split(projected, [2 * self.units], -1)
        return gates + along_last(params["bias"], gates), self._activate(candidate)

    def recurrent_kernel(self, params: Params) -> jax.Array:
        return params["recurrent_kernel"]

    def pointwise(
        self, params: Params, projected: Projected, recurred: jax.Array, state: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        gates, candidate = projected
        theta, eta = jnp.split(jax.nn.sigmoid(gates + recurred), 2, -1)
        new = theta * self._activate(state) + (1 - eta) * candidate
        return new, new
