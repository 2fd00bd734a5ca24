"""TF1's two LSTMs with layer normalisation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from .._cell import Params, State
from .._init import Initializer, glorot_uniform, init_vector
from .._tools import check_probability
from .._types import DTypeLike, Key, Projected, Shapes
from ._lstm import check_lstm
from ._norm import LayerNormLSTM


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class LayerNormLSTMCell(LayerNormLSTM):
    """`LSTMCell` with layer normalisation of its gates and its memory.

        i, j, f, o = LN(split([x, h] W))                    # of each gate; no bias
        c' = LN(sigmoid(f + forget_bias [+ w_f * c]) * c + sigmoid(i [+ w_i * c]) * act(j))
        c' = clip(c', -cell_clip, cell_clip)                # the state holds this, normalised
        m  = sigmoid(o [+ w_o * c']) * act(c')
        h' = m, or clip(m P, -proj_clip, proj_clip)         # also the output
        LN(x) = gamma * (x - mean(x)) / sqrt(variance(x) + 1e-12) + beta

    Args:
        num_units: size `H` of the memory `c`.
        layer_norm: `False`, TF1's default, is `LSTMCell`.
        norm_gain, norm_shift: initial values of every `gamma` and `beta`.
        use_peepholes, cell_clip, num_proj, proj_clip, forget_bias, activation,
            kernel_initializer, recurrent_initializer, bias_initializer: as in `LSTMCell`.

    Params: those of `LSTMCell`, and with `layer_norm` `{input, transform, forget, output,
    state}/{gamma, beta}` `[H]`. As in TF1, `bias` exists with `layer_norm` too, but is unused.
    State: `LSTMStateTuple(c [..., H], h [..., P])`; output: `h'`; in the dtype of the
    inputs and params. In float16 TF1's epsilon is 1e-3.

    Raises:
        TypeError, ValueError: a size is not a positive int, or a clip is negative.

    Reference: `LayerNormLSTMCell` in `tensorflow/contrib/rnn`; Ba et al., arXiv:1607.06450.

    Example:
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> cell = rnn.LayerNormLSTMCell(4, layer_norm=True)
        >>> inputs = jax.random.normal(jax.random.key(1), (2, 5, 3))
        >>> params = cell.init(jax.random.key(0), inputs.shape)
        >>> _, state = rnn.dynamic_rnn(cell, params, inputs)
        >>> bool(jnp.allclose(state.c.mean(-1), 0, atol=1e-6))
        True
    """

    num_units: int
    _: dataclasses.KW_ONLY
    use_peepholes: bool = False
    cell_clip: float | None = None
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


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class LayerNormBasicLSTMCell(LayerNormLSTM):
    """A basic LSTM with layer normalisation, and dropout of the candidate.

        i, j, f, o = LN(split([x, h] W))                    # of each gate; no bias
        c' = LN(sigmoid(f + forget_bias) * c + sigmoid(i) * drop(act(j)))
        h' = act(c') * sigmoid(o)                           # also the output
        LN(x) = gamma * (x - mean(x)) / sqrt(variance(x) + 1e-12) + beta

    Dropout draws a mask at each step from the `key` of the run; without one (evaluation)
    it is the identity.

    Args:
        num_units: size `H` of the memory and of the output.
        forget_bias: added to the forget gate.
        activation: `None` is tanh.
        layer_norm: `False`: `LN(x) = x`, and there is a bias.
        norm_gain, norm_shift: initial values of every `gamma` and `beta`.
        dropout_keep_prob: probability in (0, 1] of keeping a candidate.
        kernel_initializer: of `kernel`; `None` is Glorot's uniform, TF1's default.
        recurrent_initializer: of the rows of `kernel` that multiply `h`, gate by gate.
        bias_initializer: of `bias`; `None` is Glorot's uniform here, as in TF1.

    Params: `kernel` `[D + H, 4 H]`; with `layer_norm` `{input, transform, forget, output,
    state}/{gamma, beta}` `[H]`, without it `bias` `[4 H]`.
    State: `LSTMStateTuple(c [..., H], h [..., H])`; output: `h'`; in the dtype of the
    inputs and params. In float16 TF1's epsilon is 1e-3.

    Raises:
        TypeError, ValueError: `num_units` is not a positive int, or `dropout_keep_prob`
            is not a float in (0, 1].

    Differs from TF1: there is no `dropout_prob_seed` (randomness comes from the `key`).

    Reference: `tf.contrib.rnn.LayerNormBasicLSTMCell`; Ba et al., arXiv:1607.06450;
    Semeniuta et al., arXiv:1603.05118.

    Example:
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> cell = rnn.LayerNormBasicLSTMCell(4)
        >>> inputs = jax.random.normal(jax.random.key(1), (2, 5, 3))
        >>> params = cell.init(jax.random.key(0), inputs.shape)
        >>> _, state = rnn.dynamic_rnn(cell, params, inputs)
        >>> bool(jnp.allclose(state.c.std(-1), 1, atol=1e-5))
        True
    """

    num_units: int
    _: dataclasses.KW_ONLY
    forget_bias: float = 1.0
    activation: Callable[..., Any] | None = None
    layer_norm: bool = True
    norm_gain: float = 1.0
    norm_shift: float = 0.0
    dropout_keep_prob: float = 1.0
    kernel_initializer: Initializer | None = None
    recurrent_initializer: Initializer | None = None
    bias_initializer: Initializer | None = None

    def __post_init__(self) -> None:
        check_probability(self, "dropout_keep_prob")
        check_lstm(self)

    def init(self, key: jax.Array, input_shape: Shapes, dtype: DTypeLike = jnp.float32) -> Params:
        params = super().init(key, input_shape, dtype)
        # Unlike LayerNormLSTMCell, TF1's cell has a bias only without normalisation, and
        # initialises it as its kernel.
        del params["bias"]
        if self.layer_norm:
            return params
        key = jax.random.fold_in(key, 0)
        bias = init_vector(self.bias_initializer, glorot_uniform, key, 4 * self.num_units, dtype)
        return params | {"bias": bias}

    def step(
        self, params: Params, projected: Projected, state: State, *, key: Key = None
    ) -> tuple[Any, State]:
        if key is not None and self.dropout_keep_prob < 1:
            mask = jax.random.bernoulli(key, self.dropout_keep_prob, state.c.shape)
            # `candidate` receives no key, and must also work in `stages` of a run without one.
            params = {**params, "mask": mask}
        return super().step(params, projected, state)

    def candidate(self, params: Params, j: jax.Array) -> jax.Array:
        candidate = super().candidate(params, j)
        if "mask" not in params:
            return candidate
        return jnp.where(params["mask"], candidate / self.dropout_keep_prob, 0)
