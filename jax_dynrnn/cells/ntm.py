"""The neural Turing machine: a cell that reads and writes a memory in its state."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp

from .. import _check_cell
from .._adapter import as_cell, output_size
from .._cell import Cell, Params, State, take_step
from .._init import Initializer, glorot_uniform, init_vector, zeros
from .._tools import batch_tuple, check_options, check_size, dense, input_size, widened
from .._types import BatchShape, DTypeLike, Key, Projected, Shapes
from ._lstm import clip


class NTMControllerState(NamedTuple):
    """State of an `NTMCell`, under TF1's names.

    Attributes:
        controller_state: the state of the controller.
        read_vector_list: the last vector that each read head read, `[..., V]`.
        w_list: the last weights of each head over the memory's slots, `[..., N]`, read heads
            first.
        M: the memory `[..., N, V]`.
        time: the number of steps taken, rank 0.

    Reference: `NTMControllerState` in `tensorflow/contrib/rnn`.

    Example:
        >>> import jax_dynrnn as rnn
        >>> cell = rnn.NTMCell(rnn.LSTMCell(8), 16, 4, read_head_num=1, write_head_num=1)
        >>> state = cell.zero_state(2)
        >>> state.M.shape, [w.shape for w in state.w_list], state.time.shape
        ((2, 16, 4), [(2, 16), (2, 16)], ())
    """

    controller_state: Any
    read_vector_list: Any
    w_list: Any
    M: Any
    time: Any


jax.export.register_namedtuple_serialization(
    NTMControllerState, serialized_name="jax_dynrnn.NTMControllerState"
)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class NTMCell(Cell):
    """A controller cell that reads and writes a memory through heads.

        y, s'   = controller([x, last reads], s)
        k, beta, g, shift, gamma = split(clip(y W_p + b_p)) for each head
        w_c     = softmax(beta * cosine(k, M_n) over n)     # by content
        w_g     = g * w_c + (1 - g) * w                     # interpolated with the last weights
        w_s     = sum over d of shift_d * roll(w_g, d)      # d in [-shift_range, shift_range]
        w'      = w_s ** gamma / sum(w_s ** gamma)          # sharpened
        read    = sum over n of w'_n M_n                    # for each read head
        M_n'    = M_n * (1 - w'_n * sigmoid(erase)) + w'_n * tanh(add)  # for each write head
        output  = clip([y, all reads] W_o + b_o)

    after `k = tanh(k)`, `beta = softplus(beta)`, `g = sigmoid(g)`, `shift = softmax(shift)` and
    `gamma = 1 + softplus(gamma)`.

    Args:
        controller: the cell that controls the heads.
        memory_size: number of slots `N` of the memory, more than `2 * shift_range`.
        memory_vector_dim: size `V` of each slot.
        read_head_num, write_head_num: numbers of heads.
        shift_range: the largest shift of a head in a step.
        output_dim: size `O` of the output; `None`: that of the inputs.
        clip_value: bound of the heads' parameters and of the output.
        kernel_initializer: of both kernels; `None` is TF1's, a truncated normal.
        bias_initializer: of both biases; `None` is zeros.

    Params: `parameters_kernel`, `parameters_bias` (`W_p`, `b_p`, for all heads and writes),
    `output_kernel` `[size of y + R V, O]` with `R` read heads, `output_bias`,
    `initial_read_vector_0`, ... `[1, V]`, `initial_address_weights_0`, ... `[1, N]`, `memory`
    `[N, V]`, and the controller's under `cell`.
    State: `NTMControllerState`. Output: `[..., O]`.

    Raises:
        TypeError, ValueError: `controller` is not a cell, or is one that attends to a memory, so
            that the size of its state is not fixed; a size is not a positive int, the memory is
            too small for the shifts, or `clip_value` is not above 0.

    Differs from TF1: the learned initial state is the start state of a run, and after every
    reset (`start`). An initial state that is given is used as it is; TF1 replaces it at step 0.

    Reference: `NTMCell` in `tensorflow/contrib/rnn`; Graves et al., arXiv:1410.5401; Collier
    and Beel, arXiv:1807.08518.

    Example:
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> cell = rnn.NTMCell(rnn.LSTMCell(8), 16, 4, read_head_num=1, write_head_num=1)
        >>> params = cell.init(jax.random.key(0), (2, 5, 3))
        >>> outputs, state = rnn.dynamic_rnn(cell, params, jnp.ones((2, 5, 3)), [5, 2])
        >>> outputs.shape, bool(jnp.allclose(state.w_list[0].sum(-1), 1))
        ((2, 5, 3), True)
    """

    controller: Any
    memory_size: int
    memory_vector_dim: int
    read_head_num: int
    write_head_num: int
    _: dataclasses.KW_ONLY
    shift_range: int = 1
    output_dim: int | None = None
    clip_value: float = 20.0
    kernel_initializer: Initializer | None = None
    bias_initializer: Initializer | None = None

    def __post_init__(self) -> None:
        _check_cell.fixed_state(self, as_cell(self.controller, "NTMCell's controller"))
        sizes = ["memory_size", "memory_vector_dim", "read_head_num", "write_head_num"]
        sizes += ["shift_range"] + ["output_dim"] * (self.output_dim is not None)
        for name in sizes:
            check_size(self, name)
        check_options(self)
        if self.clip_value <= 0:
            raise ValueError(f"NTMCell: expected clip_value > 0, got {self.clip_value}")
        if self.memory_size <= 2 * self.shift_range:
            raise ValueError(
                f"NTMCell: expected memory_size > 2 * shift_range = {2 * self.shift_range}, got "
                f"{self.memory_size}"
            )

    @property
    def _num_heads(self) -> int:
        return self.read_head_num + self.write_head_num

    @property
    def _parameter_sizes(self) -> list[int]:
        """The sizes of the heads' parameters: of each head, then erase and add of each write head.

        In each head: `k`, `beta`, `g`, the `2 * shift_range + 1` shifts, and `gamma`.
        """
        head = self.memory_vector_dim + 2 * self.shift_range + 4
        return [head] * self._num_heads + [self.memory_vector_dim] * (2 * self.write_head_num)

    def init(self, key: jax.Array, input_shape: Shapes, dtype: DTypeLike = jnp.float32) -> Params:
        size = input_size(self, input_shape)
        keys = iter(jax.random.split(key, 5 + 2 * self._num_heads))
        slots, width = self.memory_size, self.memory_vector_dim
        received = (size + self.read_head_num * width,)
        hidden = output_size(as_cell(self.controller), received, self)

        def layer(name, rows, columns):
            normal = jax.nn.initializers.truncated_normal(rows**-0.5)
            kernel = (self.kernel_initializer or normal)(next(keys), (rows, columns), dtype)
            bias = init_vector(self.bias_initializer, zeros, next(keys), columns, dtype)
            return {f"{name}_kernel": kernel, f"{name}_bias": bias}

        def initial_rows(name, number, columns):
            return {
                f"{name}_{i}": glorot_uniform(next(keys), (1, columns), dtype)
                for i in range(number)
            }

        return {
            "cell": as_cell(self.controller).init(next(keys), received, dtype),
            **layer("parameters", hidden, sum(self._parameter_sizes)),
            **layer("output", hidden + self.read_head_num * width, self.output_dim or size),
            **initial_rows("initial_read_vector", self.read_head_num, width),
            **initial_rows("initial_address_weights", self._num_heads, slots),
            # Collier and Beel compare initial memories, and choose this constant.
            "memory": jnp.full((slots, width), 1e-6, dtype),
        }

    def zero_state(self, batch_shape: BatchShape = (), dtype: DTypeLike = jnp.float32) -> State:
        batch, width = batch_tuple(batch_shape), self.memory_vector_dim
        return NTMControllerState(
            controller_state=as_cell(self.controller).zero_state(batch_shape, dtype),
            read_vector_list=(jnp.zeros((*batch, width), dtype),) * self.read_head_num,
            w_list=(jnp.zeros((*batch, self.memory_size), dtype),) * self._num_heads,
            M=jnp.zeros((*batch, self.memory_size, width), dtype),
            time=jnp.zeros((), jnp.int32),
        )

    def start(self, params: Params, batch_shape: BatchShape, dtype: DTypeLike) -> State:
        batch, zero = batch_tuple(batch_shape), self.zero_state(batch_shape, dtype)

        def to_batch(x):
            x = jnp.broadcast_to(jnp.expand_dims(x, tuple(range(len(batch)))), (*batch, *x.shape))
            return x.astype(dtype)

        def learned(name, number, function):
            names = [f"{name}_{i}" for i in range(number)]
            return tuple(to_batch(function(params[name][0])) for name in names)

        return zero._replace(
            controller_state=as_cell(self.controller).start(params["cell"], batch_shape, dtype),
            read_vector_list=learned("initial_read_vector", self.read_head_num, jnp.tanh),
            w_list=learned("initial_address_weights", self._num_heads, jax.nn.softmax),
            M=to_batch(params["memory"]),
        )

    def prepare(self, params: Params, *, key: Key = None, batch_shape: tuple[Any, ...]) -> Params:
        cell = as_cell(self.controller)
        prepared = cell.prepare(params["cell"], key=key, batch_shape=batch_shape)
        return {**params, "cell": prepared}

    def step(
        self, params: Params, projected: Projected, state: State, *, key: Key = None
    ) -> tuple[Any, State]:
        controller = as_cell(self.controller)
        received = jnp.concatenate([projected, *state.read_vector_list], -1)
        inner = controller.project(params["cell"], received)
        output, new = take_step(controller, params["cell"], inner, state.controller_state, key=key)
        parameters = clip(_dense(params, "parameters", output), self.clip_value)
        sizes = self._parameter_sizes
        ends = [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)]
        parts = jnp.split(parameters, ends, -1)
        heads, writes = parts[: self._num_heads], parts[self._num_heads :]
        w_list = tuple(
            self._address(head, state.M, w) for head, w in zip(heads, state.w_list, strict=True)
        )
        # As in TF1, all heads address, and read heads read, the memory before this step's writes.
        reads = tuple(
            (jnp.expand_dims(w, -1) * state.M).sum(-2) for w in w_list[: self.read_head_num]
        )
        memory = state.M
        for i, w in enumerate(w_list[self.read_head_num :]):
            erase, add = jax.nn.sigmoid(writes[2 * i]), jnp.tanh(writes[2 * i + 1])
            w = jnp.expand_dims(w, -1)
            memory = memory * (1 - w * jnp.expand_dims(erase, -2)) + w * jnp.expand_dims(add, -2)
        output = _dense(params, "output", jnp.concatenate([output, *reads], -1))
        state = NTMControllerState(new, reads, w_list, memory, state.time + 1)
        return clip(output, self.clip_value), state

    def _address(self, head: jax.Array, memory: jax.Array, w: jax.Array) -> jax.Array:
        """Returns the new weights of a head over the slots, from its last weights `w`."""
        width, reach = self.memory_vector_dim, self.shift_range
        k, beta, g, shift, gamma = jnp.split(
            head, [width, width + 1, width + 2, head.shape[-1] - 1], -1
        )
        content = jax.nn.softmax(jax.nn.softplus(beta) * _cosine(jnp.tanh(k), memory), -1)
        g, shift = jax.nn.sigmoid(g), jax.nn.softmax(shift, -1)
        gated = g * content + (1 - g) * w
        # TF1's order of the shifts: 0, 1, ..., reach, -reach, ..., -1.
        offsets = [*range(reach + 1), *range(-reach, 0)]
        parts = [shift[..., i : i + 1] * jnp.roll(gated, d, -1) for i, d in enumerate(offsets)]
        shifted = sum(parts[1:], parts[0])
        # Scaled to a maximum of 1, since powers of small weights underflow. The factor cancels in
        # the quotient below, so its gradient can be omitted.
        shifted = shifted / jax.lax.stop_gradient(shifted.max(-1, keepdims=True))
        sharp = shifted ** (1 + jax.nn.softplus(gamma))
        return sharp / sharp.sum(-1, keepdims=True)


def _dense(params: Params, name: str, x: jax.Array) -> jax.Array:
    return dense({"kernel": params[f"{name}_kernel"], "bias": params[f"{name}_bias"]}, x, "state")


def _cosine(k: jax.Array, memory: jax.Array) -> jax.Array:
    """Cosine similarity of `k` `[..., V]` and each slot of `memory` `[..., N, V]` -> `[..., N]`."""
    # At least 32 bits: 1e-8, which avoids a division by 0, is itself 0 in float16.
    wide, key = widened(memory), jnp.expand_dims(widened(k), -2)
    product = (wide * key).sum(-1)
    return (product / (_norm(wide) * _norm(key) + 1e-8)).astype(k.dtype)


def _norm(x: jax.Array) -> jax.Array:
    """The Euclidean norm over the last axis, with a gradient of 0 at 0."""
    squared = (x * x).sum(-1)
    # The inner `where` keeps sqrt away from 0: its infinite derivative times 0 would be NaN.
    return jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1.0)), 0.0)
