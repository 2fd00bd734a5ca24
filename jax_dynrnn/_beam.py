"""What `beam_search` is made of: a cell on beams, and the choice of the best sequences.

`B` is the batch size, `K` the beam's width, `L` the most ids, `V` the number of ids.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ._cell import Cell, Params, State, take_step
from ._types import BatchShape, DTypeLike, Index, Inputs, Key, Projected, Size
from .sequence import take_steps


class Beams(NamedTuple):
    """The sequences of every row, the best first."""

    ids: jax.Array
    """`[B, K, L]`, the end from the first one on."""
    lengths: jax.Array
    """`[B, K]`, which do not count the end."""
    finished: jax.Array
    """bool `[B, K]`."""
    probability: jax.Array
    """`[B, K]`, the logarithm; `-inf` where there is no sequence."""
    scores: jax.Array
    """`[B, K]`, that with the length penalty."""


def first_beams(shape: tuple[int, int], most: int, end: Index) -> Beams:
    """One empty sequence in each row `[B, K]`, and no others: all would be the same."""
    zeros, one = jnp.zeros(shape, jnp.int32), jnp.arange(shape[1]) == 0
    probability = jnp.where(one, 0.0, -jnp.inf).astype(jnp.result_type(float))
    probability = jnp.broadcast_to(probability, shape)
    ids = jnp.full((*shape, most), end, jnp.int32)
    return Beams(ids, zeros, zeros > 0, probability, probability)


def extended(
    beams: Beams, of_next: jax.Array, end: Index, penalty: Any, time: Size
) -> tuple[jax.Array, jax.Array, Beams]:
    """The best sequences with one id more -> `(parents, their last ids, beams)`.

    `of_next` `[B, K, V]` are log-probabilities.
    """
    found = _candidates(beams, of_next, end)
    scores, log_sizes = _scores(found.probability, found.lengths, penalty)
    best = _best(found, scores, log_sizes, beams.scores.shape[1])
    parents, ids, lengths, probability, scores = (choose(x, best) for x in (*found, scores))
    now = jnp.arange(beams.ids.shape[-1], dtype=jnp.int32) == time
    now = jnp.broadcast_to(now, beams.ids.shape)
    new = Beams(
        jnp.where(now, jnp.expand_dims(ids, -1), choose(beams.ids, parents)),
        lengths,
        choose(beams.finished, parents) | (ids == end),
        probability,
        scores,
    )
    return parents, ids, new


class _Candidates(NamedTuple):
    """Sequences to choose from, `[B, N]`."""

    parents: jax.Array
    ids: jax.Array
    """The last ones."""
    lengths: jax.Array
    probability: jax.Array


def _candidates(beams: Beams, of_next: jax.Array, end: Index) -> _Candidates:
    """Of each beam: the best that go on, and the one that ends.

    Those that go on have one length, so that their order is that of their probabilities. A
    sequence that has ended can only be given another end, at the log-probability 0.
    """
    (batch, width, size), dtype = of_next.shape, beams.probability.dtype
    is_end = jnp.arange(size, dtype=jnp.int32) == end
    is_end = jnp.broadcast_to(is_end, of_next.shape)
    ended = jnp.expand_dims(beams.finished, -1)
    goes_on = ~(is_end | jnp.broadcast_to(ended, of_next.shape))
    of_end = jnp.where(is_end, of_next, -jnp.inf).max(-1, keepdims=True)
    of_end = jnp.where(ended, jnp.zeros_like(of_end), of_end)
    longer, ids = jax.lax.top_k(jnp.where(goes_on, of_next, -jnp.inf), min(width, size))
    last = jnp.broadcast_to(jnp.asarray(end, jnp.int32), ended.shape)
    parents = jnp.expand_dims(jnp.arange(width, dtype=jnp.int32), (0, 2))
    of_next = jnp.concatenate([longer, of_end], -1).astype(dtype)
    more = jnp.expand_dims(jnp.arange(of_next.shape[-1]) < ids.shape[-1], (0, 1))
    found = (
        jnp.broadcast_to(parents, of_next.shape),
        jnp.concatenate([ids.astype(jnp.int32), last], -1),
        jnp.expand_dims(beams.lengths, -1) + more.astype(jnp.int32),
        jnp.expand_dims(beams.probability, -1) + of_next,
    )
    return _Candidates(*(x.reshape(batch, width * of_next.shape[-1]) for x in found))


def _scores(probability: jax.Array, lengths: jax.Array, penalty: Any) -> tuple[Any, ...]:
    """The scores, and `log(-score)`, which neither underflows nor overflows.

    A score may be held by the dtype though its divisor is not: then it comes from its logarithm.
    """
    base = (5 + lengths.astype(probability.dtype)) / 6
    penalty, limits = jnp.asarray(penalty, probability.dtype), jnp.finfo(probability.dtype)
    divisor, log_divisor = base**penalty, penalty * jnp.log(base)
    held = (divisor >= limits.tiny) & (divisor <= limits.max)
    divided = held | (probability == 0) | jnp.isneginf(probability)  # which no divisor changes
    # What is not selected must have a finite derivative, or the gradient is NaN.
    inside = jnp.where(divided, -1, probability)
    scores = jnp.where(
        divided,
        probability / jnp.where(held, divisor, 1),
        -jnp.exp(jnp.log(-inside) - log_divisor),
    )
    return scores, jnp.log(-probability) - log_divisor


def _best(found: _Candidates, scores: jax.Array, log_sizes: jax.Array, width: int) -> jax.Array:
    """The places of the best, `[B, K]`: by their scores.

    A large penalty makes scores 0 or infinite that differ: then by their logarithms, and where
    those are so large that they round to the same, by their probabilities. Ties go to the first
    beam and id.
    """
    first = jnp.where(jnp.isnan(scores), -jnp.inf, -scores)  # NaN is the best: it is not hidden
    place = jnp.broadcast_to(jnp.arange(scores.shape[1], dtype=jnp.int32), scores.shape)
    keys = (first, log_sizes, -found.probability, found.parents, found.ids)
    *_, order = jax.lax.sort((*jax.lax.stop_gradient(keys), place), dimension=1, num_keys=5)
    return order[:, :width]


def choose(x: jax.Array, index: jax.Array) -> jax.Array:
    """`[B, N, ...]` at `index` `[B, K]` -> `[B, K, ...]`."""
    return take_steps(x, index, 1)


class OnBeams(Cell):
    """A cell on `[B, K, ...]`: inputs and states have a beam axis, params and memory none."""

    def __init__(self, cell: Cell, width: int):
        self.cell, self.width = cell, width
        self.init, self.prepare, self.project = cell.init, cell.prepare, self._project

    @property
    def feature_ndim(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        return jax.tree.map(lambda n: n + 1, self.cell.feature_ndim)

    def spread(self, state: State) -> State:
        """The state of every beam, from that of every row."""

        def leaf(x):
            x = jnp.asarray(x)
            return jnp.repeat(jnp.expand_dims(x, 1), self.width, 1) if x.ndim else x

        return jax.tree.map(leaf, state)

    def start(self, params: Params, batch_shape: BatchShape, dtype: DTypeLike) -> State:
        return self.spread(self.cell.start(params, batch_shape, dtype))

    def _project(self, params: Params, inputs: Inputs) -> Any:
        return jax.vmap(lambda x: self.cell.project(params, x), 1, 1)(inputs)

    def step(
        self, params: Params, projected: Projected, state: State, *, key: Key = None
    ) -> tuple[Any, State]:
        axes = jax.tree.map(lambda x: 1 if x.ndim else None, state)
        one = lambda projected, state: take_step(self.cell, params, projected, state, key=key)  # noqa: E731
        return jax.vmap(one, (1, axes), (1, axes))(projected, state)

    def __repr__(self) -> str:
        return repr(self.cell)
