"""The two gated recurrent units: with the reset before the matmul (TF1), and after (cuDNN)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from .._cell import MatmulCell, Params, StagedCell, Stages
from .._init import Initializer, init_kernel, init_vector, ones, zeros
from .._tools import along_last, batch_tuple, check_units, input_size, matmul
from .._types import BatchShape, DTypeLike, Projected, Shapes


@dataclasses.dataclass(frozen=True, repr=False)
class _GRU:
    """The configuration that both GRUs share."""

    num_units: int
    _: dataclasses.KW_ONLY
    activation: Callable[..., Any] | None = None
    recurrent_activation: Callable[..., Any] | None = None
    kernel_initializer: Initializer | None = None
    recurrent_initializer: Initializer | None = None
    bias_initializer: Initializer | None = None

    def __post_init__(self) -> None:
        check_units(self)

    def zero_state(self, batch_shape: BatchShape = (), dtype: DTypeLike = jnp.float32) -> jax.Array:
        return jnp.zeros((*batch_tuple(batch_shape), self.num_units), dtype)

    def activate(self, x: jax.Array) -> jax.Array:
        return (self.activation or jnp.tanh)(x)

    def activate_gate(self, x: jax.Array) -> jax.Array:
        return (self.recurrent_activation or jax.nn.sigmoid)(x)


def _interpolate(update: jax.Array, state: jax.Array, candidate: jax.Array) -> jax.Array:
    return update * state + (1 - update) * candidate


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class GRUCell(_GRU, StagedCell):
    """TF1's gated recurrent unit: the reset gate acts *before* the candidate's matmul.

        r, u = split(sigmoid([x, h] W_gates + b_gates))
        c    = act([x, r * h] W_candidate + b_candidate)
        h'   = u * h + (1 - u) * c                          # also the output

    The GRU of Flax, PyTorch and cuDNN is `CudnnCompatibleGRUCell`: weights of one do
    not fit the other.

    Args:
        num_units: size `H` of the state and of the output.
        activation: of the candidate; `None` is tanh.
        recurrent_activation: of the gates; `None` is sigmoid.
        kernel_initializer: of both kernels; `None` is Glorot's uniform, TF1's default.
        recurrent_initializer: of their rows that multiply `h`, gate by gate.
        bias_initializer: of both biases; `None` is ones for the gates, zeros for the
            candidate.

    Params: `gates/kernel` `[D + H, 2 H]`, `gates/bias` `[2 H]`,
    `candidate/kernel` `[D + H, H]`, `candidate/bias` `[H]`, for inputs `[..., D]`.
    State and output: `[..., H]`, in the dtype of the inputs and params.

    Raises:
        TypeError, ValueError: `num_units` is not a positive int.

    Reference: `tf.nn.rnn_cell.GRUCell`; Cho et al., arXiv:1406.1078.

    Example:
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> cell = rnn.GRUCell(4)
        >>> params = cell.init(jax.random.key(0), (2, 5, 3))
        >>> outputs, state = rnn.dynamic_rnn(cell, params, jnp.ones((2, 5, 3)), [5, 2])
        >>> bool(jnp.allclose(outputs[1, 1], state[1]))
        True
    """

    def init(self, key: jax.Array, input_shape: Shapes, dtype: DTypeLike = jnp.float32) -> Params:
        units, bias = self.num_units, self.bias_initializer
        rows = (input_size(self, input_shape), units)
        keys = jax.random.split(key, 4)
        return {
            "gates": {
                "kernel": init_kernel(keys[0], rows, 2, self, dtype),
                # Ones, as in TF1: at first, the gates favour the old state.
                "bias": init_vector(bias, ones, keys[1], 2 * units, dtype),
            },
            "candidate": {
                "kernel": init_kernel(keys[2], rows, 1, self, dtype),
                "bias": init_vector(bias, zeros, keys[3], units, dtype),
            },
        }

    def project(self, params: Params, inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
        def dense(layer):
            projected = matmul(inputs, layer["kernel"][: -self.num_units])
            return projected + along_last(layer["bias"], projected)

        return dense(params["gates"]), dense(params["candidate"])

    def recurrent_input(self, state: jax.Array) -> jax.Array:
        return state

    def stages(self, params: Params, projected: Projected, state: jax.Array) -> Stages:
        kernels = [params[name]["kernel"][-self.num_units :] for name in ("gates", "candidate")]
        gates, candidate = projected
        h = self.recurrent_input(state)
        recurred = yield h, kernels[0]
        reset, update = jnp.split(self.activate_gate(gates + recurred), 2, -1)
        # `h`, which recurrent dropout masks, is only multiplied; `state` is carried unmasked.
        recurred = yield reset * h, kernels[1]
        new = _interpolate(update, state, self.activate(candidate + recurred))
        return new, new


GRUBlockCell = GRUBlockCellV2 = GRUCell  # TF1's fused GRUs; here XLA fuses every cell


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class CudnnCompatibleGRUCell(_GRU, MatmulCell):
    """The GRU of cuDNN, PyTorch and Flax: the reset gate acts *after* the matmul.

        r, u = split(sigmoid([x, h] W_gates + b_gates))
        c    = act(x W_input + b_input + r * (h W_hidden + b_hidden))
        h'   = u * h + (1 - u) * c                          # also the output

    Args:
        num_units: size `H` of the state and of the output.
        activation: of the candidate; `None` is tanh.
        recurrent_activation: of the gates; `None` is sigmoid.
        kernel_initializer: of all kernels; `None` is Glorot's uniform, TF1's default.
        recurrent_initializer: of the rows and kernels that multiply `h`, gate by gate.
        bias_initializer: of all biases; `None` is ones for the gates, zeros elsewhere.

    Params: `gates/kernel` `[D + H, 2 H]`, `gates/bias` `[2 H]`,
    `candidate/input_projection/{kernel [D, H], bias [H]}` and
    `candidate/hidden_projection/{kernel [H, H], bias [H]}`, for inputs `[..., D]`.
    State and output: `[..., H]`, in the dtype of the inputs and params.

    Raises:
        TypeError, ValueError: `num_units` is not a positive int.

    Reference: `tf.contrib.cudnn_rnn.CudnnCompatibleGRUCell`; the cuDNN guide.

    Example:
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> cell = rnn.CudnnCompatibleGRUCell(4)
        >>> params = cell.init(jax.random.key(0), (2, 5, 3))
        >>> outputs, state = rnn.dynamic_rnn(cell, params, jnp.ones((2, 5, 3)))
        >>> outputs.shape, state.shape
        ((2, 5, 4), (2, 4))
    """

    def init(self, key: jax.Array, input_shape: Shapes, dtype: DTypeLike = jnp.float32) -> Params:
        units, bias = self.num_units, self.bias_initializer
        size = input_size(self, input_shape)
        keys = jax.random.split(key, 6)
        initialize = self.recurrent_initializer
        # hidden_projection has only rows that multiply `h`: recurrent_initializer fills all of it.
        hidden = dataclasses.replace(self, kernel_initializer=initialize) if initialize else self
        return {
            "gates": {
                "kernel": init_kernel(keys[0], (size, units), 2, self, dtype),
                "bias": init_vector(bias, ones, keys[1], 2 * units, dtype),
            },
            "candidate": {
                "input_projection": {
                    "kernel": init_kernel(keys[2], (size, 0), 1, self, dtype),
                    "bias": init_vector(bias, zeros, keys[3], units, dtype),
                },
                "hidden_projection": {
                    "kernel": init_kernel(keys[4], (0, units), 1, hidden, dtype),
                    "bias": init_vector(bias, zeros, keys[5], units, dtype),
                },
            },
        }

    def project(self, params: Params, inputs: jax.Array) -> jax.Array:
        gates, candidate = params["gates"], params["candidate"]["input_projection"]
        kernels = (gates["kernel"][: -self.num_units], candidate["kernel"])
        projected = matmul(inputs, jnp.concatenate(kernels, -1))
        bias = jnp.concatenate((gates["bias"], candidate["bias"]))
        return projected + along_last(bias, projected)

    def hidden(self, state: jax.Array) -> jax.Array:
        return state

    def recurrent_kernel(self, params: Params) -> jax.Array:
        gates = params["gates"]["kernel"][-self.num_units :]
        candidate = params["candidate"]["hidden_projection"]["kernel"]
        return jnp.concatenate((gates, candidate), -1)

    def pointwise(
        self, params: Params, projected: jax.Array, recurred: jax.Array, state: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        r_x, u_x, c_x = jnp.split(projected, 3, -1)
        r_h, u_h, c_h = jnp.split(recurred, 3, -1)
        bias = params["candidate"]["hidden_projection"]["bias"]
        reset, update = self.activate_gate(r_x + r_h), self.activate_gate(u_x + u_h)
        candidate = self.activate(c_x + reset * (c_h + along_last(bias, c_h)))
        new = _interpolate(update, state, candidate)
        return new, new
