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
from ._types import DTypeLike, Key
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

    def memory(self, values: Any, length: Any, mask: Any = None) -> Memory:
        """Checks a memory `[B, S, M]`, its lengths and its mask, and returns them as a `Memory`.

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
        if mask is not None:
            mask = _checked_mask(mask, values.shape[:-1])
        if length is None:
            return Memory(values, None, mask)
        length, (*batch, slots, _) = _check_data.integers(length, "memory_length"), values.shape
        expected = f"memory_length: expected integers of shape {tuple(batch)}, one for each row, "
        if tuple(length.shape) != tuple(batch):
            raise ValueError(f"{expected}got shape {tuple(length.shape)}")
        if not jnp.issubdtype(length.dtype, jnp.integer):
            raise TypeError(f"{expected}got dtype {length.dtype}")
        if batch:
            _check_data.known_values("memory_length", length, slots, "slots of the memory")
        return Memory(values, as_lengths(length, slots), mask)

    def attended(self, params: Params, memory: Memory) -> Attended:
        """Computes the keys and values of a memory."""
        values, valid = memory.values, valid_slots(memory)
        if valid is not None:
            # Before the matmul: NaN in the padding then reaches neither the keys nor gradients.
            # 0.0 and not 0: jax2onnx promotes float32 and int32 to float64.
            values = jnp.where(jnp.expand_dims(valid, -1), values, 0.0)
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

    def first(self, batch_shape: tuple[Any, ...], slots: int, dtype: DTypeLike) -> jax.Array:
        """Returns the alignments before the first step, `[*batch_shape, slots]`."""
        return jnp.zeros((*batch_shape, slots), dtype)

    def weights(
        self,
        params: Params,
        scores: jax.Array,
        valid: jax.Array | None,
        previous: jax.Array | None,
    ) -> jax.Array:
        """Computes the alignments from the scores, all `[..., S]`; 0 in slots that are not valid.

        `previous` are the alignments of the step before, those of `first` at the first step.
        """
        del params, previous
        if valid is None:
            return jax.nn.softmax(scores, -1)
        # Not -inf: the softmax of a row that is all -inf (a memory of length 0) is NaN.
        lowest = jnp.finfo(scores.dtype).min
        alignments = jax.nn.softmax(jnp.where(valid, scores, lowest), -1)
        # The softmax of such a row is now uniform.
        return jnp.where(valid, alignments, 0.0)

    def __call__(
        self,
        params: Params,
        query: jax.Array,
        attended: Attended,
        previous: jax.Array | None = None,
        *,
        key: Key = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Attends to a memory -> `(context [..., M], alignments [..., S])`.

        `previous` are the alignments of the step before. `key` is for noise, if there is any. Both
        results are 0 for a memory without a valid slot.
        """
        scores = self._noisy(self.score(params, query, attended.keys), key)
        alignments = self.weights(params, scores, attended.valid, previous)
        return (jnp.expand_dims(alignments, -1) * attended.values).sum(-2), alignments

    def _noisy(self, scores: jax.Array, key: Key) -> jax.Array:
        """The scores, with noise in a run with a key."""
        del key
        return scores


def valid_slots(memory: Memory) -> jax.Array | None:
    """bool `[B, S]`: the slots that both the lengths and the mask allow; `None`: all."""
    values, length = memory.values, memory.length
    if length is None:
        return memory.mask
    slots = jnp.arange(values.shape[-2], dtype=length.dtype)
    inside = along_last(slots, values[..., 0]) < jnp.expand_dims(length, -1)
    return inside if memory.mask is None else inside & memory.mask


def _checked_mask(mask: Any, shape: tuple[int, ...]) -> jax.Array:
    """The mask of a memory as an array, after checking its shape and dtype."""
    mask = jnp.asarray(_check_data.array("memory_mask", mask))
    expected = f"memory_mask: expected bool of shape {shape}, one flag for each slot, got "
    if mask.dtype != bool:
        raise TypeError(f"{expected}dtype {mask.dtype}")
    if mask.shape != shape:
        raise ValueError(f"{expected}shape {mask.shape}")
    return mask


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


MODES = "parallel", "recursive", "hard"


@dataclasses.dataclass(frozen=True)
class _Monotonic(Mechanism):
    """What monotonic attention adds to a mechanism: each step moves on from the one before."""

    _: dataclasses.KW_ONLY
    sigmoid_noise: float = 0.0
    score_bias_init: float = 0.0
    mode: str = "parallel"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mode not in MODES:
            raise ValueError(
                f"{type(self).__name__}: expected mode to be one of "
                f"{', '.join(map(repr, MODES))}, got {self.mode!r}"
            )
        if not 0 <= self.sigmoid_noise < float("inf"):
            raise ValueError(
                f"{type(self).__name__}: expected sigmoid_noise >= 0, got {self.sigmoid_noise!r}"
            )

    def init(self, key: jax.Array, query_size: int, dtype: DTypeLike) -> Params:
        params = super().init(key, query_size, dtype)
        return params | {"attention_score_bias": jnp.asarray(self.score_bias_init, dtype)}

    def first(self, batch_shape: tuple[Any, ...], slots: int, dtype: DTypeLike) -> jax.Array:
        first = (jnp.arange(slots) == 0).astype(dtype)
        return jnp.broadcast_to(first, (*batch_shape, slots))

    def score(self, params: Params, query: jax.Array, keys: jax.Array) -> jax.Array:
        return super().score(params, query, keys) + params["attention_score_bias"]

    def _noisy(self, scores: jax.Array, key: Key) -> jax.Array:
        if key is None or not self.sigmoid_noise:
            return scores
        noise = jax.random.normal(key, scores.shape, scores.dtype)
        return scores + jnp.asarray(self.sigmoid_noise, scores.dtype) * noise

    def weights(
        self,
        params: Params,
        scores: jax.Array,
        valid: jax.Array | None,
        previous: jax.Array | None,
    ) -> jax.Array:
        del params
        if previous is None:
            raise TypeError(
                f"{type(self).__name__}: expected the alignments of the step before, got None; "
                "first(batch_shape, slots, dtype) returns those before the first step"
            )
        is_hard = self.mode == "hard"
        stops = (scores > 0).astype(scores.dtype) if is_hard else jax.nn.sigmoid(scores)
        if valid is not None:
            stops = jnp.where(valid, stops, 0.0)
        if is_hard:
            stops = stops * jnp.cumsum(previous, axis=-1)
            return stops * _exclusive(jnp.cumprod(1 - stops, axis=-1), 1)
        if self.mode == "recursive":
            # q_s = (1 - p_{s-1}) q_{s-1} + previous_s, a linear recurrence over the slots.
            passed = _exclusive(1 - stops, 1)
            _, arrived = jax.lax.associative_scan(_compose, (passed, previous), axis=-1)
            return stops * arrived
        tiny = float(jnp.finfo(stops.dtype).tiny)
        least = max(1e-10, tiny)  # which float16 cannot represent
        logs = jnp.log(jnp.clip(1 - stops, tiny, 1))
        passed = jnp.exp(_exclusive(jnp.cumsum(logs, axis=-1), 0))
        return stops * passed * jnp.cumsum(previous / jnp.clip(passed, least, 1), axis=-1)


def _exclusive(x: jax.Array, first: float) -> jax.Array:
    """`x` moved by one slot: `first` in slot 0, and the last one dropped."""
    padding = [(0, 0)] * (x.ndim - 1) + [(1, 0)]
    return jnp.pad(x, padding, constant_values=first)[..., : x.shape[-1]]


def _compose(earlier: tuple[Any, Any], later: tuple[Any, Any]) -> tuple[Any, Any]:
    """The maps `q -> a q + b` of two stretches of slots, as one."""
    (a, b), (c, d) = earlier, later
    return a * c, c * b + d


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class BahdanauMonotonicAttention(_Monotonic, BahdanauAttention):
    """Additive attention that moves over the memory in one direction.

        e_s      = v . tanh(keys_s + y W_q) + r,  or normalised as in `BahdanauAttention`
        p_s      = sigmoid(e_s)                          # the probability to stop at slot s
        weight_s = p_s q_s,  q_s = (1 - p_{s-1}) q_{s-1} + previous_s

    where `previous` are the weights of the step before; before the first step, slot 0 has weight 1.
    The weights of a step sum up to at most 1.

    Args:
        num_units: size `U` of keys and queries.
        normalize: whether `v` has a learned length `g`.
        sigmoid_noise: the standard deviation of the noise that is added to `e` in a run with a
            key, which makes the model learn to decide.
        score_bias_init: initial value of `r`; a negative one makes a stop less likely.
        mode: how the recurrence is computed. `"recursive"`: as above. `"parallel"`: by products
            and sums over all slots, which is faster and loses precision where some `p_s` is near
            1. `"hard"`: `p_s` is 1 where `e_s > 0`, else 0; for evaluation only, as it has no
            gradient.
        memory_size, kernel_initializer: as in `BahdanauAttention`.

    Params: those of `BahdanauAttention`, and `attention_score_bias` `[]`.

    Raises:
        TypeError, ValueError: a size is not a positive int, or an option has another value.

    Differs from TF1: as `BahdanauAttention`; noise is drawn from the key of a run, and a run
    without a key has none.

    Reference: `tf.contrib.seq2seq.BahdanauMonotonicAttention`; Raffel et al., arXiv:1704.00784.

    Example:
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> mechanism = rnn.BahdanauMonotonicAttention(8, memory_size=6, mode="recursive")
        >>> cell = rnn.AttentionWrapper(rnn.GRUCell(8), mechanism, alignment_history=True)
        >>> params = cell.init(jax.random.key(0), (2, 5, 3))
        >>> params = cell.attend(params, jnp.ones((2, 7, 6)))
        >>> (outputs, weights), _ = rnn.dynamic_rnn(cell, params, jnp.ones((2, 5, 3)))
        >>> weights.shape, bool((weights.sum(-1) <= 1).all())
        ((2, 5, 7), True)
    """

    NAME = "bahdanau_monotonic_attention"


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class LuongMonotonicAttention(_Monotonic, LuongAttention):
    """Multiplicative attention that moves over the memory in one direction.

        e_s = keys_s . y + r,  or with `scale` g keys_s . y + r

    and all else as in `BahdanauMonotonicAttention`.

    Args:
        num_units: size `U` of the keys, equal to the size of the cell's output.
        scale: whether the scores are multiplied by a learned `g`.
        sigmoid_noise, score_bias_init, mode: as in `BahdanauMonotonicAttention`.
        memory_size, kernel_initializer: as in `LuongAttention`.

    Params: those of `LuongAttention`, and `attention_score_bias` `[]`.

    Raises:
        TypeError, ValueError: a size is not a positive int, an option has another value, or the
            cell's output does not have `num_units` features.

    Differs from TF1: as `BahdanauMonotonicAttention`.

    Reference: `tf.contrib.seq2seq.LuongMonotonicAttention`; Raffel et al., arXiv:1704.00784.

    Example:
        >>> import jax_dynrnn as rnn
        >>> mechanism = rnn.LuongMonotonicAttention(8, scale=True, mode="hard")
        >>> cell = rnn.AttentionWrapper(rnn.GRUCell(8), mechanism)
    """

    NAME = "luong_monotonic_attention"
