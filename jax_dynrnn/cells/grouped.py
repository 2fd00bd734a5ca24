"""The group LSTM, whose gates are computed in independent groups."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from .._cell import LSTMStateTuple, Params, Stages
from .._init import Initializer, glorot_uniform, init_kernel, init_vector, zeros
from .._tools import along_last, check_size, input_size, matmul
from .._types import DTypeLike, Shapes
from ._lstm import LSTM, check_lstm

BIASES = ("bias_i", "bias_j", "bias_f", "bias_o")


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class GLSTMCell(LSTM):
    """A group LSTM: `G` small LSTMs, each on its part of the inputs and of the state.

        i, j, f, o = concat over groups k of split([x_k, h_k] W_k), + b_i, b_j, b_f, b_o
        c' = sigmoid(f + forget_bias) * c + sigmoid(i) * tanh(j)
        m  = sigmoid(o) * act(c')
        h' = m, or m P over all groups                      # also the output

    Args:
        num_units: size `H` of the memory `c`, a multiple of the groups.
        number_of_groups: the number of groups `G`, which must divide the inputs' features too.
        num_proj: size `P` of the projected output, a multiple of the groups; `None`: no
            projection, `P = H`.
        forget_bias: added to the forget gate at run time, not stored.
        activation: of the memory; `None` is tanh.
        kernel_initializer: of all kernels; `None` is Glorot's uniform, TF1's default.
        recurrent_initializer: of the rows that multiply `h_k`, gate by gate.
        bias_initializer: of all biases; `None` is zeros.

    Params: `group0/kernel`, `group1/kernel`, ... `[(D + P) / G, 4 H / G]`; `bias_i`,
    `bias_j`, `bias_f`, `bias_o` `[H]`; `projection/kernel` `[H, P]`.
    State: `LSTMStateTuple(c [..., H], h [..., P])`; output: `h'`; in the dtype of the
    inputs and params.

    Raises:
        TypeError, ValueError: a size is not a positive int, or not a multiple of the groups.

    As in TF1, the candidate is always a tanh: `activation` applies only to the memory.

    Reference: `tf.contrib.rnn.GLSTMCell`; Kuchaiev and Ginsburg, arXiv:1703.10722.

    Example: with one group it is an LSTM, with one bias per gate
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> cell, inputs = rnn.GLSTMCell(4, number_of_groups=2), jnp.ones((2, 5, 6))
        >>> cell.init(jax.random.key(0), inputs.shape)["group0"]["kernel"].shape
        (5, 8)
        >>> cell = rnn.GLSTMCell(4)
        >>> params = cell.init(jax.random.key(0), inputs.shape)
        >>> biases = jnp.concatenate([params[f"bias_{gate}"] for gate in "ijfo"])
        >>> lstm = {"kernel": params["group0"]["kernel"], "bias": biases}
        >>> outputs, _ = rnn.dynamic_rnn(cell, params, inputs)
        >>> bool(jnp.allclose(outputs, rnn.dynamic_rnn(rnn.LSTMCell(4), lstm, inputs)[0]))
        True
    """

    num_units: int
    _: dataclasses.KW_ONLY
    num_proj: int | None = None
    number_of_groups: int = 1
    forget_bias: float = 1.0
    activation: Callable[..., Any] | None = None
    kernel_initializer: Initializer | None = None
    recurrent_initializer: Initializer | None = None
    bias_initializer: Initializer | None = None

    def __post_init__(self) -> None:
        check_lstm(self)
        check_size(self, "number_of_groups")
        self.group_size("num_units", self.num_units)
        self.group_size("num_proj", self.hidden_size)

    def group_size(self, name: str, size: int) -> int:
        """Returns the share of `size` of one group; `name` is that of `size`, for the error."""
        if size % self.number_of_groups:
            raise ValueError(
                f"GLSTMCell: expected {name} to be a multiple of number_of_groups="
                f"{self.number_of_groups}, got {size}"
            )
        return size // self.number_of_groups

    def init(self, key: jax.Array, input_shape: Shapes, dtype: DTypeLike = jnp.float32) -> Params:
        group_size = functools.partial(self.group_size, "the input size")
        rows = group_size(input_size(self, input_shape)), group_size(self.hidden_size)
        units = group_size(self.num_units)
        # init_kernel reads the number of units and the initializers of a cell.
        group = dataclasses.replace(self, num_units=units, num_proj=None, number_of_groups=1)
        keys = iter(jax.random.split(key, self.number_of_groups + 5))
        params: Params = {
            f"group{k}": {"kernel": init_kernel(next(keys), rows, 4, group, dtype)}
            for k in range(self.number_of_groups)
        }
        for name in BIASES:
            params[name] = init_vector(
                self.bias_initializer, zeros, next(keys), self.num_units, dtype
            )
        if self.num_proj is not None:
            initialize = self.kernel_initializer or glorot_uniform
            kernel = initialize(next(keys), (self.num_units, self.num_proj), dtype)
            params["projection"] = {"kernel": kernel}
        return params

    def kernels(self, params: Params) -> list[jax.Array]:
        """Returns the kernel of each group."""
        return [params[f"group{k}"]["kernel"] for k in range(self.number_of_groups)]

    def project(self, params: Params, inputs: jax.Array) -> jax.Array:
        self.group_size("the input size", inputs.shape[-1])
        rows = self.hidden_size // self.number_of_groups
        groups = jnp.split(inputs, self.number_of_groups, -1)
        kernels = self.kernels(params)
        products = [matmul(x, kernel[:-rows]) for x, kernel in zip(groups, kernels, strict=True)]
        projected = _by_gate(products)
        bias = jnp.concatenate([params[name] for name in BIASES])
        return projected + along_last(bias, projected)

    def recur(self, params: Params, state: LSTMStateTuple) -> Stages:
        products, groups = [], jnp.split(self.recurrent_input(state), self.number_of_groups, -1)
        for h, kernel in zip(groups, self.kernels(params), strict=True):
            products.append((yield h, kernel[-h.shape[-1] :]))
        return _by_gate(products)

    def candidate(self, params: Params, j: jax.Array) -> jax.Array:
        return jnp.tanh(j)


def _by_gate(groups: list[jax.Array]) -> jax.Array:
    """Reorders `[group][gate]` to `[gate][group]`: concatenates all groups of each gate."""
    gates = zip(*(jnp.split(x, 4, -1) for x in groups), strict=True)
    return jnp.concatenate([x for gate in gates for x in gate], -1)
