"""The LSTM that is recurrent in time and, within each step, in frequency."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from .._cell import LSTMStateTuple, Params, Stages
from .._init import Initializer
from .._tools import batch_tuple, check_size, input_size
from .._types import BatchShape, DTypeLike, Key, Projected, Shapes, State
from ._lstm import LSTM, check_lstm

TF1_NAMES = {
    "kernel": "W_0",
    "bias": "B",
    "w_f_diag": "W_F_diag",
    "w_i_diag": "W_I_diag",
    "w_o_diag": "W_O_diag",
}
"""The params' names by those of `LSTMCell`, whose equations read the latter."""


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class TimeFreqLSTMCell(LSTM):
    """An LSTM that, in each step, also visits windows of the features in order, with one kernel.

        i, j, f, o = split([x_k, m_k, m'_(k-1)] W + b)      # for window k = 0, 1, ...
        c'_k = sigmoid(f + forget_bias [+ w_f * c_k]) * c_k + sigmoid(i [+ w_i * c_k]) * tanh(j)
        c'_k = clip(c'_k, -cell_clip, cell_clip)            # where cell_clip is given
        m'_k = sigmoid(o [+ w_o * c'_k]) * tanh(c'_k)       # peepholes in brackets

    Window k is `x_k = x[k * frequency_skip : k * frequency_skip + feature_size]`. There are
    `S = (input_size - feature_size) // frequency_skip + 1` windows, and `m'_(-1)` is 0.

    Args:
        num_units: size `H` of the memory of each window.
        input_size: the number of features `D` of the inputs, on which the size of the state
            depends.
        feature_size: size `F` of a window.
        frequency_skip: the stride between windows.
        use_peepholes: whether the gates of each unit receive the memory `c` of that unit.
        cell_clip: bound of `|c'|`, not negative.
        forget_bias: added to the forget gate at run time, not stored.
        kernel_initializer: of `W_0`, and of the peepholes (which it receives as columns); `None`
            is Glorot's uniform, TF1's default.
        recurrent_initializer: of the rows of `W_0` that multiply both `m`, gate by gate.
        bias_initializer: of `B`; `None` is zeros.

    Params: `W_0` `[F + 2 H, 4 H]`, `B` `[4 H]`, and `W_F_diag`, `W_I_diag`, `W_O_diag` `[H]`
    with peepholes.
    State: `[..., 2 H S]`, the concatenation of `c_0, m_0, c_1, m_1, ...`. Output:
    `[..., H S]`, that of `m'_0, m'_1, ...`; in the dtype of the inputs and params.

    Raises:
        TypeError, ValueError: a size is not a positive int, a window is larger than the
            inputs, or the inputs do not have `input_size` features.

    Differs from TF1: TF1's cell has no `input_size`, and states the size of its state as `2 H`,
    so that `dynamic_rnn` could not run it without an initial state. The initializers are used; TF1
    ignores its `initializer`.

    Reference: `tf.contrib.rnn.TimeFreqLSTMCell`; Sainath and Li, Modeling time-frequency
    patterns with LSTM vs. convolutional architectures for LVCSR tasks (2016).

    Example: the output of a window depends on the features of that window and all before it
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> cell = rnn.TimeFreqLSTMCell(1, input_size=5, feature_size=2)
        >>> params = cell.init(jax.random.key(0), (2, 1, 5))
        >>> x = jnp.ones((5,))
        >>> depends = jax.jacobian(lambda x: cell(params, x, cell.zero_state())[0])(x)
        >>> (depends != 0).astype(int).tolist()
        [[1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    """

    num_units: int
    _: dataclasses.KW_ONLY
    input_size: int
    feature_size: int
    frequency_skip: int = 1
    use_peepholes: bool = False
    cell_clip: float | None = None
    forget_bias: float = 1.0
    kernel_initializer: Initializer | None = None
    recurrent_initializer: Initializer | None = None
    bias_initializer: Initializer | None = None

    def __post_init__(self) -> None:
        check_lstm(self)
        for name in ("input_size", "feature_size", "frequency_skip"):
            check_size(self, name)
        if self.feature_size > self.input_size:
            raise ValueError(
                "TimeFreqLSTMCell: expected feature_size, the size of a window, to be at most "
                f"input_size={self.input_size}, got {self.feature_size}"
            )

    @property
    def num_shifts(self) -> int:
        """The number of windows `S`."""
        return (self.input_size - self.feature_size) // self.frequency_skip + 1

    @property
    def hidden_size(self) -> int:
        """The size of `[m_k, m'_(k-1)]`, which the kernel multiplies besides the inputs."""
        return 2 * self.num_units

    def init(self, key: jax.Array, input_shape: Shapes, dtype: DTypeLike = jnp.float32) -> Params:
        self._check_inputs(input_size(self, input_shape))
        params = super().init(key, (self.feature_size,), dtype)
        return {TF1_NAMES[name]: x for name, x in params.items()}

    def _check_inputs(self, size: int) -> None:
        if size != self.input_size:
            raise ValueError(f"{self!r}: expected inputs of input_size features, got {size}")

    def zero_state(self, batch_shape: BatchShape = (), dtype: DTypeLike = jnp.float32) -> Any:
        size = 2 * self.num_units * self.num_shifts
        return jnp.zeros((*batch_tuple(batch_shape), size), dtype)

    def prepare(self, params: Params, *, key: Key = None, batch_shape: tuple[Any, ...]) -> Params:
        """Renames the params to those of `LSTMCell`, which the shared equations read."""
        del key, batch_shape
        return {name: params[tf1] for name, tf1 in TF1_NAMES.items() if tf1 in params}

    def project(self, params: Params, inputs: jax.Array) -> Any:
        self._check_inputs(inputs.shape[-1])
        starts = [k * self.frequency_skip for k in range(self.num_shifts)]
        windows = [inputs[..., start : start + self.feature_size] for start in starts]
        # Before Python 3.12, super() without arguments fails in a comprehension.
        return [super(TimeFreqLSTMCell, self).project(params, x) for x in windows]

    def recurrent_input(self, state: jax.Array) -> jax.Array:
        """Concatenates the `m` of all windows."""
        return jnp.concatenate(jnp.split(state, 2 * self.num_shifts, -1)[1::2], -1)

    def stages(self, params: Params, projected: Projected, state: State) -> Stages:
        memories = jnp.split(state, 2 * self.num_shifts, -1)[::2]
        # Not taken from `state`: recurrent dropout replaces recurrent_input.
        hidden = jnp.split(self.recurrent_input(state), self.num_shifts, -1)
        previous, new = jnp.zeros_like(memories[0]), []
        for x, c, m in zip(projected, memories, hidden, strict=True):
            recurred = yield jnp.concatenate([m, previous], -1), self.recurrent_kernel(params)
            previous, (c, m) = self.pointwise(params, x, recurred, LSTMStateTuple(c, m))
            new += [c, m]
        return jnp.concatenate(new[1::2], -1), jnp.concatenate(new, -1)
