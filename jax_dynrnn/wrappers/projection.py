"""Wrappers with a layer before or after a cell: dense layers, and an embedding."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from .._adapter import output_size
from .._cell import Params
from .._init import Initializer, init_dense
from .._tools import check_size, dense, input_size
from .._types import DTypeLike, Inputs, Key, Outputs, PyTree, Shapes
from ._wrapper import AroundWrapper


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class InputProjectionWrapper(AroundWrapper):
    """Adds a dense layer before a cell: `cell(act(x W + b))`.

    Args:
        cell: the cell to run.
        num_proj: size `P` of the inputs of the cell.
        activation: `None` is the identity.
        kernel_initializer: `None` is Glorot's uniform, TF1's default.
        bias_initializer: `None` is zeros.

    Params: `kernel` `[D, P]`, `bias` `[P]`, and the cell's under `cell`.
    State, output: those of `cell`.

    Raises:
        TypeError, ValueError: `cell` is not a cell, or `num_proj` not a positive int.

    Reference: `tf.contrib.rnn.InputProjectionWrapper`.

    Example:
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> cell = rnn.InputProjectionWrapper(rnn.GRUCell(4), 8)
        >>> params = cell.init(jax.random.key(0), (2, 5, 3))
        >>> params["kernel"].shape, params["cell"]["candidate"]["kernel"].shape
        ((3, 8), (12, 4))
    """

    params_name: ClassVar[str | None] = "cell"
    same_features = False

    num_proj: int
    _: dataclasses.KW_ONLY
    activation: Callable[..., Any] | None = None
    kernel_initializer: Initializer | None = None
    bias_initializer: Initializer | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size(self, "num_proj")

    @property
    def feature_ndim(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return 1

    def init(self, key: jax.Array, input_shape: Shapes, dtype: DTypeLike = jnp.float32) -> Params:
        own, inner = jax.random.split(key)
        layer = init_dense(own, (input_size(self, input_shape), self.num_proj), self, dtype)
        return layer | {"cell": self.inner.init(inner, (self.num_proj,), dtype)}

    def before(self, params: Params, inputs: Inputs, key: Key) -> tuple[Any, Any]:
        projected = dense(params, inputs)
        return projected if self.activation is None else self.activation(projected), None


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class OutputProjectionWrapper(AroundWrapper):
    """Adds a dense layer after a cell: the output is `act(y W + b)`; the state does not change.

    Args:
        cell: the cell to run, with one array as its output.
        output_size: size `P` of the output.
        activation: `None` is the identity.
        kernel_initializer: `None` is Glorot's uniform, TF1's default.
        bias_initializer: `None` is zeros.

    Params: `kernel` `[H, P]`, `bias` `[P]`, and the cell's under `cell`.
    State: that of `cell`. Output: `[..., P]`.

    Raises:
        TypeError, ValueError: `cell` is not a cell, or `output_size` not a positive int.

    A dense layer that is applied to `outputs` after the run gives the same result, with one matmul
    for all steps.

    Reference: `tf.contrib.rnn.OutputProjectionWrapper`.

    Example:
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> cell = rnn.OutputProjectionWrapper(rnn.GRUCell(4), 2)
        >>> params = cell.init(jax.random.key(0), (2, 5, 3))
        >>> outputs, state = rnn.dynamic_rnn(cell, params, jnp.ones((2, 5, 3)))
        >>> outputs.shape, state.shape
        ((2, 5, 2), (2, 4))
    """

    params_name: ClassVar[str | None] = "cell"
    same_output = False

    output_size: int
    _: dataclasses.KW_ONLY
    activation: Callable[..., Any] | None = None
    kernel_initializer: Initializer | None = None
    bias_initializer: Initializer | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size(self, "output_size")

    def init(self, key: jax.Array, input_shape: Shapes, dtype: DTypeLike = jnp.float32) -> Params:
        own, inner = jax.random.split(key)
        rows = output_size(self.inner, input_shape, self)
        layer = init_dense(own, (rows, self.output_size), self, dtype)
        return layer | {"cell": self.inner.init(inner, input_shape, dtype)}

    def after(self, params: Params, saved: PyTree, output: Outputs, key: Key) -> Any:
        output = dense(params, output, "output")
        return output if self.activation is None else self.activation(output)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class EmbeddingWrapper(AroundWrapper):
    """Adds an embedding before a cell: the inputs are ids, and the cell receives `embedding[id]`.

    Args:
        cell: the cell to run.
        embedding_classes: the number of ids `V`: 0 to `V - 1`.
        embedding_size: size `E` of the inputs of the cell.
        kernel_initializer: of the table; `None` is U(-sqrt(3), sqrt(3)), as in TF1.

    Inputs: integers `[B, T]`. An id outside the table gives NaN.
    Params: `embedding` `[V, E]`, and the cell's under `cell`. State, output: those of `cell`.

    Raises:
        TypeError, ValueError: `cell` is not a cell, a size is not a positive int, or (in a
            run) the inputs are not integers.

    Differs from TF1: the inputs have no last axis of size 1.

    Reference: `tf.contrib.rnn.EmbeddingWrapper`.

    Example:
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> cell = rnn.EmbeddingWrapper(rnn.GRUCell(4), 10, 8)
        >>> ids = jnp.array([[3, 1, 4], [1, 5, 0]])
        >>> params = cell.init(jax.random.key(0), ids.shape)
        >>> outputs, _ = rnn.dynamic_rnn(cell, params, ids, sequence_length=[3, 2])
        >>> params["embedding"].shape, outputs.shape
        ((10, 8), (2, 3, 4))
    """

    params_name: ClassVar[str | None] = "cell"
    same_features = False

    embedding_classes: int
    embedding_size: int
    _: dataclasses.KW_ONLY
    kernel_initializer: Initializer | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size(self, "embedding_classes")
        check_size(self, "embedding_size")

    @property
    def feature_ndim(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return 0

    def init(self, key: jax.Array, input_shape: Shapes, dtype: DTypeLike = jnp.float32) -> Params:
        own, inner = jax.random.split(key)
        shape = (self.embedding_classes, self.embedding_size)
        table = (self.kernel_initializer or _unit_variance)(own, shape, dtype)
        cell = self.inner.init(inner, (self.embedding_size,), dtype)
        return {"embedding": table, "cell": cell}

    def before(self, params: Params, inputs: Inputs, key: Key) -> tuple[Any, Any]:
        ids = jnp.asarray(inputs)
        if not jnp.issubdtype(ids.dtype, jnp.integer):
            raise TypeError(
                f"inputs: EmbeddingWrapper expected integers, ids below {self.embedding_classes}, "
                f"got {ids.dtype}"
            )
        # `embedding[ids]` would clamp an id that is too large, and count a negative one from the
        # end of the table: both would hide mistakes.
        table = params["embedding"].at[ids]
        return table.get(mode="fill", wrap_negative_indices=False), None


def _unit_variance(key: jax.Array, shape: tuple[Any, ...], dtype: DTypeLike) -> jax.Array:
    """Draws from U(-sqrt(3), sqrt(3)), whose variance is 1."""
    return jax.random.uniform(key, shape, dtype, minval=-(3**0.5), maxval=3**0.5)
