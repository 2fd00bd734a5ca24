"""Convolutional LSTMs, in one to three dimensions."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from .._cell import Cell, LSTMStateTuple, Params
from .._init import (
    Initializer,
    glorot_uniform,
    init_gates,
    init_vector,
    with_last_rows,
    zeros,
)
from .._tools import along_last, batch_tuple, check_options, check_size, is_shape
from .._types import BatchShape, DTypeLike, Key, Projected, Shapes


@dataclasses.dataclass(frozen=True, kw_only=True)
class _ConvLSTM(Cell):
    """The equations of a convolutional LSTM; a subclass defines `conv_ndims`."""

    input_shape: Sequence[int]
    output_channels: int
    kernel_shape: Sequence[int]
    use_bias: bool = True
    skip_connection: bool = False
    forget_bias: float = 1.0
    recurrent_activation: Callable[..., Any] | None = None
    kernel_initializer: Initializer | None = None
    recurrent_initializer: Initializer | None = None
    bias_initializer: Initializer | None = None

    conv_ndims: ClassVar[int]

    def __post_init__(self) -> None:
        if self.conv_ndims not in (1, 2, 3):
            raise ValueError(
                f"{type(self).__name__}: expected conv_ndims of 1, 2 or 3, got {self.conv_ndims!r}"
            )
        check_size(self, "output_channels")
        check_options(self)
        self._check_shape("input_shape", self.conv_ndims + 1, "each dimension, and the channels")
        self._check_shape("kernel_shape", self.conv_ndims, "each dimension")

    def _check_shape(self, name: str, length: int, axes: str) -> None:
        shape = getattr(self, name)
        sizes = tuple(shape) if isinstance(shape, Sequence) else ()
        positive = all(hasattr(n, "__index__") and n.__index__() > 0 for n in sizes)
        if len(sizes) != length or not positive:
            raise ValueError(
                f"{type(self).__name__}: expected {name} to be {length} positive ints, for {axes}, "
                f"as conv_ndims is {self.conv_ndims}, got {shape!r}"
            )
        # A list becomes a tuple, which can be hashed.
        object.__setattr__(self, name, tuple(n.__index__() for n in sizes))

    @property
    def feature_ndim(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.conv_ndims + 1

    def init(self, key: jax.Array, input_shape: Shapes, dtype: DTypeLike = jnp.float32) -> Params:
        self._check_inputs(input_shape)
        keys, channels = jax.random.split(key, 3), self.output_channels
        features, window = self.input_shape[-1], tuple(self.kernel_shape)
        initialize = self.kernel_initializer or glorot_uniform
        kernel = initialize(keys[0], (*window, features + channels, 4 * channels), dtype)
        if self.recurrent_initializer is not None:
            shape, gate_keys = (*window, channels, channels), jax.random.split(keys[1], 4)
            recurrent = init_gates(self.recurrent_initializer, gate_keys, shape, dtype)
            # The axis of input channels: the last of them are those of the state.
            kernel = with_last_rows(kernel, recurrent, axis=len(window))
        if not self.use_bias:
            return {"kernel": kernel}
        bias = init_vector(self.bias_initializer, zeros, keys[2], 4 * channels, dtype)
        return {"kernel": kernel, "biases": bias}

    def zero_state(
        self, batch_shape: BatchShape = (), dtype: DTypeLike = jnp.float32
    ) -> LSTMStateTuple:
        shape = (*batch_tuple(batch_shape), *self.input_shape[:-1], self.output_channels)
        return LSTMStateTuple(c=jnp.zeros(shape, dtype), h=jnp.zeros(shape, dtype))

    def project(self, params: Params, inputs: jax.Array) -> Any:
        self._check_inputs(inputs.shape)
        # The convolution of [x, h] is the sum of those of x and h: that of x needs no state.
        projected = self._convolve(inputs, params["kernel"][..., : self.input_shape[-1], :])
        if self.use_bias:
            projected = projected + along_last(params["biases"], projected)
        return projected, inputs if self.skip_connection else None

    def step(
        self, params: Params, projected: Projected, state: LSTMStateTuple, *, key: Key = None
    ) -> tuple[jax.Array, LSTMStateTuple]:
        del key
        projected, inputs = projected
        kernel = params["kernel"][..., self.input_shape[-1] :, :]
        gates = projected + self._convolve(state.h, kernel)
        i, j, f, o = jnp.split(gates, 4, -1)
        gate = self.recurrent_activation or jax.nn.sigmoid
        c = gate(f + self.forget_bias) * state.c + gate(i) * jnp.tanh(j)
        h = gate(o) * jnp.tanh(c)
        output = jnp.concatenate([h, inputs], -1) if self.skip_connection else h
        return output, LSTMStateTuple(c, h)

    def _check_inputs(self, shape: Any) -> None:
        features = tuple(shape)[-self.feature_ndim :] if is_shape(shape) else shape
        if features != self.input_shape:
            raise ValueError(
                f"{type(self).__name__}: expected inputs [batch, time, *input_shape] with "
                f"input_shape={self.input_shape}, got shape {shape!r}"
            )

    def _convolve(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """Convolves `x` `[..., *sizes, channels]`; zero padding preserves the sizes."""
        batch, features = x.shape[: -self.feature_ndim], x.shape[-self.feature_ndim :]
        spatial = "DHW"[-self.conv_ndims :]
        # A convolution has exactly one batch axis: all leading axes are merged into it.
        convolved = jax.lax.conv_general_dilated(
            x.reshape(math.prod(batch), *features),
            kernel,
            window_strides=(1,) * self.conv_ndims,
            padding="SAME",
            dimension_numbers=(f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"),
        )
        return convolved.reshape(*batch, *features[:-1], kernel.shape[-1])


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class ConvLSTMCell(_ConvLSTM):
    """Convolutional LSTM: the LSTM of images, with convolutions in place of matmuls.

        i, j, f, o = split([x, h] * W + b)                  # convolved; split by channels
        c' = sigmoid(f + forget_bias) * c + sigmoid(i) * tanh(j)
        h' = sigmoid(o) * tanh(c')                          # also the output, or [h', x]

    The strides are 1, and zero padding preserves the sizes of the images. `Conv1DLSTMCell`,
    `Conv2DLSTMCell` and `Conv3DLSTMCell` are this cell with `conv_ndims` of 1, 2 and 3.

    Args:
        conv_ndims: dimensions of the convolution, 1 to 3.
        input_shape: sizes of one input, its channels `C` last: `conv_ndims + 1` ints.
        output_channels: channels `H` of the state.
        kernel_shape: sizes of the kernel: `conv_ndims` ints.
        use_bias: whether there is a bias.
        skip_connection: whether the output is `[h', x]`, concatenated along the channels.
        forget_bias: added to the forget gate at run time, not stored.
        recurrent_activation: of the gates; `None` is sigmoid.
        kernel_initializer: of `kernel`; `None` is Glorot's uniform, TF1's default.
        recurrent_initializer: of the part of `kernel` that is convolved with `h`, gate by gate.
        bias_initializer: of `biases`; `None` is zeros.

    Params: `kernel` `[*kernel_shape, C + H, 4 H]`, and `biases` `[4 H]` with `use_bias`.
    Inputs: `[..., *input_shape]`. State: `LSTMStateTuple(c, h)`, both
    `[..., *input_shape[:-1], H]`; output: the same, with `H + C` channels with
    `skip_connection`; in the dtype of the inputs and params.

    Raises:
        TypeError, ValueError: a size is not a positive int, or the shapes do not fit
            `conv_ndims`.

    Differs from TF1: with `skip_connection` TF1 put `[h', x]` into the state too, whose shape was
    then wrong for the next step; here the state is `h'`.

    Reference: `tf.contrib.rnn.ConvLSTMCell`; Shi et al., arXiv:1506.04214.

    Example:
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> sizes = {"input_shape": (8, 6, 3), "output_channels": 4, "kernel_shape": (3, 3)}
        >>> cell, inputs = rnn.ConvLSTMCell(2, **sizes), jnp.ones((2, 5, 8, 6, 3))
        >>> params = cell.init(jax.random.key(0), inputs.shape)
        >>> outputs, state = rnn.dynamic_rnn(cell, params, inputs)
        >>> outputs.shape, state.c.shape
        ((2, 5, 8, 6, 4), (2, 8, 6, 4))
    """

    conv_ndims: int  # pyright: ignore[reportIncompatibleVariableOverride]


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Conv1DLSTMCell(_ConvLSTM):
    """`ConvLSTMCell` over one dimension: inputs are `[batch, time, length, channels]`.

    Args:
        input_shape: `(length, channels)` of one step.
        output_channels: channels of the state.
        kernel_shape: `(length,)` of the kernel.
        use_bias, skip_connection, forget_bias, recurrent_activation, kernel_initializer,
            recurrent_initializer, bias_initializer: as in `ConvLSTMCell`.

    Params and state: as in `ConvLSTMCell`.

    Raises:
        TypeError, ValueError: as `ConvLSTMCell`.

    Reference: `tf.contrib.rnn.Conv1DLSTMCell`.

    Example:
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> cell = rnn.Conv1DLSTMCell(input_shape=(8, 3), output_channels=4, kernel_shape=(3,))
        >>> params = cell.init(jax.random.key(0), (2, 5, 8, 3))
        >>> rnn.dynamic_rnn(cell, params, jnp.ones((2, 5, 8, 3)))[0].shape
        (2, 5, 8, 4)
    """

    conv_ndims: ClassVar[int] = 1


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Conv2DLSTMCell(_ConvLSTM):
    """`ConvLSTMCell` over two dimensions: inputs are `[batch, time, height, width, channels]`.

    Args:
        input_shape: `(height, width, channels)` of one step.
        output_channels: channels of the state.
        kernel_shape: `(height, width)` of the kernel.
        use_bias, skip_connection, forget_bias, recurrent_activation, kernel_initializer,
            recurrent_initializer, bias_initializer: as in `ConvLSTMCell`.

    Params and state: as in `ConvLSTMCell`.

    Raises:
        TypeError, ValueError: as `ConvLSTMCell`.

    Reference: `tf.contrib.rnn.Conv2DLSTMCell`.

    Example: the receptive field of an output grows by one pixel on each side with every step
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> cell = rnn.Conv2DLSTMCell(input_shape=(9, 9, 1), output_channels=1, kernel_shape=(3, 3))
        >>> inputs = jnp.zeros((1, 3, 9, 9, 1)).at[0, 0, 4, 4, 0].set(1.0)
        >>> outputs, _ = rnn.dynamic_rnn(cell, cell.init(jax.random.key(0), inputs.shape), inputs)
        >>> (outputs != 0).sum((0, 2, 3, 4)).tolist()
        [9, 25, 49]
    """

    conv_ndims: ClassVar[int] = 2


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Conv3DLSTMCell(_ConvLSTM):
    """`ConvLSTMCell` over three dimensions: `[batch, time, depth, height, width, channels]`.

    Args:
        input_shape: `(depth, height, width, channels)` of one step.
        output_channels: channels of the state.
        kernel_shape: `(depth, height, width)` of the kernel.
        use_bias, skip_connection, forget_bias, recurrent_activation, kernel_initializer,
            recurrent_initializer, bias_initializer: as in `ConvLSTMCell`.

    Params and state: as in `ConvLSTMCell`.

    Raises:
        TypeError, ValueError: as `ConvLSTMCell`.

    Reference: `tf.contrib.rnn.Conv3DLSTMCell`.

    Example:
        >>> import jax, jax_dynrnn as rnn
        >>> cell = rnn.Conv3DLSTMCell(
        ...     input_shape=(4, 4, 4, 2), output_channels=3, kernel_shape=(1, 3, 3))
        >>> cell.init(jax.random.key(0), (None, None, 4, 4, 4, 2))["kernel"].shape
        (1, 3, 3, 5, 12)
    """

    conv_ndims: ClassVar[int] = 3
