"""The equations of the LSTMs whose pre-activations are matmuls.

The convolutional, independent, phased and grid LSTMs define their own equations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from .._cell import LSTMStateTuple, Params, StagedCell, Stages
from .._init import Initializer, glorot_uniform, init_kernel, init_vector, zeros
from .._tools import along_last, batch_tuple, check_size, check_units, input_size, matmul
from .._types import BatchShape, DTypeLike, Projected, Shapes, State


class LSTM(StagedCell):
    """The equations of an LSTM; a subclass chooses the options, and overrides parts of a step.

    It is not a dataclass. A subclass declares the options that it has as fields; the values below
    are those of the options that it lacks.
    """

    GATES = ("input", "transform", "forget", "output")
    PEEPHOLES = ("w_f_diag", "w_i_diag", "w_o_diag")

    num_units: int
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

    def init(self, key: jax.Array, input_shape: Shapes, dtype: DTypeLike = jnp.float32) -> Params:
        units, kernel_initializer = self.num_units, self.kernel_initializer
        keys = jax.random.split(key, 6)
        rows, gates = (input_size(self, input_shape), self.hidden_size), len(self.GATES)
        params: Params = {
            "kernel": init_kernel(keys[0], rows, gates, self, dtype),
            "bias": init_vector(self.bias_initializer, zeros, keys[1], gates * units, dtype),
        }
        if self.use_peepholes:
            for name, k in zip(self.PEEPHOLES, keys[2:5], strict=False):
                params[name] = init_vector(kernel_initializer, glorot_uniform, k, units, dtype)
        if self.num_proj is not None:
            initialize = kernel_initializer or glorot_uniform
            params["projection"] = {"kernel": initialize(keys[5], (units, self.num_proj), dtype)}
        return params

    def zero_state(
        self, batch_shape: BatchShape = (), dtype: DTypeLike = jnp.float32
    ) -> LSTMStateTuple:
        batch = batch_tuple(batch_shape)
        return LSTMStateTuple(
            c=jnp.zeros((*batch, self.num_units), dtype),
            h=jnp.zeros((*batch, self.hidden_size), dtype),
        )

    def project(self, params: Params, inputs: jax.Array) -> jax.Array:
        projected = matmul(inputs, params["kernel"][: -self.hidden_size])
        return projected + along_last(params["bias"], projected)

    def hidden(self, state: LSTMStateTuple) -> jax.Array:
        return state.h

    def recurrent_input(self, state: State) -> jax.Array:
        return self.hidden(state)

    def recurrent_kernel(self, params: Params) -> jax.Array:
        return params["kernel"][-self.hidden_size :]

    def pointwise(
        self, params: Params, projected: jax.Array, recurred: jax.Array, state: LSTMStateTuple
    ) -> tuple[jax.Array, LSTMStateTuple]:
        split = jnp.split(projected + recurred, len(self.GATES), -1)
        named = zip(self.GATES, split, strict=True)
        *gates, o = [self.normalized(params, name, x) for name, x in named]
        c = self.normalized(params, "state", self.memory(params, gates, state.c))
        c = clip(c, self.cell_clip)
        m = self.activate_gate(self.peep(params, "w_o_diag", o, c)) * self.activate(c)
        return m, LSTMStateTuple(c, m)

    def normalized(self, params: Params, name: str, x: jax.Array) -> jax.Array:
        """Normalises the gate `name`, or the memory (`state`); by default, returns it as it is."""
        del params, name
        return x

    def memory(self, params: Params, gates: list[jax.Array], c: jax.Array) -> jax.Array:
        """Computes the new memory, before it is normalised and clipped."""
        i, j, f = gates
        f = self.peep(params, "w_f_diag", f, c)
        i = self.peep(params, "w_i_diag", i, c)
        remembered = self.activate_gate(f + self.forget_bias) * c
        return remembered + self.activate_gate(i) * self.candidate(params, j)

    def candidate(self, params: Params, j: jax.Array) -> jax.Array:
        """Computes the candidate, which the input gate scales, from its pre-activation."""
        del params
        return self.activate(j)

    def activate(self, x: jax.Array) -> jax.Array:
        return (self.activation or jnp.tanh)(x)

    def activate_gate(self, x: jax.Array) -> jax.Array:
        return (self.recurrent_activation or jax.nn.sigmoid)(x)

    def peep(self, params: Params, name: str, gate: jax.Array, c: jax.Array) -> jax.Array:
        """Adds the peephole from the memory `c`, if the cell has any, to a gate."""
        return gate + along_last(params[name], c) * c if self.use_peepholes else gate

    def stages(self, params: Params, projected: Projected, state: LSTMStateTuple) -> Stages:
        recurred = yield from self.recur(params, state)
        output, state = self.pointwise(params, projected, recurred, state)
        if self.num_proj is None:
            return output, state
        h = yield output, params["projection"]["kernel"]
        h = clip(h, self.proj_clip)
        return h, LSTMStateTuple(state.c, h)

    def recur(self, params: Params, state: LSTMStateTuple) -> Stages:
        """Requests the product of the hidden state and the recurrent kernel."""
        return (yield self.recurrent_input(state), self.recurrent_kernel(params))

    @property
    def hidden_size(self) -> int:
        """The number of rows of the kernel that multiply the hidden state."""
        return self.num_units if self.num_proj is None else self.num_proj


def clip(x: jax.Array, bound: float | None) -> jax.Array:
    """Clips to ±bound, or not at all if `bound` is `None`."""
    if bound is None:
        return x
    # Not jnp.clip: at the bound itself, the whole gradient passes here, as in TensorFlow.
    return jnp.where(x < -bound, -bound, jnp.where(x > bound, bound, x))


def check_lstm(cell: Any) -> None:
    """Checks the sizes, options and clips of an LSTM."""
    owner = type(cell).__name__
    check_units(cell)
    if cell.num_proj is not None:
        check_size(cell, "num_proj")
    elif cell.proj_clip is not None:
        raise ValueError(
            f"{owner}: proj_clip={cell.proj_clip!r} needs a projection: expected "
            "num_proj with it, got num_proj=None; use cell_clip to bound the memory"
        )
    for name in ("cell_clip", "proj_clip"):
        bound = getattr(cell, name)
        if bound is not None and not bound >= 0:  # also refuses NaN, unlike bound < 0
            raise ValueError(f"{owner}: expected {name} >= 0 or None, got {bound!r}")
