"""The phased LSTM, for events in continuous time."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from .._cell import LSTMStateTuple, Params, StagedCell, Stages
from .._init import Initializer, init_kernel, init_vector, zeros
from .._tools import (
    along_last,
    batch_tuple,
    check_probability,
    check_units,
    input_size,
    is_shape,
    matmul,
    widened,
)
from .._types import BatchShape, DTypeLike, Inputs, Key, Projected, Shapes

GATES_PER_LAYER = {"mask_gates": 2, "new_input": 1, "output_gate": 1}
"""The number of gates in each of TF1's three layers."""


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class PhasedLSTMCell(StagedCell):
    """LSTM in which each unit updates its state periodically, with a period of its own.

    Inputs are pairs `(time, x)`. In each period a unit opens, closes, and then only leaks:

        phi  = ((time - phase) mod period) / period
        k    = 2 phi / ratio_on                             # where phi < ratio_on / 2
               2 - 2 phi / ratio_on                         # else where phi < ratio_on
               leak * phi                                   # else
        i, f = split(sigmoid([x, h (, c)] W_mask_gates + b))         # c with peepholes
        c~   = f * c + i * tanh([x, h] W_new_input + b)
        h~   = sigmoid([x, h (, c~)] W_output_gate + b) * tanh(c~)
        c'   = k * c~ + (1 - k) * c
        h'   = k * h~ + (1 - k) * h                         # also the output

    `phi` is computed in the dtype of `time`, and in float32 if that has 16 bits or is an
    integer. As in TF1, the gradient of `mod` is that of `time - phase`: the gradient of `period`
    ignores the number of periods that have passed.

    Args:
        num_units: size `H` of the memory and of the output.
        use_peepholes: whether the gates receive the memory, through a full matrix.
        leak: the openness of a closed unit is `leak * phi`.
        ratio_on: initial fraction of the period during which a unit is open, in (0, 1].
        trainable_ratio_on: whether `ratio_on` has a gradient.
        period_init_min, period_init_max: the initial periods are drawn between these values,
            log-uniformly; in the unit of `time`.
        kernel_initializer: of all kernels; `None` is Glorot's uniform, TF1's default.
        recurrent_initializer: of their rows that multiply `h` and `c`, gate by gate.
        bias_initializer: of all biases; `None` is zeros.

    Params: `mask_gates/{kernel [D + H, 2 H], bias}`, `new_input/{kernel [D + H, H], bias}`,
    `output_gate/{kernel [D + H, H], bias}`, with peepholes `[D + 2 H, ...]` in the first and
    the last; `period`, `phase`, `ratio_on` `[H]`.
    Inputs: `(time [..., 1], x [..., D])`. State: `LSTMStateTuple(c, h)`, both `[..., H]`;
    output: `h'`; in the dtype of `x` and the params.

    Raises:
        TypeError, ValueError: `num_units` is not a positive int, `ratio_on` not in (0, 1],
            `leak` not in [0, 1], or the periods are not positive and in order.

    `dynamic_rnn` casts all floating inputs, times included, to one dtype. If times need more
    precision, pass integers, which are not cast, or subtract the time of the first event.

    Reference: `tf.contrib.rnn.PhasedLSTMCell`; Neil et al., arXiv:1610.09513.

    Example: the state of a closed unit does not change if `leak` is 0
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> cell = rnn.PhasedLSTMCell(2, leak=0.0, ratio_on=0.1)
        >>> params = cell.init(jax.random.key(0), ((2, 5, 1), (2, 5, 3)))
        >>> params |= {"period": jnp.array([10.0, 100.0]), "phase": jnp.zeros(2)}
        >>> time = jnp.broadcast_to(jnp.arange(3, 8)[:, None], (2, 5, 1))
        >>> outputs, _ = rnn.dynamic_rnn(cell, params, (time, jnp.ones((2, 5, 3))))
        >>> (outputs[0] != 0).tolist()[0], (outputs[0] != 0).tolist()[-1]
        ([False, True], [False, True])
    """

    num_units: int
    _: dataclasses.KW_ONLY
    use_peepholes: bool = False
    leak: float = 0.001
    ratio_on: float = 0.1
    trainable_ratio_on: bool = True
    period_init_min: float = 1.0
    period_init_max: float = 1000.0
    kernel_initializer: Initializer | None = None
    recurrent_initializer: Initializer | None = None
    bias_initializer: Initializer | None = None

    def __post_init__(self) -> None:
        check_units(self)
        check_probability(self, "ratio_on")
        if not 0 <= self.leak <= 1:
            raise ValueError(f"PhasedLSTMCell: expected leak in [0, 1], got {self.leak}")
        if not 0 < self.period_init_min <= self.period_init_max:
            raise ValueError(
                "PhasedLSTMCell: expected 0 < period_init_min <= period_init_max, got "
                f"{self.period_init_min} and {self.period_init_max}"
            )

    def init(self, key: jax.Array, input_shape: Shapes, dtype: DTypeLike = jnp.float32) -> Params:
        pair = isinstance(input_shape, tuple | list) and not is_shape(input_shape)
        if not pair or len(input_shape) != 2 or input_shape[0][-1] != 1:
            raise ValueError(
                "PhasedLSTMCell: expected inputs (time, x) of shapes [batch, time, 1] and "
                f"[batch, time, features], got {input_shape!r}"
            )
        units, rows = self.num_units, self._kernel_rows(input_size(self, input_shape[1]))
        *keys, period_key, phase_key = jax.random.split(key, 8)
        params: Params = {}
        for i, (name, gates) in enumerate(GATES_PER_LAYER.items()):
            bias = init_vector(self.bias_initializer, zeros, keys[2 * i], gates * units, dtype)
            kernel = init_kernel(keys[2 * i + 1], rows[name], gates, self, dtype)
            params[name] = {"kernel": kernel, "bias": bias}
        bounds = self.period_init_min, self.period_init_max
        low, high = (jnp.log(jnp.asarray(x, dtype)) for x in bounds)
        period = jnp.exp(jax.random.uniform(period_key, (units,), dtype, low, high))
        return params | {
            "period": period,
            "phase": period * jax.random.uniform(phase_key, (units,), dtype),
            "ratio_on": jnp.full(units, self.ratio_on, dtype),
        }

    def _kernel_rows(self, features: int) -> dict[str, tuple[int, int]]:
        """Returns for each kernel the number of rows of the inputs, and that of the state."""
        units = self.num_units
        both = 2 * units if self.use_peepholes else units
        # The candidate has no peephole.
        return {
            name: (features, units if name == "new_input" else both) for name in GATES_PER_LAYER
        }

    def zero_state(
        self, batch_shape: BatchShape = (), dtype: DTypeLike = jnp.float32
    ) -> LSTMStateTuple:
        shape = (*batch_tuple(batch_shape), self.num_units)
        return LSTMStateTuple(c=jnp.zeros(shape, dtype), h=jnp.zeros(shape, dtype))

    def prepare(self, params: Params, *, key: Key = None, batch_shape: tuple[Any, ...]) -> Params:
        """Concatenates the kernels, so that one matmul computes all gates."""
        del key, batch_shape
        units, layers = self.num_units, [params[name] for name in GATES_PER_LAYER]
        features = params["new_input"]["kernel"].shape[0] - units
        kernels = [layer["kernel"] for layer in layers]
        kernel = jnp.concatenate([kernel[: features + units] for kernel in kernels], -1)
        ratio_on = params["ratio_on"]
        return {
            **params,
            "inputs": kernel[:features],
            "hidden": kernel[features:],
            "bias": jnp.concatenate([layer["bias"] for layer in layers]),
            # Apart from the rest: the output gate multiplies the new memory, not the old one.
            "peepholes": [kernels[i][features + units :] for i in (0, 2)],
            "ratio_on": ratio_on if self.trainable_ratio_on else jax.lax.stop_gradient(ratio_on),
        }

    def project(self, params: Params, inputs: Inputs) -> tuple[jax.Array, jax.Array]:
        time, x = inputs
        projected = matmul(x, params["inputs"])
        openness = self._openness(params, jnp.asarray(time)).astype(projected.dtype)
        return openness, projected + along_last(params["bias"], projected)

    def _openness(self, params: Params, time: jax.Array) -> jax.Array:
        """Computes `k` `[..., H]`, which depends only on the time."""
        # float16 and bfloat16 do not resolve a small part of a long period.
        floating = jnp.issubdtype(time.dtype, jnp.floating)
        time = widened(time) if floating else time.astype(jnp.float32)
        period, phase, ratio_on = (
            along_last(params[name].astype(time.dtype), time)
            for name in ("period", "phase", "ratio_on")
        )
        phi = _mod(time - phase, period) / period
        rising = 2 * phi / ratio_on
        closed = jnp.where(phi < ratio_on, 2 - rising, self.leak * phi)
        return jnp.where(phi < 0.5 * ratio_on, rising, closed)

    def recurrent_input(self, state: LSTMStateTuple) -> jax.Array:
        return state.h

    def stages(self, params: Params, projected: Projected, state: LSTMStateTuple) -> Stages:
        k, gates = projected
        recurred = yield self.recurrent_input(state), params["hidden"]
        i, f, j, o = jnp.split(gates + recurred, 4, -1)
        if self.use_peepholes:
            peeped = yield state.c, params["peepholes"][0]
            i, f = (x + y for x, y in zip((i, f), jnp.split(peeped, 2, -1), strict=True))
        c = jax.nn.sigmoid(f) * state.c + jax.nn.sigmoid(i) * jnp.tanh(j)
        if self.use_peepholes:
            o = o + (yield c, params["peepholes"][1])
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        c, h = (k * new + (1 - k) * old for new, old in zip((c, h), state, strict=True))
        return h, LSTMStateTuple(c, h)


def _mod(x: jax.Array, period: jax.Array) -> jax.Array:
    """Computes `x mod period`, with the gradient of `x`."""
    # The second term is exactly 0. (x - stop_gradient(x - mod) would be shorter, but rounds.)
    return jax.lax.stop_gradient(jnp.mod(x, period)) + (x - jax.lax.stop_gradient(x))
