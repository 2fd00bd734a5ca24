"""LSTMs: TF1's cell with every option, its basic cell, and its fused cell."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from .._cell import MatmulCell
from .._init import Initializer
from ._lstm import LSTM, check_lstm


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class LSTMCell(LSTM, MatmulCell):
    """LSTM with optional peepholes, clipping and a projected output.

        i, j, f, o = split([x, h] W + b)
        c' = sigmoid(f + forget_bias [+ w_f * c]) * c + sigmoid(i [+ w_i * c]) * act(j)
        c' = clip(c', -cell_clip, cell_clip)                # where cell_clip is given
        m  = sigmoid(o [+ w_o * c']) * act(c')              # peepholes in brackets
        h' = m, or clip(m P, -proj_clip, proj_clip)         # also the output

    `forget_bias` is added at run time and not stored, as in TF1.

    Args:
        num_units: size `H` of the memory `c`.
        use_peepholes: whether the gates of each unit receive the memory `c` of that unit.
        cell_clip: bound of `|c'|`, not negative; 0 clips to 0, as in TF1.
        num_proj: size `P` of the projected output; `None`: no projection, `P = H`.
        proj_clip: bound of the projected output.
        forget_bias: added to the forget gate.
        activation: of the candidate and of the output; `None` is tanh.
        recurrent_activation: of the gates; `None` is sigmoid.
        kernel_initializer: of `kernel`, the projection, and the peepholes (which it receives
            as columns); `None` is Glorot's uniform, TF1's default.
        recurrent_initializer: of the rows of `kernel` that multiply `h`, gate by gate.
        bias_initializer: of `bias`; `None` is zeros.

    Params: `kernel` `[D + P, 4 H]`, `bias` `[4 H]`, `w_f_diag`, `w_i_diag`, `w_o_diag`
    `[H]` with peepholes, `projection/kernel` `[H, P]` with a projection.
    State: `LSTMStateTuple(c [..., H], h [..., P])`; output: `h'`; in the dtype of the
    inputs and params.

    Raises:
        TypeError, ValueError: a size is not a positive int, or a clip is negative.

    Differs from TF1: `initializer` is `kernel_initializer`; `proj_clip` without
    `num_proj` is an error instead of being ignored.

    Reference: `tf.nn.rnn_cell.LSTMCell`; Sak et al., arXiv:1402.1128.

    Example:
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> cell = rnn.LSTMCell(8, num_proj=4)
        >>> params = cell.init(jax.random.key(0), (2, 5, 3))
        >>> outputs, state = rnn.dynamic_rnn(cell, params, jnp.ones((2, 5, 3)))
        >>> outputs.shape, state.c.shape, state.h.shape
        ((2, 5, 4), (2, 8), (2, 4))
    """

    num_units: int
    _: dataclasses.KW_ONLY
    use_peepholes: bool = False
    cell_clip: float | None = None
    num_proj: int | None = None
    proj_clip: float | None = None
    forget_bias: float = 1.0
    activation: Callable[..., Any] | None = None
    recurrent_activation: Callable[..., Any] | None = None
    kernel_initializer: Initializer | None = None
    recurrent_initializer: Initializer | None = None
    bias_initializer: Initializer | None = None

    def __post_init__(self) -> None:
        check_lstm(self)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class BasicLSTMCell(LSTM, MatmulCell):
    """LSTM without options: `LSTMCell` with its defaults.

    Its params and those of `LSTMCell(num_units)` are interchangeable.

    Args:
        num_units: size `H` of the memory and of the output.
        forget_bias: added to the forget gate at run time, not stored.
        activation: of the candidate and of the output; `None` is tanh.
        recurrent_activation: of the gates; `None` is sigmoid.
        kernel_initializer: of `kernel`; `None` is Glorot's uniform, TF1's default.
        recurrent_initializer: of the rows of `kernel` that multiply `h`, gate by gate.
        bias_initializer: of `bias`; `None` is zeros.

    Params: `kernel` `[D + H, 4 H]`, `bias` `[4 H]`, gates in the order i, j, f, o.
    State: `LSTMStateTuple(c [..., H], h [..., H])`; output: `h`; in the dtype of the
    inputs and params.

    Raises:
        TypeError, ValueError: `num_units` is not a positive int.

    Reference: `tf.nn.rnn_cell.BasicLSTMCell`; Zaremba et al., arXiv:1409.2329.

    Example:
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> cell = rnn.BasicLSTMCell(4)
        >>> params = cell.init(jax.random.key(0), (2, 5, 3))
        >>> outputs, state = rnn.dynamic_rnn(cell, params, jnp.ones((2, 5, 3)))
        >>> bool(jnp.allclose(outputs[:, -1], state.h))
        True
    """

    num_units: int
    _: dataclasses.KW_ONLY
    forget_bias: float = 1.0
    activation: Callable[..., Any] | None = None
    recurrent_activation: Callable[..., Any] | None = None
    kernel_initializer: Initializer | None = None
    recurrent_initializer: Initializer | None = None
    bias_initializer: Initializer | None = None

    def __post_init__(self) -> None:
        check_lstm(self)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class LSTMBlockCell(LSTM, MatmulCell):
    """TF1's fused LSTM: `LSTMCell` under other option names.

    Its params and those of `LSTMCell(num_units, use_peepholes=use_peephole)` are
    interchangeable. It is not faster here: XLA fuses the operations of every cell.

    Args:
        num_units: size `H` of the memory and of the output.
        forget_bias: added to the forget gate at run time, not stored.
        cell_clip: bound of the memory; `None`, or 0 and less: no clip, unlike `LSTMCell`.
        use_peephole: whether the gates of each unit receive the memory `c` of that unit.
        kernel_initializer: of `kernel` and the peepholes; `None` is Glorot's uniform.
        recurrent_initializer: of the rows of `kernel` that multiply `h`, gate by gate.
        bias_initializer: of `bias`; `None` is zeros.

    Params: those of `LSTMCell`.
    State: `LSTMStateTuple(c [..., H], h [..., H])`; output: `h`; in the dtype of the
    inputs and params.

    Raises:
        TypeError, ValueError: `num_units` is not a positive int.

    Differs from TF1: no gradient passes through a clipped memory, as in `LSTMCell`; the gradient
    of TF1's kernel ignores the clip.

    Reference: `tf.contrib.rnn.LSTMBlockCell`; Zaremba et al., arXiv:1409.2329.

    Example:
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> cell = rnn.LSTMCell(4, use_peepholes=True)
        >>> block = rnn.LSTMBlockCell(4, use_peephole=True)
        >>> inputs = jnp.ones((2, 5, 3))
        >>> params = cell.init(jax.random.key(0), inputs.shape)
        >>> outputs, _ = rnn.dynamic_rnn(block, params, inputs)
        >>> bool((outputs == rnn.dynamic_rnn(cell, params, inputs)[0]).all())
        True
    """

    num_units: int
    _: dataclasses.KW_ONLY
    forget_bias: float = 1.0
    cell_clip: float | None = None
    use_peephole: bool = False
    kernel_initializer: Initializer | None = None
    recurrent_initializer: Initializer | None = None
    bias_initializer: Initializer | None = None

    def __post_init__(self) -> None:
        # As in TF1's kernel, 0 and less mean no clip. check_lstm refuses what is not a number.
        if hasattr(self.cell_clip, "__float__") and float(self.cell_clip) <= 0:  # pyright: ignore
            object.__setattr__(self, "cell_clip", None)
        check_lstm(self)

    @property
    def use_peepholes(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.use_peephole
