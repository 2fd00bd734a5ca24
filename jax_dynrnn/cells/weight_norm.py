"""The LSTM with weight normalisation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from .._cell import MatmulCell, Params
from .._init import Initializer, glorot_uniform, init_vector
from .._tools import along_last, widened
from .._types import DTypeLike, Key, Shapes
from ._lstm import LSTM, check_lstm


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class WeightNormLSTMCell(LSTM, MatmulCell):
    """`LSTMCell` with weight normalisation: the columns of its kernels have learned lengths.

        W = concat([g_0 * W_x / |W_x|, g_1 * W_h / |W_h|])  # | | of each column
        P = g_P * P / |P|

    and then the equations of `LSTMCell`. The kernels are normalised once per run, not per step.

    Args:
        num_units: size `H` of the memory `c`.
        norm: `False` is `LSTMCell`.
        use_peepholes, cell_clip, num_proj, proj_clip, forget_bias, activation,
            recurrent_initializer, bias_initializer: as in `LSTMCell`.
        kernel_initializer: of `kernel`, the projection, the peepholes and the lengths
            (it receives vectors as columns); `None` is Glorot's uniform, TF1's default.

    Params: those of `LSTMCell`; with `norm` the lengths `norm_0` (of the rows of `kernel`
    that multiply the inputs) and `norm_1` (the hidden state) `[4 H]`, and with a
    projection `projection/norm_0` `[P]`.
    State: `LSTMStateTuple(c [..., H], h [..., P])`; output: `h`; in the dtype of the
    inputs and params.

    Raises:
        TypeError, ValueError: a size is not a positive int, or a clip is negative.

    Reference: `WeightNormLSTMCell` in `tensorflow/contrib/rnn`; Salimans and Kingma,
    arXiv:1602.07868.

    Example: scaling the kernel changes nothing
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> cell = rnn.WeightNormLSTMCell(4)
        >>> params = cell.init(jax.random.key(0), (2, 5, 3))
        >>> _, state = rnn.dynamic_rnn(cell, params, jnp.ones((2, 5, 3)))
        >>> doubled = params | {"kernel": 2 * params["kernel"]}
        >>> _, same = rnn.dynamic_rnn(cell, doubled, jnp.ones((2, 5, 3)))
        >>> bool(jnp.allclose(state.h, same.h, atol=1e-6))
        True
    """

    num_units: int
    _: dataclasses.KW_ONLY
    norm: bool = True
    use_peepholes: bool = False
    cell_clip: float | None = None
    num_proj: int | None = None
    proj_clip: float | None = None
    forget_bias: float = 1.0
    activation: Callable[..., Any] | None = None
    kernel_initializer: Initializer | None = None
    recurrent_initializer: Initializer | None = None
    bias_initializer: Initializer | None = None

    def __post_init__(self) -> None:
        check_lstm(self)

    def init(self, key: jax.Array, input_shape: Shapes, dtype: DTypeLike = jnp.float32) -> Params:
        params = super().init(key, input_shape, dtype)
        if not self.norm:
            return params
        keys = jax.random.split(jax.random.fold_in(key, 0), 3)

        def length(key, size):
            return init_vector(self.kernel_initializer, glorot_uniform, key, size, dtype)

        if self.num_proj is not None:
            params["projection"]["norm_0"] = length(keys[2], self.num_proj)
        gates = 4 * self.num_units
        return params | {"norm_0": length(keys[0], gates), "norm_1": length(keys[1], gates)}

    def prepare(self, params: Params, *, key: Key = None, batch_shape: tuple[Any, ...]) -> Params:
        del key, batch_shape
        if not self.norm:
            return params
        rows = jnp.split(params["kernel"], [params["kernel"].shape[0] - self.hidden_size])
        lengths = params["norm_0"], params["norm_1"]
        # The rows of the inputs and those of the hidden state are normalised separately.
        kernel = jnp.concatenate([_normalize(*x) for x in zip(rows, lengths, strict=True)])
        projection = params.get("projection")
        if projection is not None:
            projection = {"kernel": _normalize(projection["kernel"], projection["norm_0"])}
        return {**params, "kernel": kernel, "projection": projection}


def _normalize(kernel: jax.Array, length: jax.Array) -> jax.Array:
    """Scales each column of a kernel to the given length."""
    wide = widened(kernel)
    # TensorFlow's l2_normalize has this epsilon too; it avoids a division by 0.
    squared = jnp.maximum((wide * wide).sum(0, keepdims=True), 1e-12)
    return (wide * jax.lax.rsqrt(squared)).astype(kernel.dtype) * along_last(length, kernel)
