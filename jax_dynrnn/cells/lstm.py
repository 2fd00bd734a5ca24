"""Long short-term memory: TF1's basic cell, and the one with every option."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from .._cell import LSTMStateTuple, MatmulCell, Params, Stages
from .._init import Initializer, glorot_uniform, init_kernel, init_vector, zeros
from .._tools import along_last, batch_tuple, check_size, check_units, input_size, matmul


class _LSTM(MatmulCell):
    """The equations; a subclass says which options its users have."""

    num_units: int
    use_peepholes: bool = False
    cell_clip: float | None = None
    num_proj: int | None = None
    proj_clip: float | None = None
    forget_bias: float = 1.0
    activation: Callable | None = None
    kernel_initializer: Initializer | None = None
    recurrent_initializer: Initializer | None = None
    bias_initializer: Initializer | None = None

    def init(self, key: jax.Array, input_shape: Any, dtype: Any = jnp.float32) -> Params:
        units, kernel_initializer = self.num_units, self.kernel_initializer
        keys = jax.random.split(key, 6)
        rows = (input_size(self, input_shape), self._hidden_size)
        params: Params = {
            "kernel": init_kernel(keys[0], rows, 4, self, dtype),
            "bias": init_vector(self.bias_initializer, zeros, keys[1], 4 * units, dtype),
        }
        if self.use_peepholes:
            for name, k in zip(("w_f_diag", "w_i_diag", "w_o_diag"), keys[2:], strict=False):
                params[name] = init_vector(kernel_initializer, glorot_uniform, k, units, dtype)
        if self.num_proj is not None:
            initialize = kernel_initializer or glorot_uniform
            params["projection"] = {"kernel": initialize(keys[5], (units, self.num_proj), dtype)}
        return params

    def zero_state(self, batch_shape: Any = (), dtype: Any = jnp.float32) -> LSTMStateTuple:
        batch = batch_tuple(batch_shape)
        return LSTMStateTuple(
            c=jnp.zeros((*batch, self.num_units), dtype),
            h=jnp.zeros((*batch, self._hidden_size), dtype),
        )

    def project(self, params: Params, inputs: jax.Array) -> jax.Array:
        projected = matmul(inputs, params["kernel"][: -self._hidden_size])
        return projected + along_last(params["bias"], projected)

    def hidden(self, state: LSTMStateTuple) -> jax.Array:
        return state.h

    def recurrent_kernel(self, params: Params) -> jax.Array:
        return params["kernel"][-self._hidden_size :]

    def pointwise(
        self, params: Params, projected: jax.Array, recurred: jax.Array, state: LSTMStateTuple
    ) -> tuple[jax.Array, LSTMStateTuple]:
        activation = self.activation or jnp.tanh
        i, j, f, o = jnp.split(projected + recurred, 4, -1)
        c = state.c
        if self.use_peepholes:
            f = f + along_last(params["w_f_diag"], c) * c
            i = i + along_last(params["w_i_diag"], c) * c
        c = jax.nn.sigmoid(f + self.forget_bias) * c + jax.nn.sigmoid(i) * activation(j)
        c = _clip(c, self.cell_clip)
        if self.use_peepholes:
            o = o + along_last(params["w_o_diag"], c) * c
        m = jax.nn.sigmoid(o) * activation(c)
        return m, LSTMStateTuple(c, m)

    def stages(self, params: Params, projected: jax.Array, state: LSTMStateTuple) -> Stages:
        output, state = yield from super().stages(params, projected, state)
        if self.num_proj is None:
            return output, state
        h = yield output, params["projection"]["kernel"]
        h = _clip(h, self.proj_clip)
        return h, LSTMStateTuple(state.c, h)

    @property
    def _hidden_size(self) -> int:
        return self.num_units if self.num_proj is None else self.num_proj


def _clip(x: jax.Array, bound: float | None) -> jax.Array:
    """Clips to ±bound; at the bound itself the gradient passes, as in TensorFlow."""
    if bound is None:
        return x
    return jnp.where(x < -bound, -bound, jnp.where(x > bound, bound, x))


def _check_config(cell: _LSTM) -> None:
    check_units(cell)
    object.__setattr__(cell, "forget_bias", float(cell.forget_bias))


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class LSTMCell(_LSTM):
    """Long short-term memory with peepholes, clipping and a projected output.

        i, j, f, o = split([x, h] W + b)
        c' = sigmoid(f + forget_bias [+ w_f * c]) * c + sigmoid(i [+ w_i * c]) * act(j)
        c' = clip(c', -cell_clip, cell_clip)                # where cell_clip is given
        m  = sigmoid(o [+ w_o * c']) * act(c')              # peepholes in brackets
        h' = m, or clip(m P, -proj_clip, proj_clip)         # also the output

    `forget_bias` is added at run time and not stored, as in TF1.

    Args:
        num_units: size `H` of the memory `c`.
        use_peepholes: whether the gates see `c`, each unit its own.
        cell_clip: bound of `|c'|`, not negative; 0 clips to 0, as in TF1.
        num_proj: size `P` of the projected output; `None`: no projection, `P = H`.
        proj_clip: bound of the projected output.
        forget_bias: added to the forget gate.
        activation: `None` is tanh.
        kernel_initializer: of `kernel`, the projection, and the peepholes (which it sees
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
    activation: Callable | None = None
    kernel_initializer: Initializer | None = None
    recurrent_initializer: Initializer | None = None
    bias_initializer: Initializer | None = None

    def __post_init__(self):
        _check_config(self)
        if self.num_proj is not None:
            check_size(self, "num_proj")
        elif self.proj_clip is not None:
            raise ValueError(
                f"LSTMCell: proj_clip={self.proj_clip!r} needs a projection: expected "
                "num_proj with it, got num_proj=None; use cell_clip to bound the memory"
            )
        for name in ("cell_clip", "proj_clip"):
            clip = getattr(self, name)
            if clip is None:
                continue
            if not hasattr(clip, "__float__"):
                raise TypeError(f"LSTMCell: expected {name} to be a float or None, got {clip!r}")
            if not float(clip) >= 0:
                raise ValueError(f"LSTMCell: expected {name} >= 0 or None, got {clip!r}")
            object.__setattr__(self, name, float(clip))


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class BasicLSTMCell(_LSTM):
    """Long short-term memory without options: `LSTMCell` with its defaults.

    Its params and those of `LSTMCell(num_units)` are interchangeable.

    Args:
        num_units: size `H` of the memory and of the output.
        forget_bias: added to the forget gate at run time, not stored.
        activation: `None` is tanh.
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
    activation: Callable | None = None
    kernel_initializer: Initializer | None = None
    recurrent_initializer: Initializer | None = None
    bias_initializer: Initializer | None = None

    def __post_init__(self):
        _check_config(self)
