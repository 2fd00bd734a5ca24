"""A wrapper that lets a cell attend to its own last outputs."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from .. import _check_cell
from .._adapter import output_size
from .._cell import Params, State
from .._init import Initializer, glorot_uniform, init_dense, init_vector
from .._tools import (
    along_last,
    batch_tuple,
    boxed_as,
    check_size,
    dense,
    input_size,
    matmul,
    unboxed,
)
from .._types import BatchShape, DTypeLike, Key, Projected, Shapes
from ._wrapper import Wrapper


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class AttentionCellWrapper(Wrapper):
    """A cell that attends to its last `attn_length` outputs, with Bahdanau's score.

        x'      = [x, attention] W + b
        y, s'   = cell(x', s)
        score_k = v . tanh(past_k W_a + concat(s') W_q + b_q)   # for each past output
        attention' = sum_k softmax(score)_k * past_k
        output  = [y, attention'] W_o + b_o                     # appended to the past outputs

    Args:
        cell: the cell to run, with one array as its output.
        attn_length: number `L` of outputs to attend to; outputs before the first step are 0.
        attn_size: size `A` of the output and of the attention; `None`: the size of the cell's
            output.
        attn_vec_size: size `V` of the scores' hidden layer; `None`: `A`.
        input_size: size `E` of `x'`; `None`: the size of the inputs.
        kernel_initializer: of all kernels; `None` is Glorot's uniform, TF1's default.
        bias_initializer: of all biases; `None` is zeros.

    Params: `kernel` `[D + A, E]`, `bias` `[E]`; `attention/{attn_w [1, 1, A, V], attn_v [V],
    kernel [sum of the state's sizes, V], bias [V]}`; `attn_output_projection/{kernel, bias}`
    (`[size of y + A, A]`); the cell's under `cell`.
    State: the tuple `(cell's state, attention [..., A], past [..., L * A])`, the oldest
    output first. Output: `[..., A]`.

    Raises:
        TypeError, ValueError: `cell` is not a cell, or is one that attends to a memory, so that
            the size of its state is not fixed; or a size is not a positive int.

    Differs from TF1: there is no `state_is_tuple=False`.

    Reference: `tf.contrib.rnn.AttentionCellWrapper`; Bahdanau et al., arXiv:1409.0473.

    Example:
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> cell = rnn.AttentionCellWrapper(rnn.LSTMCell(4), 3)
        >>> params = cell.init(jax.random.key(0), (2, 5, 3))
        >>> outputs, (lstm, attention, past) = rnn.dynamic_rnn(cell, params, jnp.ones((2, 5, 3)))
        >>> past.shape, bool((past.reshape(2, 3, 4) == outputs[:, -3:]).all())
        ((2, 12), True)
    """

    params_name: ClassVar[str | None] = "cell"

    attn_length: int
    _: dataclasses.KW_ONLY
    attn_size: int | None = None
    attn_vec_size: int | None = None
    input_size: int | None = None
    kernel_initializer: Initializer | None = None
    bias_initializer: Initializer | None = None

    @property
    def same_features(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether `x'` has as many features as the inputs."""
        return self.input_size is None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_cell.fixed_state(self, self.inner)
        check_size(self, "attn_length")
        for name in ("attn_size", "attn_vec_size", "input_size"):
            if getattr(self, name) is not None:
                check_size(self, name)

    @property
    def feature_ndim(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return 1

    def _size(self) -> int:
        """Returns `A`; `attn_size` is required if the cell refuses inputs of one feature."""
        if self.attn_size is not None:
            return self.attn_size
        try:
            # zero_state needs the size too, but receives no inputs: 1 feature stands for them.
            return output_size(self.inner, (self.input_size or 1,), self)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"AttentionCellWrapper: expected attn_size, as the size of {self.cell!r}'s "
                "output is not known without its inputs, got None"
            ) from error

    def init(self, key: jax.Array, input_shape: Shapes, dtype: DTypeLike = jnp.float32) -> Params:
        inputs, size = input_size(self, input_shape), self._size()
        received, hidden = self.input_size or inputs, self.attn_vec_size or size
        state = jax.tree.leaves(jax.eval_shape(lambda: self.inner.zero_state((), dtype)))
        keys = jax.random.split(key, 6)
        initialize = self.kernel_initializer or glorot_uniform
        attention = init_dense(keys[1], (sum(x.shape[-1] for x in state), hidden), self, dtype)
        scores = initialize(keys[2], (1, 1, size, hidden), dtype)
        # Partitioning metadata for two axes does not fit four axes, and is dropped.
        attention["attn_w"] = boxed_as(scores, unboxed(scores))
        attention["attn_v"] = init_vector(
            self.kernel_initializer, glorot_uniform, keys[3], hidden, dtype
        )
        rows = output_size(self.inner, (received,), self) + size
        return init_dense(keys[0], (inputs + size, received), self, dtype) | {
            "attention": attention,
            "attn_output_projection": init_dense(keys[4], (rows, size), self, dtype),
            "cell": self.inner.init(keys[5], (received,), dtype),
        }

    def zero_state(self, batch_shape: BatchShape = (), dtype: DTypeLike = jnp.float32) -> State:
        return self._state(self.inner.zero_state(batch_shape, dtype), batch_shape, dtype)

    def start(self, params: Params, batch_shape: BatchShape, dtype: DTypeLike) -> State:
        return self._state(super().start(params, batch_shape, dtype), batch_shape, dtype)

    def _state(self, cell_state: State, batch_shape: BatchShape, dtype: DTypeLike) -> State:
        batch, size = batch_tuple(batch_shape), self._size()
        past = jnp.zeros((*batch, self.attn_length * size), dtype)
        return cell_state, jnp.zeros((*batch, size), dtype), past

    def project(self, params: Params, inputs: jax.Array) -> jax.Array:
        size = params["attention"]["attn_w"].shape[-2]
        kernel = params["kernel"][:-size]
        return dense({"kernel": kernel, "bias": params["bias"]}, inputs)

    def why_not_separable(self, key: Key) -> str | None:
        del key
        return "each step receives the attention over the outputs before it"

    def step(
        self, params: Params, projected: Projected, state: State, *, key: Key = None
    ) -> tuple[Any, State]:
        cell_state, attention, past = state
        size = attention.shape[-1]
        received = projected + matmul(attention, params["kernel"][-size:], "attention")
        output, cell_state = self.cell_step(params, received, cell_state, key)
        past = past.reshape(*past.shape[:-1], self.attn_length, size)
        attention = _attend(params["attention"], cell_state, past)
        both = jnp.concatenate([output, attention], -1)
        output = dense(params["attn_output_projection"], both, "output")
        past = jnp.concatenate([past[..., 1:, :], jnp.expand_dims(output, -2)], -2)
        past = past.reshape(*past.shape[:-2], self.attn_length * size)
        return output, (cell_state, attention, past)


def _attend(params: Params, cell_state: State, past: jax.Array) -> jax.Array:
    """Returns the attention over the past outputs, with the cell's state as the query."""
    query = dense(params, jnp.concatenate(jax.tree.leaves(cell_state), -1), "state")
    hidden = matmul(past, params["attn_w"][0, 0], "state") + jnp.expand_dims(query, -2)
    scores = (along_last(params["attn_v"], hidden) * jnp.tanh(hidden)).sum(-1)
    weights = jax.nn.softmax(scores, -1)
    return (jnp.expand_dims(weights, -1) * past).sum(-2)
