"""Attention mechanisms: the scores of a query against each slot of a memory.

`B` is the batch size, `S` the number of slots of the memory, `M` its features, `U` the units.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from . import _check_data
from ._arguments import check_construction
from ._cell import Memory, Params
from ._init import Initializer, glorot_uniform, init_vector, zeros
from ._repr import BriefRepr
from ._tools import along_last, check_size, check_units, matmul, widened
from ._types import DTypeLike
from .sequence import as_lengths


class Attended(NamedTuple):
    """The keys, values and mask of a memory, computed once per run."""

    keys: jax.Array
    """`[B, S, U]`."""
    values: jax.Array
    """`[B, S, M]`, 0 past the memory's length."""
    valid: jax.Array | None
    """bool `[B, S]`: the mask of valid slots; `None`: all are valid."""


@dataclasses.dataclass(frozen=True)
class Mechanism(BriefRepr):
    """Base class of attention mechanisms; a subclass defines the scores.

    It computes keys and values from the memory, and the context from the scores.
    """

    NAME = ""  # of the params; empty: the name of the class

    num_units: int
    _: dataclasses.KW_ONLY
    memory_size: int | None = None
    kernel_initializer: Initializer | None = None

    def __new__(cls, *given: Any, **options: Any):
        # TF1's mechanisms take the memory as their second argument.
        if "memory" in options or any(hasattr(x, "shape") for x in given[1:]):
            raise TypeError(
                f"{cls.__name__}: expected no memory, got one, as TF1's constructor takes; pass it "
                "to the cell: params = cell.attend(params, memory, memory_length)"
            )
        check_construction(cls, given, options)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        check_units(self)
        if self.memory_size is None:
            object.__setattr__(self, "memory_size", self.num_units)
        check_size(self, "memory_size")

    @property
    def name(self) -> str:
        """The name of its params, beside those of the cell."""
        return self.NAME or type(self).__name__

    def init(self, key: jax.Array, query_size: int, dtype: DTypeLike) -> Params:
        """Initialises the params, for queries of `query_size` features."""
        del query_size
        kernel = self._kernel(jax.random.fold_in(key, 0), self.memory_size, dtype)
        return {"memory_layer": {"kernel": kernel}}

    def _kernel(self, key: jax.Array, rows: Any, dtype: DTypeLike) -> jax.Array:
        return (self.kernel_initializer or glorot_uniform)(key, (rows, self.num_units), dtype)

    def memory(self, values: Any, length: Any) -> Memory:
        """Checks a memory `[B, S, M]` and its lengths, and returns them as a `Memory`.

        `None` gives a memory of one slot without a batch, for inferring shapes from one row.
        """
        if values is None:
            return Memory(jnp.zeros((1, int(self.memory_size or 0)), jnp.float32), None)
        values = jnp.asarray(_check_data.array("memory", values))
        if not jnp.issubdtype(values.dtype, jnp.floating):
            raise TypeError(f"memory: expected a floating dtype, got {values.dtype}")
        if values.ndim < 2 or values.shape[-1] != self.memory_size:
            raise ValueError(
                f"memory: expected [batch, slots, {self.memory_size}] for {self!r}, got shape "
                f"{values.shape}; give the mechanism memory_size={[*values.shape, 0][-2]}"
            )
        if length is None:
            return Memory(values, None)
        length, (*batch, slots, _) = _check_data.integers(length, "memory_length"), values.shape
        expected = f"memory_length: expected integers of shape {tuple(batch)}, one for each row, "
        if tuple(length.shape) != tuple(batch):
            raise ValueError(f"{expected}got shape {tuple(length.shape)}")
        if not jnp.issubdtype(length.dtype, jnp.integer):
            raise TypeError(f"{expected}got dtype {length.dtype}")
        if batch:
            _check_data.known_values("memory_length", length, slots, "slots of the memory")
        return Memory(values, as_lengths(length, slots))

    def attended(self, params: Params, memory: Memory) -> Attended:
        """Computes the keys and values of a memory."""
        values, length, valid = memory.values, memory.length, None
        if length is not None:
            slots = jnp.arange(values.shape[-2], dtype=length.dtype)
            valid = along_last(slots, values[..., 0]) < jnp.expand_dims(length, -1)
            # Before the matmul: NaN in the padding then reaches neither the keys nor gradients.
            values = jnp.where(jnp.expand_dims(valid, -1), values, 0)
        keys = matmul(values, params["memory_layer"]["kernel"], "memory")
        return Attended(keys, values, valid)

    def prepare(self, params: Params) -> Params:
        """Returns the params for `score`: what does not change between steps is computed here."""
        return params

    def score(self, params: Params, query: jax.Array, keys: jax.Array) -> jax.Array:
        """Scores a query `[..., Q]` against keys `[..., S, U]` -> `[..., S]`.

        The params are prepared.
        """
        raise NotImplementedError

    def __call__(
        self, params: Params, query: jax.Array, attended: Attended
    ) -> tuple[jax.Array, jax.Array]:
        """Attends to a memory -> `(context [..., M], alignments [..., S])`.

        Both are 0 for a memory of length 0.
        """
        scores, valid = self.score(params, query, attended.keys), attended.valid
        if valid is None:
            alignments = jax.nn.softmax(scores, -1)
        else:
            # Not -inf: the softmax of a row that is all -inf (a memory of length 0) is NaN.
            lowest = jnp.finfo(scores.dtype).min
            alignments = jax.nn.softmax(jnp.where(valid, scores, lowest), -1)
            # The softmax of such a row is now uniform.
            alignments = jnp.where(valid, alignments, 0)
        return (jnp.expand_dims(alignments, -1) * attended.values).sum(-2), alignments


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class BahdanauAttention(Mechanism):
    """Additive attention: `score_s = v . tanh(keys_s + y W_q)`.

        keys    = memory W_m
        score_s = v . tanh(keys_s + y W_q), or normalised
                  g * v / |v| . tanh(keys_s + y W_q + b)

    Args:
        num_units: size `U` of keys and queries.
        normalize: whether `v` has a learned length `g`.
        memory_size: features `M` of the memory; `None`: `num_units`.
        kernel_initializer: of both kernels and `v`; `None` is Glorot's uniform.

    Params: `memory_layer/kernel` `[M, U]`, `query_layer/kernel` `[Q, U]`, `attention_v` `[U]`,
    and with `normalize` `attention_g` `[]`, initialised to `sqrt(1 / U)`, and `attention_b` `[U]`.

    Raises:
        TypeError, ValueError: a size is not a positive int.

    Differs from TF1: the memory is passed to `AttentionWrapper.attend`. `init` does not receive
    it, so its number of features is given here.

    Reference: `tf.contrib.seq2seq.BahdanauAttention`; Bahdanau et al., arXiv:1409.0473;
    Salimans and Kingma, arXiv:1602.07868.

    Example:
        >>> import jax_dynrnn as rnn
        >>> mechanism = rnn.BahdanauAttention(8, normalize=True, memory_size=6)
        >>> cell = rnn.AttentionWrapper(rnn.GRUCell(8), mechanism)
    """

    NAME = "bahdanau_attention"

    _: dataclasses.KW_ONLY
    normalize: bool = False

    def init(self, key: jax.Array, query_size: int, dtype: DTypeLike) -> Params:
        units, params = self.num_units, super().init(key, query_size, dtype)
        query = self._kernel(jax.random.fold_in(key, 1), query_size, dtype)
        params["query_layer"] = {"kernel": query}
        params["attention_v"] = init_vector(
            self.kernel_initializer, glorot_uniform, jax.random.fold_in(key, 2), units, dtype
        )
        if self.normalize:
            params["attention_g"] = jnp.asarray(units**-0.5, dtype)
            params["attention_b"] = zeros(key, (units,), dtype)
        return params

    def prepare(self, params: Params) -> Params:
        if not self.normalize:
            return params
        # The length is computed in float32 for 16-bit params.
        v = widened(params["attention_v"])
        v = (v * jax.lax.rsqrt((v * v).sum())).astype(params["attention_v"].dtype)
        return {**params, "attention_v": params["attention_g"] * v}

    def score(self, params: Params, query: jax.Array, keys: jax.Array) -> jax.Array:
        query = matmul(query, params["query_layer"]["kernel"], "query")
        if self.normalize:
            query = query + along_last(params["attention_b"], query)
        hidden = jnp.tanh(keys + jnp.expand_dims(query, -2))
        return (along_last(params["attention_v"], hidden) * hidden).sum(-1)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class LuongAttention(Mechanism):
    """Multiplicative attention: `score_s = keys_s . y`, with `keys = memory W_m`.

    Args:
        num_units: size `U` of the keys, equal to the size of the cell's output.
        scale: whether the scores are multiplied by a learned `g`.
        memory_size: features `M` of the memory; `None`: `num_units`.
        kernel_initializer: `None` is Glorot's uniform.

    Params: `memory_layer/kernel` `[M, U]`, and with `scale` `attention_g` `[]`, initialised to 1.

    Raises:
        TypeError, ValueError: a size is not a positive int, or the cell's output has not
            `num_units` features.

    Differs from TF1: the memory is passed to `AttentionWrapper.attend`. `init` does not receive
    it, so its number of features is given here.

    Reference: `tf.contrib.seq2seq.LuongAttention`; Luong et al., arXiv:1508.04025.

    Example:
        >>> import jax_dynrnn as rnn
        >>> mechanism = rnn.LuongAttention(8, scale=True, memory_size=6)
        >>> cell = rnn.AttentionWrapper(rnn.GRUCell(8), mechanism)
    """

    NAME = "luong_attention"

    _: dataclasses.KW_ONLY
    scale: bool = False

    def init(self, key: jax.Array, query_size: int, dtype: DTypeLike) -> Params:
        if query_size != self.num_units:
            raise ValueError(
                f"LuongAttention: expected a cell with an output of num_units={self.num_units} "
                f"features, got {query_size}; BahdanauAttention takes any"
            )
        params = super().init(key, query_size, dtype)
        return params | ({"attention_g": jnp.ones((), dtype)} if self.scale else {})

    def score(self, params: Params, query: jax.Array, keys: jax.Array) -> jax.Array:
        scores = (keys * jnp.expand_dims(query, -2)).sum(-1)
        return params["attention_g"] * scores if self.scale else scores
