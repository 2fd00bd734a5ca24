"""What `beam_search` is made of: a cell on beams, and the choice of the best sequences.

`B` is the batch size, `K` the beam's width, `L` the most ids, `V` the number of ids.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ._cell import Cell, Params, State, take_step
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


def first_beams(shape: tuple[int, int], most: int, end: Any) -> Beams:
    """One empty sequence in each row `[B, K]`, and no others: all would be the same."""
    zeros, one = jnp.zeros(shape, jnp.int32), jnp.arange(shape[1]) == 0
    probability = jnp.where(one, 0.0, -jnp.inf).astype(jnp.result_type(float))
    probability = jnp.broadcast_to(probability, shape)
    ids = jnp.full((*shape, most), end, jnp.int32)
    return Beams(ids, zeros, zeros > 0, probability, probability)


def extended(
    beams: Beams, of_next: jax.Array, end: Any, penalty: Any, time: Any
) -> tuple[jax.Array, jax.Array, Beams]:
    """The best sequences with one id more -> `(parents, their last ids, beams)`.

    `of_next` `[B, K, V]` are log-probabilities. A sequence that has ended can only be given
    another end, at the log-probability 0.
    """
    is_end = jnp.arange(of_next.shape[-1], dtype=jnp.int32) == end
    only_end = jnp.where(is_end, 0.0, -jnp.inf).astype(of_next.dtype)
    only_end = jnp.broadcast_to(only_end, of_next.shape)
    ended = jnp.broadcast_to(jnp.expand_dims(beams.finished, -1), of_next.shape)
    total = jnp.expand_dims(beams.probability, -1)
    total = total + jnp.where(ended, only_end, of_next).astype(total.dtype)
    longer = ~(ended | jnp.broadcast_to(is_end, of_next.shape))
    lengths = jnp.expand_dims(beams.lengths, -1) + longer.astype(jnp.int32)
    score = total / ((5 + lengths.astype(total.dtype)) / 6) ** jnp.asarray(penalty, total.dtype)

    flat = lambda x: x.reshape(x.shape[0], -1)  # noqa: E731
    scores, best = jax.lax.top_k(flat(score), of_next.shape[1])
    parents, last = best // of_next.shape[-1], (best % of_next.shape[-1]).astype(jnp.int32)
    now = jnp.arange(beams.ids.shape[-1], dtype=jnp.int32) == time
    now = jnp.broadcast_to(now, beams.ids.shape)
    new = Beams(
        jnp.where(now, jnp.expand_dims(last, -1), choose(beams.ids, parents)),
        choose(flat(lengths), best),
        choose(beams.finished, parents) | (last == end),
        choose(flat(total), best),
        scores,
    )
    return parents, last, new


def choose(x: jax.Array, index: jax.Array) -> jax.Array:
    """`[B, N, ...]` at `index` `[B, K]` -> `[B, K, ...]`."""
    return take_steps(x, index, 1)


class OnBeams(Cell):
    """A cell on `[B, K, ...]`: inputs and states have a beam axis, params and memory none."""

    def __init__(self, cell: Cell, width: int):
        self.cell, self.width = cell, width
        self.init, self.prepare, self.project = cell.init, cell.prepare, self._project

    @property
    def feature_ndim(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.cell.feature_ndim + 1

    def spread(self, state: State) -> State:
        """The state of every beam, from that of every row."""

        def leaf(x):
            x = jnp.asarray(x)
            return jnp.repeat(jnp.expand_dims(x, 1), self.width, 1) if x.ndim else x

        return jax.tree.map(leaf, state)

    def start(self, params: Params, batch_shape: Any, dtype: Any) -> State:
        return self.spread(self.cell.start(params, batch_shape, dtype))

    def _project(self, params: Params, inputs: Any) -> Any:
        return jax.vmap(lambda x: self.cell.project(params, x), 1, 1)(inputs)

    def step(
        self, params: Params, projected: Any, state: State, *, key: Any = None
    ) -> tuple[Any, State]:
        axes = jax.tree.map(lambda x: 1 if x.ndim else None, state)
        one = lambda projected, state: take_step(self.cell, params, projected, state, key=key)  # noqa: E731
        return jax.vmap(one, (1, axes), (1, axes))(projected, state)

    def __repr__(self):
        return repr(self.cell)
