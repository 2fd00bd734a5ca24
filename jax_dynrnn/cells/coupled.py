"""The LSTM with coupled input and forget gates."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from .._cell import Params
from .._init import Initializer
from .._types import DTypeLike, Key, Shapes
from ._lstm import check_lstm
from ._norm import LayerNormLSTM

TF1_NAMES = {"kernel": "W_0", "bias": "B", "w_f_diag": "W_F_diag", "w_o_diag": "W_O_diag"}
"""The params' names by those of `LSTMCell`, whose equations read the latter."""


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class CoupledInputForgetGateLSTMCell(LayerNormLSTM):
    """LSTM whose input gate is 1 minus its forget gate.

        j, f, o = split([x, h] W + b), or LN(split([x, h] W))   # three gates
        F  = sigmoid(f + forget_bias [+ w_f * c])               # peepholes in brackets
        c' = F * c + (1 - F) * act(j), or LN of it
        m  = sigmoid(o [+ w_o * c']) * act(c')
        h' = m, or clip(m P, -proj_clip, proj_clip)             # also the output

    Args:
        num_units: size `H` of the memory `c`.
        layer_norm: whether to normalise gates and memory, as `LayerNormLSTMCell` does.
        norm_gain, norm_shift: initial values of every `gamma` and `beta`.
        use_peepholes, num_proj, proj_clip, forget_bias, activation, kernel_initializer,
            recurrent_initializer, bias_initializer: as in `LSTMCell`.

    Params: `W_0` `[D + P, 3 H]`, `B` `[3 H]` (unused with `layer_norm`), `W_F_diag` and
    `W_O_diag` `[H]` with peepholes, `W_P_0` `[H, P]` with a projection, `{transform,
    forget, output, state}/{gamma, beta}` `[H]` with `layer_norm`.
    State: `LSTMStateTuple(c [..., H], h [..., P])`; output: `h'`; in the dtype of the
    inputs and params.

    Raises:
        TypeError, ValueError: a size is not a positive int, or `proj_clip` is negative.

    Differs from TF1: the kernel is not sharded: where a checkpoint has `W_0` to `W_3`, their
    concatenation along the rows is `W_0` here. TF1 ignores its `initializer`.

    Reference: `tf.contrib.rnn.CoupledInputForgetGateLSTMCell`; Greff et al.,
    arXiv:1503.04069.

    Example:
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> cell = rnn.CoupledInputForgetGateLSTMCell(4)
        >>> params = cell.init(jax.random.key(0), (2, 5, 3))
        >>> outputs, state = rnn.dynamic_rnn(cell, params, jnp.ones((2, 5, 3)))
        >>> bool((jnp.abs(state.c) < 1).all())              # a weighted mean of tanh values
        True
    """

    GATES = ("transform", "forget", "output")
    PEEPHOLES = ("w_f_diag", "w_o_diag")

    num_units: int
    _: dataclasses.KW_ONLY
    use_peepholes: bool = False
    num_proj: int | None = None
    proj_clip: float | None = None
    forget_bias: float = 1.0
    activation: Callable[..., Any] | None = None
    layer_norm: bool = False
    norm_gain: float = 1.0
    norm_shift: float = 0.0
    kernel_initializer: Initializer | None = None
    recurrent_initializer: Initializer | None = None
    bias_initializer: Initializer | None = None

    def __post_init__(self) -> None:
        check_lstm(self)

    def init(self, key: jax.Array, input_shape: Shapes, dtype: DTypeLike = jnp.float32) -> Params:
        params = super().init(key, input_shape, dtype)
        if self.num_proj is not None:
            params["W_P_0"] = params.pop("projection")["kernel"]
        return {TF1_NAMES.get(name, name): x for name, x in params.items()}

    def prepare(self, params: Params, *, key: Key = None, batch_shape: tuple[Any, ...]) -> Params:
        """Renames the params to those of `LSTMCell`, which the shared equations read."""
        del key, batch_shape
        renamed = {name: params[tf1] for name, tf1 in TF1_NAMES.items() if tf1 in params}
        projection = {"kernel": params.get("W_P_0")}
        return {**params, **renamed, "projection": projection}

    def memory(self, params: Params, gates: list[jax.Array], c: jax.Array) -> jax.Array:
        j, f = gates
        f = jax.nn.sigmoid(self.peep(params, "w_f_diag", f, c) + self.forget_bias)
        return f * c + (1 - f) * self.candidate(params, j)
