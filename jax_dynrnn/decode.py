"""Sequences out of a cell that is fed its own choices: the best next id, or a beam of them.

Both are loops of `raw_rnn`. `B` is the batch size, `K` the beam's width, `L` the most ids,
`V` the number of ids that there are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from . import _check_data
from ._cell import Cell, Params, State, as_cell
from ._raw import raw_rnn
from ._tools import widened
from .sequence import sequence_mask


def tile_batch(tree: Any, multiplier: int) -> Any:
    """Repeats every row: `[B, ...]` -> `[B * multiplier, ...]`, the copies of a row adjacent.

    Args:
        tree: pytree of arrays; a rank-0 leaf, which the batch shares, stays as it is.
        multiplier: how often, an int of at least 1.

    `beam_search` needs no tiled memory or state: it has a beam axis of its own.

    Reference: `tf.contrib.seq2seq.tile_batch`.

    Example:
        >>> import jax.numpy as jnp, jax_dynrnn as rnn
        >>> rnn.tile_batch(jnp.array([1, 2]), 3).tolist()
        [1, 1, 1, 2, 2, 2]
    """
    _check_data.count("multiplier", multiplier, least=1)

    def repeat(x):
        x = jnp.asarray(x)
        return jnp.repeat(x, multiplier, 0) if x.ndim else x

    return jax.tree.map(repeat, tree)


def greedy_decode(
    cell: Any,
    params: Params,
    embed: Callable,
    logits: Callable,
    start: Any,
    end: int,
    initial_state: State,
    *,
    maximum_iterations: int,
) -> tuple[jax.Array, jax.Array, State]:
    """Feeds a cell the id that it finds most likely, until that is `end`.

    Args:
        cell: the cell to run.
        params: its params (with its memory, for an `AttentionWrapper`: see `attend`).
        embed: `ids [B] -> inputs [B, ...]` of the cell.
        logits: `output -> [B, V]`, the logits of the next id.
        start: the first id, an int for all rows or `[B]`.
        end: the id that ends a row.
        initial_state: where to begin; its leaves have the batch first.
        maximum_iterations: the most steps `L`, and the length of the result.

    Returns:
        `(ids int32 [B, L], lengths int32 [B], state)`: the ids up to the first `end`, which the
        length does not count, and `end` from there on; the state after the step that gave it.

    Raises:
        TypeError, ValueError: what is given or returned has another type or shape.

    Reference: `GreedyEmbeddingHelper`, `BasicDecoder` and `dynamic_decode` of
    `tf.contrib.seq2seq`.

    Example: a cell that counts down from its state, and ends with 0
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> cell = rnn.BasicRNNCell(1, activation=lambda x: x - 1)
        >>> params = {"kernel": jnp.array([[0.0], [1.0]]), "bias": jnp.zeros(1)}
        >>> ids, lengths, _ = rnn.greedy_decode(
        ...     cell, params, lambda ids: jnp.ones((2, 1)),
        ...     lambda output: jax.nn.one_hot(output[:, 0].astype(int), 5),
        ...     start=4, end=0, initial_state=jnp.array([[4.0], [2.0]]), maximum_iterations=5)
        >>> ids.tolist(), lengths.tolist()
        ([[3, 2, 1, 0, 0], [1, 0, 0, 0, 0]], [3, 1])
    """
    batch, end = _checked(start, end, initial_state)
    first = jnp.broadcast_to(jnp.asarray(start, jnp.int32), (batch,))
    zeros = jnp.zeros(batch, jnp.int32)

    def loop_fn(time, output, state, loop_state):
        if output is None:
            return zeros > 0, embed(first), initial_state, jnp.int32(0), (zeros > 0, zeros)
        finished, lengths = loop_state
        ids = jnp.argmax(_scores(logits(output), batch, end), -1).astype(jnp.int32)
        going_on = ~finished & (ids != end)
        loop_state = (~going_on, lengths + going_on.astype(jnp.int32))
        return ~going_on, embed(ids), state, ids, loop_state

    emitted, state, (_, lengths) = raw_rnn(
        cell, params, loop_fn, maximum_iterations=maximum_iterations
    )
    chosen = sequence_mask(lengths, maximum_iterations)
    return jnp.where(chosen, emitted.stack().T, end), lengths, state


def beam_search(
    cell: Any,
    params: Params,
    embed: Callable,
    logits: Callable,
    start: Any,
    end: int,
    initial_state: State,
    *,
    beam_width: int,
    length_penalty: float = 0.0,
    maximum_iterations: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Keeps the `beam_width` best sequences of each row at every step.

        score = log-probability / ((5 + length) / 6) ** length_penalty

    where the length does not count the end id. A sequence that has ended stays as it is.

    Args:
        cell, params, embed, logits, start, end, initial_state, maximum_iterations: as in
            `greedy_decode`; nothing is tiled.
        beam_width: the number `K` of sequences kept.
        length_penalty: 0 prefers short sequences, larger numbers longer ones.

    Returns:
        `(ids int32 [B, K, L], lengths int32 [B, K], scores [B, K])`, the best first; ids are
        `end` from the first one on. Where there are fewer than `K` sequences the score is
        `-inf`.

    Raises:
        TypeError, ValueError: what is given or returned has another type or shape.

    Reference: `tf.contrib.seq2seq.BeamSearchDecoder`; Wu et al., arXiv:1609.08144.

    Example: of two ids, 0 ends; one of three sequences begins with 1
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> cell = rnn.BasicRNNCell(1)
        >>> params = cell.init(jax.random.key(0), (1, 1))
        >>> ids, lengths, scores = rnn.beam_search(
        ...     cell, params, lambda ids: jnp.zeros((1, 1)),
        ...     lambda output: jnp.log(jnp.array([[0.25, 0.75]])),
        ...     start=1, end=0, initial_state=cell.zero_state(1), beam_width=3,
        ...     maximum_iterations=2)
        >>> ids.tolist(), [round(p, 4) for p in jnp.exp(scores[0]).tolist()]
        ([[[1, 1], [0, 0], [1, 0]]], [0.5625, 0.25, 0.1875])
    """
    _check_data.count("beam_width", beam_width, least=1)
    batch, end = _checked(start, end, initial_state)
    beams = _Beams(as_cell(cell), beam_width)
    shape = (batch, beam_width)
    first = jnp.broadcast_to(jnp.expand_dims(jnp.asarray(start, jnp.int32), -1), shape)
    embed_all, logits_all = jax.vmap(embed, 1, 1), jax.vmap(logits, 1, 1)

    def begin():
        zeros = jnp.zeros(shape, jnp.int32)
        ids = jnp.full((*shape, maximum_iterations), end, jnp.int32)
        probability = jnp.where(jnp.arange(beam_width) == 0, 0.0, -jnp.inf)  # one sequence: none
        probability = jnp.broadcast_to(probability.astype(jnp.result_type(float)), shape)
        loop_state = (ids, zeros, zeros > 0, probability, probability)
        return jnp.zeros(batch, bool), embed_all(first), beams.spread(initial_state), loop_state

    def loop_fn(time, output, state, loop_state):
        nothing = jnp.int32(0)
        if output is None:
            finished, inputs, state, loop_state = begin()
            return finished, inputs, state, nothing, loop_state
        of_next = jax.nn.log_softmax(widened(_scores(logits_all(output), shape, end)), -1)
        parents, ids, loop_state = _extend(of_next, end, length_penalty, time - 1, loop_state)
        _, _, finished, probability, _ = loop_state
        state = jax.tree.map(lambda x: _choose(x, parents) if x.ndim else x, state)
        over = (finished | jnp.isneginf(probability)).all(1)
        return over, embed_all(ids), state, jnp.zeros(batch, jnp.int32), loop_state

    _, _, (ids, lengths, _, _, scores) = raw_rnn(
        beams, params, loop_fn, maximum_iterations=maximum_iterations
    )
    return ids, lengths, scores


def _extend(of_next: Any, end: int, penalty: float, time: Any, loop_state: Any) -> tuple:
    """The best sequences that are one id longer -> `(parents, their last ids, loop_state)`."""
    ids, lengths, finished, probability, _ = loop_state
    vocabulary, is_end = of_next.shape[-1], jnp.arange(of_next.shape[-1]) == end
    only_end = jnp.where(is_end, 0.0, -jnp.inf).astype(of_next.dtype)
    only_end = jnp.broadcast_to(only_end, of_next.shape)
    ended = jnp.broadcast_to(jnp.expand_dims(finished, -1), of_next.shape)
    of_next = jnp.where(ended, only_end, of_next).astype(probability.dtype)
    total = jnp.expand_dims(probability, -1) + of_next
    longer = ~(ended | jnp.broadcast_to(is_end, of_next.shape))
    new_lengths = jnp.expand_dims(lengths, -1) + longer.astype(jnp.int32)
    score = total / ((5 + new_lengths.astype(total.dtype)) / 6) ** penalty

    def flat(x):
        return x.reshape(x.shape[0], -1)

    scores, best = jax.lax.top_k(flat(score), lengths.shape[1])
    parents, last = best // vocabulary, (best % vocabulary).astype(jnp.int32)
    loop_state = (
        _choose(ids, parents).at[..., time].set(last),
        _choose(flat(new_lengths), best),
        _choose(finished, parents) | (last == end),
        _choose(flat(total), best),
        scores,
    )
    return parents, last, loop_state


def _choose(x: jax.Array, index: jax.Array) -> jax.Array:
    """`[B, N, ...]` at `index` `[B, K]` -> `[B, K, ...]`."""
    index = jnp.expand_dims(index, tuple(range(2, x.ndim)))
    return jnp.take_along_axis(x, index, 1)


class _Beams(Cell):
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
        one = lambda projected, state: self.cell.step(params, projected, state, key=key)  # noqa: E731
        return jax.vmap(one, (1, axes), (1, axes))(projected, state)

    def __repr__(self):
        return repr(self.cell)


def _checked(start: Any, end: Any, initial_state: State) -> tuple[int, Any]:
    """The batch size, and the end as an int where it is known, after checking the ids."""
    for name, value in (("start", start), ("end", end)):
        dtype = jnp.asarray(value).dtype
        if not jnp.issubdtype(dtype, jnp.integer):
            raise TypeError(f"{name}: expected an id, an integer, got {dtype}")
    if jnp.ndim(end):
        raise ValueError(f"end: expected one id for all rows, got shape {jnp.shape(end)}")
    sizes = {jnp.shape(x)[0] for x in jax.tree.leaves(initial_state) if jnp.ndim(x)}
    if len(sizes) != 1:
        raise ValueError(
            "initial_state: expected arrays with the batch as their first axis, got sizes "
            f"{sorted(sizes)}; begin at cell.start(params, (batch,), dtype)"
        )
    (batch,) = sizes
    if jnp.shape(start) not in ((), (batch,)):
        raise ValueError(
            f"start: expected one id, or one for each of {batch} rows, got shape {jnp.shape(start)}"
        )
    try:
        return batch, int(end)
    except jax.errors.JAXTypeError:  # it is traced
        return batch, jnp.asarray(end, jnp.int32)


def _scores(logits: Any, rows: Any, end: int) -> jax.Array:
    """What `logits` returned, checked."""
    shape = (rows,) if isinstance(rows, int) else rows
    if jnp.ndim(logits) != len(shape) + 1 or logits.shape[0] != shape[0]:
        got = (shape[0], *logits.shape[2:]) if len(shape) == 2 else jnp.shape(logits)
        raise ValueError(f"logits: expected it to return [{shape[0]}, V], got shape {got}")
    if isinstance(end, int) and not 0 <= end < logits.shape[-1]:
        raise ValueError(f"end: expected an id below {logits.shape[-1]}, got {end}")
    return logits
