"""The parts of `beam_search`: selection of the best sequences, and a cell with a beam axis.

`B` is the batch size, `K` the beam width, `L` the maximum length, `V` the number of ids.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ._cell import Cell, Params, State, take_step
from ._types import BatchShape, DTypeLike, Index, Inputs, Key, Projected, Size
from .engines.devices import typed_as
from .sequence import take_steps


class Beams(NamedTuple):
    """The best sequences of every row so far, best first."""

    ids: jax.Array
    """int32 `[B, K, L]`, filled with the end id from the first end on."""
    lengths: jax.Array
    """int32 `[B, K]`, without the end id."""
    finished: jax.Array
    """bool `[B, K]`."""
    probability: jax.Array
    """Log-probabilities `[B, K]`; `-inf` marks a slot without a sequence."""
    scores: jax.Array
    """`[B, K]`."""
    coverage: jax.Array | None
    """`[B, K, S]`: the sum of the alignments of all steps, if the scores depend on it."""


class Scoring(NamedTuple):
    """How sequences are scored."""

    length_penalty: Any = 0.0
    coverage_weight: Any = None
    """`None`: there is no coverage penalty."""
    score_fn: Callable[..., Any] | None = None
    """The user's function, in place of both penalties."""
    valid: jax.Array | None = None
    """bool `[B, S]`: the valid slots of the memory; `None`: all are."""


def first_beams(
    shape: tuple[int, int], max_length: int, end: Index, coverage: jax.Array | None
) -> Beams:
    """The beams of shape `[B, K]` before the first step: one empty sequence in each row."""
    # All sequences are empty and so would tie: K of them would be extended to K equal ones.
    zeros, is_first = jnp.zeros(shape, jnp.int32), jnp.arange(shape[1]) == 0
    probability = jnp.where(is_first, 0.0, -jnp.inf).astype(jnp.result_type(float))
    probability = jnp.broadcast_to(probability, shape)
    ids = jnp.full((*shape, max_length), end, jnp.int32)
    return Beams(ids, zeros, zeros > 0, probability, probability, coverage)


def extended(
    beams: Beams,
    log_probs: jax.Array,
    alignments: jax.Array | None,
    end: Index,
    scoring: Scoring,
    time: Size,
) -> tuple[jax.Array, jax.Array, Beams]:
    """Extends every sequence by one id and selects the best -> `(parents, ids, beams)`.

    `log_probs` `[B, K, V]` are the log-probabilities of the next id, `alignments` `[B, K, S]`
    those of the step that computed them. `parents` are the beams that the new ones extend, `ids`
    the ids that they append.
    """
    coverage = beams.coverage
    if coverage is not None and alignments is not None:
        going = jnp.expand_dims(~beams.finished, -1)
        coverage = coverage + jnp.where(going, alignments.astype(coverage.dtype), 0)
    candidates = _candidates(beams, log_probs, end)
    scores, log_magnitudes = _scores(candidates, coverage, end, scoring)
    best = _best_indices(candidates, scores, log_magnitudes, beams.scores.shape[1])
    parents, ids, lengths, probability, scores = (
        gather_beams(x, best) for x in (*candidates, scores)
    )
    is_now = jnp.arange(beams.ids.shape[-1], dtype=jnp.int32) == time
    is_now = _broadcast(is_now, beams.ids)
    new = Beams(
        jnp.where(is_now, jnp.expand_dims(ids, -1), gather_beams(beams.ids, parents)),
        lengths,
        gather_beams(beams.finished, parents) | (ids == end),
        probability,
        scores,
        None if coverage is None else gather_beams(coverage, parents),
    )
    return parents, ids, new


class _Candidates(NamedTuple):
    """The `N` sequences of each row from which the next beams are selected, all `[B, N]`."""

    parents: jax.Array
    ids: jax.Array
    """The last id of each."""
    lengths: jax.Array
    probability: jax.Array


def _candidates(beams: Beams, log_probs: jax.Array, end: Index) -> _Candidates:
    """The candidates: from each beam, its K best continuations, and the sequence that ends here.

    A finished sequence has one continuation: another end, with log-probability 0.
    """
    (batch, width, size), dtype = log_probs.shape, beams.probability.dtype
    is_end = jnp.arange(size, dtype=jnp.int32) == end
    is_end = _broadcast(is_end, log_probs)
    finished = jnp.expand_dims(beams.finished, -1)
    continues = ~(is_end | _broadcast(finished, log_probs))
    log_prob_end = jnp.where(is_end, log_probs, -jnp.inf).max(-1, keepdims=True)
    log_prob_end = jnp.where(finished, jnp.zeros_like(log_prob_end), log_prob_end)
    # All continuations of a beam have the same length and coverage, so scores keep their order: the
    # best by probability suffice. The sequence that ends is shorter, and is a candidate of its own.
    log_probs = jnp.where(continues, log_probs, -jnp.inf)
    log_probs, ids = jax.lax.top_k(log_probs, min(width, size))
    end_ids = _broadcast(jnp.asarray(end, jnp.int32), finished)
    parents = jnp.expand_dims(jnp.arange(width, dtype=jnp.int32), (0, 2))
    log_probs = jnp.concatenate([log_probs, log_prob_end], -1).astype(dtype)
    is_longer = jnp.expand_dims(jnp.arange(log_probs.shape[-1]) < ids.shape[-1], (0, 1))
    found = (
        _broadcast(parents, log_probs),
        jnp.concatenate([ids.astype(jnp.int32), end_ids], -1),
        jnp.expand_dims(beams.lengths, -1) + is_longer.astype(jnp.int32),
        jnp.expand_dims(beams.probability, -1) + log_probs,
    )
    return _Candidates(*(x.reshape(batch, width * log_probs.shape[-1]) for x in found))


def _scores(
    candidates: _Candidates, coverage: jax.Array | None, end: Index, scoring: Scoring
) -> tuple[Any, Any]:
    """The scores, and what decides between equal ones."""
    probability, lengths = candidates.probability, candidates.lengths
    if scoring.score_fn is not None:
        of_each = None if coverage is None else gather_beams(coverage, candidates.parents)
        scores = scoring.score_fn(probability, lengths, of_each)
        return jnp.where(jnp.isneginf(probability), -jnp.inf, scores), jnp.zeros_like(scores)
    scores, log_magnitudes = _divided(probability, lengths, scoring.length_penalty)
    if coverage is not None:
        logs = jnp.log(jnp.clip(coverage, jnp.finfo(coverage.dtype).tiny, 1))
        if scoring.valid is not None:
            logs = jnp.where(jnp.expand_dims(scoring.valid, 1), logs, 0)
        weight = jnp.asarray(scoring.coverage_weight, probability.dtype)
        penalties = gather_beams(weight * logs.sum(-1).astype(weight.dtype), candidates.parents)
        scores = scores + jnp.where(candidates.ids == end, penalties, 0)
    return scores, log_magnitudes


def _divided(probability: jax.Array, lengths: jax.Array, penalty: Any) -> tuple[Any, ...]:
    """The scores, and `log(-score)`, which neither underflows nor overflows."""
    base = (5 + lengths.astype(probability.dtype)) / 6
    penalty, limits = jnp.asarray(penalty, probability.dtype), jnp.finfo(probability.dtype)
    divisor, log_divisor = base**penalty, penalty * jnp.log(base)
    # The dtype may represent a score although it cannot represent its divisor: then the score is
    # computed from logarithms. A log-probability of 0 or -inf is not changed by any divisor.
    representable = (divisor >= limits.tiny) & (divisor <= limits.max)
    divides = representable | (probability == 0) | jnp.isneginf(probability)
    # The branch that is not selected must have a finite derivative, or the gradient is NaN.
    finite = jnp.where(divides, -1, probability)
    scores = jnp.where(
        divides,
        probability / jnp.where(representable, divisor, 1),
        -jnp.exp(jnp.log(-finite) - log_divisor),
    )
    return scores, jnp.log(-probability) - log_divisor


def _best_indices(
    candidates: _Candidates, scores: jax.Array, log_magnitudes: jax.Array, width: int
) -> jax.Array:
    """The indices `[B, K]` of the candidates with the highest scores.

    Ties go to the first beam, then to the first id.
    """
    # NaN is ranked first: a NaN in the model should reach the result, not be hidden.
    negated = jnp.where(jnp.isnan(scores), -jnp.inf, -scores)
    index = _broadcast(jnp.arange(scores.shape[1], dtype=jnp.int32), scores)
    # With a large penalty different scores underflow to 0 or overflow. Their logarithms then
    # decide, and where these are so large that they round to one value, the probabilities.
    keys = (
        negated,
        log_magnitudes,
        -candidates.probability,
        candidates.parents,
        candidates.ids,
    )
    *_, order = jax.lax.sort((*jax.lax.stop_gradient(keys), index), dimension=1, num_keys=5)
    return order[:, :width]


def _broadcast(x: jax.Array, like: jax.Array) -> jax.Array:
    """`x` with the shape of another array, and with its sharding on an explicit mesh."""
    return typed_as(jnp.broadcast_to(x, like.shape), jax.typeof(like))


def gather_beams(x: jax.Array, index: jax.Array) -> jax.Array:
    """Gathers along axis 1: `x` `[B, N, ...]`, `index` `[B, K]` -> `[B, K, ...]`."""
    return take_steps(x, index, 1)


class OnBeams(Cell):
    """A cell that runs `cell` on inputs and states `[B, K, ...]`; params and memory have no K."""

    def __init__(self, cell: Cell, width: int):
        self.cell, self.width = cell, width
        self.init, self.prepare, self.project = cell.init, cell.prepare, self._project

    @property
    def feature_ndim(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        # The beam axis follows the batch axis, so it counts as a feature axis.
        return jax.tree.map(lambda n: n + 1, self.cell.feature_ndim)

    def repeat(self, state: State) -> State:
        """Repeats the state of each row for its beams: `[B, ...]` -> `[B, K, ...]`."""

        def repeat_leaf(x):
            x = jnp.asarray(x)
            # A rank-0 leaf is shared by the batch, and so by the beams.
            return jnp.repeat(jnp.expand_dims(x, 1), self.width, 1) if x.ndim else x

        return jax.tree.map(repeat_leaf, state)

    def start(self, params: Params, batch_shape: BatchShape, dtype: DTypeLike) -> State:
        return self.repeat(self.cell.start(params, batch_shape, dtype))

    def _project(self, params: Params, inputs: Inputs) -> Any:
        return jax.vmap(lambda x: self.cell.project(params, x), 1, 1)(inputs)

    def step(
        self, params: Params, projected: Projected, state: State, *, key: Key = None
    ) -> tuple[Any, State]:
        def step_of_beam(projected, state):
            return take_step(self.cell, params, projected, state, key=key)

        def beam_axis(x):
            return 1 if x.ndim else None

        axes = jax.tree.map(beam_axis, state)
        return jax.vmap(step_of_beam, (1, axes), (1, axes))(projected, state)

    def __repr__(self) -> str:
        return repr(self.cell)
