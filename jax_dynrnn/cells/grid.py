"""Grid LSTMs: in each step, one LSTM is recurrent in time and one in frequency."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from .._types import Inputs
from ._grid import GridLSTM


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class GridLSTMCell(GridLSTM):
    """A grid LSTM: over windows of the features, one LSTM in time and one in frequency.

    In each block of features, for window k = 0, 1, ..., and for L = time and L = frequency:

        i, j, f, o = split([x_k, m_time, m_freq] W_L + B_L)
        i_L  = sigmoid(i [+ w_if * c_freq + w_it * c_time])          # peepholes in brackets
        f_L  = sigmoid(f + forget_bias [+ w_ff * c_freq + w_ft * c_time]), or 1 - i_L
        c'_L = clip(f_L * c_L + i_L * tanh(j), -cell_clip, cell_clip)
        m'_L = sigmoid(o [+ w_of * c'_freq + w_ot * c'_time]) * tanh(c'_L)

    `c_time`, `m_time` are the state of this window after the previous step; `c_freq`, `m_freq` are
    that of the previous window in the same step, and 0 for the first window. With
    `couple_input_forget_gates`, `f_L = 1 - i_L`, and there is no `f`.

    Args:
        num_units: size `H` of each memory.
        feature_size: size `F` of a window.
        num_frequency_blocks: the number of windows in each block, as a list.
        frequency_skip: the stride between windows.
        start_freqindex_list, end_freqindex_list: the index of the feature at which each block
            starts, and that at which it ends; `None`: there is one block, of all features.
        use_peepholes: whether the gates of each unit receive both memories of that unit.
        share_time_frequency_weights: whether both LSTMs share one set of weights.
        couple_input_forget_gates: whether the forget gate is 1 minus the input gate.
        cell_clip: bound of `|c'|`, not negative.
        forget_bias: added to the forget gate at run time, not stored.
        kernel_initializer: of the kernels, and of the peepholes (which it receives as columns);
            `None` is Glorot's uniform, TF1's default.
        recurrent_initializer: of the rows of the kernels that multiply `m_time` and `m_freq`,
            gate by gate.
        bias_initializer: of the biases; `None` is zeros.

    Params: for block b, with G gates (4, or 3 coupled): `W_f_{b}_0`, `W_t_{b}_0`
    `[F + 2 H, G H]`, `B_f_{b}`, `B_t_{b}` `[G H]`, and with peepholes `W_I_diag_freqf_{b}`
    `[H]`, ... for I, F (not coupled) and O, `freq` and `time`, `f` and `t`. Shared weights are
    those of frequency.
    State: a named tuple with `state_f00_b00_c`, `state_f00_b00_m`, ... for window `f` of block
    `b`, each `[..., H]`; its type is the cell's `state_tuple_type`, which equal grids share.
    (Read that attribute once before a program from `jax.export` is loaded.) Output:
    `[..., 2 H S]` with S windows in total: `m'_time` and `m'_freq` of the first window, and so
    on; in the dtype of the inputs and params.

    Raises:
        TypeError, ValueError: a size is not a positive int, or a block, or the inputs, have
            another number of windows than `num_frequency_blocks` states.

    Differs from TF1: `frequency_skip` is 1 if not given; the initializers are used (TF1 ignores its
    `initializer`); there is no `state_is_tuple=False`.

    Reference: `tf.contrib.rnn.GridLSTMCell`; Kalchbrenner et al., arXiv:1507.01526; Sainath and
    Li, Modeling time-frequency patterns with LSTM vs. convolutional architectures for LVCSR
    tasks (2016).

    Example:
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> cell = rnn.GridLSTMCell(4, feature_size=2, num_frequency_blocks=[3])
        >>> params = cell.init(jax.random.key(0), (2, 5, 4))
        >>> outputs, state = rnn.dynamic_rnn(cell, params, jnp.ones((2, 5, 4)))
        >>> outputs.shape, state._fields[:3]
        ((2, 5, 24), ('state_f00_b00_c', 'state_f00_b00_m', 'state_f01_b00_c'))
        >>> bool((outputs[:, -1, :4] == state.state_f00_b00_m).all())
        True
    """

    directions: ClassVar[tuple[str, ...]] = ("",)
    state_name: ClassVar[str] = "GridLSTMStateTuple"


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class BidirectionalGridLSTMCell(GridLSTM):
    """Two grid LSTMs with separate weights, in ascending and in descending order of frequency.

    Both run forward in time, so that the cell can be used on streams. The second one visits
    the windows of each block from the last to the first.

    Args:
        num_units, feature_size, num_frequency_blocks, frequency_skip, start_freqindex_list,
            end_freqindex_list, use_peepholes, share_time_frequency_weights,
            couple_input_forget_gates, cell_clip, forget_bias, kernel_initializer,
            recurrent_initializer, bias_initializer: as in `GridLSTMCell`.
        backward_slice_offset: added to the start of each window of the second; features outside
            the inputs are 0.

    Params: those of two `GridLSTMCell`s, under `fwd` and `bwd`.
    State: a named tuple with `fwd_state_f00_b00_c`, ..., then `bwd_state_f00_b00_c`, ..., where
    `f` counts windows in the order in which they are visited. Output: `[..., 4 H S]`, that of the
    first and then that of the second.

    Raises:
        TypeError, ValueError: as in `GridLSTMCell`; or the offset is not an int.

    Differs from TF1: as `GridLSTMCell` does.

    Reference: `tf.contrib.rnn.BidirectionalGridLSTMCell`.

    Example: the inputs that each half of the output depends on, after two windows
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> cell = rnn.BidirectionalGridLSTMCell(1, feature_size=2, num_frequency_blocks=[3])
        >>> params = cell.init(jax.random.key(0), (2, 5, 4))
        >>> depends = jax.jacobian(lambda x: cell(params, x, cell.zero_state())[0])(jnp.ones(4))
        >>> (depends != 0).astype(int)[jnp.array([2, 8])].tolist()
        [[1, 1, 1, 0], [0, 1, 1, 1]]
    """

    _: dataclasses.KW_ONLY
    backward_slice_offset: int = 0

    directions: ClassVar[tuple[str, ...]] = ("fwd", "bwd")
    state_name: ClassVar[str] = "BidirectionalGridLSTMStateTuple"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not hasattr(self.backward_slice_offset, "__index__"):
            raise TypeError(
                "BidirectionalGridLSTMCell: expected backward_slice_offset to be an int, got "
                f"{self.backward_slice_offset!r}"
            )
        offset = self.backward_slice_offset.__index__()
        object.__setattr__(self, "backward_slice_offset", offset)

    def windows(self, inputs: jax.Array, direction: str) -> list[list[jax.Array]]:
        if direction == "bwd":
            inputs = _shifted(inputs, self.backward_slice_offset)
        blocks = super().windows(inputs, direction)
        return [block[::-1] for block in blocks] if direction == "bwd" else blocks


def _shifted(inputs: Inputs, offset: int) -> jax.Array:
    """Returns `inputs[..., k + offset]` at index k, or 0 where that is outside the inputs."""
    padding = (max(0, -offset), max(0, offset))
    padded = jnp.pad(inputs, [(0, 0)] * (inputs.ndim - 1) + [padding])
    start = max(0, offset)
    return padded[..., start : start + inputs.shape[-1]]
