"""Decoding, in which a cell receives its own choices as inputs: greedy, sampling, beam search.

All are loops of `raw_rnn`. `B` is the batch size, `K` the beam width, `L` the maximum length,
`V` the number of ids.
"""

from __future__ import annotations

import dataclasses
import functools
import numbers
from collections.abc import Callable
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from . import _check_data
from ._adapter import as_cell
from ._arguments import explained
from ._beam import OnBeams, Scoring, extended, first_beams, gather_beams
from ._cell import Cell, Params, State
from ._check_cell import relabel_errors
from ._features import feature_ndims
from ._memoize import run_compiled
from ._protocol import call_back, structure
from ._raw import raw_rnn
from ._rnn import dynamic_rnn
from ._tools import widened
from ._types import CellLike, Index, PyTree, Size
from .engines.devices import row_sharding, with_rows_over
from .sequence import sequence_mask
from .wrappers import AttentionWrapper

ORDER = "(cell, params, embed, logits, start, end, initial_state)"
LABELS = {"next_cell_state": "initial_state", "loop_fn": "a step of the cell, or embed"}
"""What the user passed for the arguments of `raw_rnn`: its errors are relabelled."""


@explained
def tile_batch(tree: PyTree, multiplier: int) -> Any:
    """Repeats every row: `[B, ...]` -> `[B * multiplier, ...]`, with the copies of a row adjacent.

    Args:
        tree: pytree of arrays; a rank-0 leaf, which the batch shares, is not repeated.
        multiplier: the number of copies, an int of at least 1.

    `beam_search` needs no tiled memory or state: it has a beam axis of its own.

    Returns:
        The pytree of `[B * multiplier, ...]`.

    Raises:
        TypeError, ValueError: `multiplier` is not an int of at least 1, or all leaves are Python
            numbers.

    Reference: `tf.contrib.seq2seq.tile_batch`.

    Example:
        >>> import jax.numpy as jnp, jax_dynrnn as rnn
        >>> rnn.tile_batch(jnp.array([1, 2]), 3).tolist()
        [1, 1, 1, 2, 2, 2]
    """
    multiplier = _check_data.count("multiplier", multiplier, least=1)
    leaves = jax.tree.leaves(tree)
    # A list of numbers is a pytree of rank-0 leaves, none of which would be repeated.
    if leaves and all(isinstance(x, numbers.Number) for x in leaves):
        raise ValueError(
            f"tree: expected arrays with the batch as their first axis, got {structure(tree)}; "
            "JAX takes a list as a pytree of its items, and jnp.asarray(x) makes an array of it"
        )

    def repeat(x):
        if not x.ndim:
            return x
        # Not `jnp.repeat`, which refuses rows that are explicitly sharded.
        copies = jnp.broadcast_to(jnp.expand_dims(x, 1), (x.shape[0], multiplier, *x.shape[1:]))
        return copies.reshape(-1, *x.shape[1:])

    return jax.tree.map(repeat, _as_arrays("tree", tree))


def _as_arrays(where: str, tree: PyTree) -> Any:
    """A pytree of numbers as JAX arrays."""

    def as_array(x):
        return jnp.asarray(_check_data.of_numbers(where, x))

    return jax.tree.map(as_array, tree)


@explained
def greedy_decode(
    cell: CellLike,
    params: Params,
    embed: Callable[..., Any],
    logits: Callable[..., Any],
    start: Index,
    end: int,
    initial_state: State,
    *,
    maximum_iterations: int,
) -> tuple[jax.Array, jax.Array, State]:
    """Generates the most likely id at every step, until it is `end`.

    Call it under `jax.jit`. An eager call traces and compiles the loop each time, which can take
    seconds: plain functions may read variables that have changed. Eager calls share a compiled
    program if `embed` and `logits` cannot: `jax.tree_util.Partial(jnp.take, table, axis=0)`, which
    holds its arrays, or jitted functions, for which JAX reads such variables once.

    Args:
        cell: the cell to run.
        params: its params (with its memory, for an `AttentionWrapper`: see `attend`).
        embed: `ids [B] -> inputs [B, ...]` of the cell.
        logits: `output -> [B, V]`, the logits of the next id.
        start: the first id, an int for all rows or `[B]`.
        end: the id that ends a row.
        initial_state: the initial state; its leaves have the batch as their first axis.
        maximum_iterations: the maximum number of steps `L`, and the length of the result.

    Returns:
        `(ids int32 [B, L], lengths int32 [B], state)`: the ids, which are `end` from the first
        `end` on, the number of ids before that, and the state after the step that generated it.

    Raises:
        TypeError, ValueError: an argument, or a result of a function, has another type or shape.

    Differs from TF1: lengths do not count the end id, and `maximum_iterations` is required, since
    it is the size of the result.

    Reference: `GreedyEmbeddingHelper`, `BasicDecoder` and `dynamic_decode` of
    `tf.contrib.seq2seq`.

    Example: a cell that counts down from its state, and ends with 0
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> cell = rnn.BasicRNNCell(1, activation=lambda x: x - 1)
        >>> params = {"kernel": jnp.array([[0.0], [1.0]]), "bias": jnp.zeros(1)}
        >>> @jax.jit
        ... def decode(params, state):
        ...     return rnn.greedy_decode(
        ...         cell, params, lambda ids: jnp.ones((2, 1)),
        ...         lambda output: jax.nn.one_hot(output[:, 0].astype(int), 5),
        ...         start=4, end=0, initial_state=state, maximum_iterations=5)
        >>> ids, lengths, _ = decode(params, jnp.array([[4.0], [2.0]]))
        >>> ids.tolist(), lengths.tolist()
        ([[3, 2, 1, 0, 0], [1, 0, 0, 0, 0]], [3, 1])
    """

    given = cell, params, embed, logits, start, end, initial_state
    return _decode("greedy_decode", _most_likely, *given, maximum_iterations, ())


@explained
def sample_decode(
    cell: CellLike,
    params: Params,
    embed: Callable[..., Any],
    logits: Callable[..., Any],
    start: Index,
    end: int,
    initial_state: State,
    *,
    maximum_iterations: int,
    key: jax.Array,
    temperature: float | jax.Array = 1.0,
) -> tuple[jax.Array, jax.Array, State]:
    """Draws an id at every step, until it is `end`.

    Call it under `jax.jit`: an eager call traces and compiles the loop each time, as one of
    `greedy_decode` does.

        P(id) = softmax(logits / temperature)

    Args:
        cell, params, embed, logits, start, end, initial_state, maximum_iterations: as in
            `greedy_decode`.
        key: the key of all draws; step t draws with `fold_in(key, t)`.
        temperature: a positive number. Below 1, likely ids are drawn more often; in the limit of 0
            this is `greedy_decode`.

    Returns:
        `(ids int32 [B, L], lengths int32 [B], state)`, as `greedy_decode`.

    Raises:
        TypeError, ValueError: an argument, or a result of a function, has another type or shape,
            or `temperature` is not positive.

    Differs from TF1: as `greedy_decode`; a key in place of a seed.

    Reference: `SampleEmbeddingHelper` of `tf.contrib.seq2seq`.

    Example: a fair coin, in which 0 ends
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> cell = rnn.BasicRNNCell(1)
        >>> params = cell.init(jax.random.key(0), (1, 1))
        >>> @jax.jit
        ... def draw(key):
        ...     return rnn.sample_decode(
        ...         cell, params, lambda ids: jnp.zeros((2000, 1)),
        ...         lambda output: jnp.zeros((2000, 2)), start=1, end=0,
        ...         initial_state=cell.zero_state(2000), maximum_iterations=20, key=key)
        >>> ids, lengths, _ = draw(jax.random.key(1))
        >>> ids.shape, bool(abs(lengths.mean() - 1) < 0.2)
        ((2000, 20), True)
    """
    _check_data.one_key(key)
    if key is None:
        raise TypeError("key: expected a key, such as jax.random.key(0), got None")
    _check_temperature(temperature)

    given = cell, params, embed, logits, start, end, initial_state
    drawn = key, jnp.asarray(temperature)
    return _decode("sample_decode", _draw, *given, maximum_iterations, drawn)


def _most_likely(logits: jax.Array, step: Size) -> jax.Array:
    del step
    return jnp.argmax(logits, -1)


def _draw(logits: jax.Array, step: Size, key: jax.Array, temperature: jax.Array) -> jax.Array:
    wide = widened(logits)
    wide = wide / temperature.astype(wide.dtype)
    return jax.random.categorical(jax.random.fold_in(key, step), wide)


def _decode(
    name: str,
    choose: Callable[..., Any],
    cell: CellLike,
    params: Params,
    embed: Callable[..., Any],
    logits: Callable[..., Any],
    start: Index,
    end: Index,
    initial_state: State,
    maximum_iterations: int,
    drawn: tuple[Any, ...],
) -> tuple[jax.Array, jax.Array, State]:
    """Runs the loop of the function `name`; `choose(logits, step, *drawn)` returns the next ids."""
    maximum_iterations = _check_data.count("maximum_iterations", maximum_iterations, least=0)
    batch, end = _check_ids_and_state(start, end, initial_state)
    _check_functions(embed, logits)
    options = name, choose, batch, end, maximum_iterations
    arrays = params, start, initial_state, drawn
    return run_compiled(_decoding_loop, as_cell(cell), options, (embed, logits), arrays)


def _decoding_loop(
    cell: Cell,
    name: str,
    choose: Callable[..., Any],
    batch: int,
    end: Index,
    maximum_iterations: int,
    embed: Callable[..., Any],
    logits: Callable[..., Any],
    params: Params,
    start: Index,
    initial_state: State,
    drawn: tuple[Any, ...],
) -> tuple[jax.Array, jax.Array, State]:
    embed, logits = _checked_functions(cell, embed, logits, batch, end)
    first = jnp.broadcast_to(jnp.asarray(start, jnp.int32), (batch,))
    zeros = jnp.zeros(batch, jnp.int32)

    def loop_fn(time, output, state, loop_state):
        if output is None:
            return zeros > 0, embed(first), initial_state, jnp.int32(0), (zeros > 0, zeros)
        finished, lengths = loop_state
        ids = choose(logits(output), time - 1, *drawn).astype(jnp.int32)
        continues = ~finished & (ids != end)
        loop_state = (~continues, lengths + continues.astype(jnp.int32))
        return ~continues, embed(ids), state, ids, loop_state

    with relabel_errors(name + ORDER, **LABELS):
        emitted, state, (_, lengths) = raw_rnn(
            cell, params, loop_fn, maximum_iterations=maximum_iterations
        )
    # `raw_rnn` emits 0 after the end of a row, which may be an id: it is replaced by `end`.
    before_end = sequence_mask(lengths, maximum_iterations)
    return jnp.where(before_end, emitted.stack().T, end), lengths, state


@explained
def beam_search(
    cell: CellLike,
    params: Params,
    embed: Callable[..., Any],
    logits: Callable[..., Any],
    start: Index,
    end: int,
    initial_state: State,
    *,
    beam_width: int,
    length_penalty: float = 0.0,
    coverage_penalty_weight: float = 0.0,
    score_fn: Callable[..., Any] | None = None,
    maximum_iterations: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Searches for the `beam_width` best sequences of each row.

    Call it under `jax.jit`: an eager call traces and compiles the loop each time, as one of
    `greedy_decode` does.

    At every step the `beam_width` sequences with the highest scores are selected from all that
    extend those of the step before by one id.

        score    = log-probability / ((5 + length) / 6) ** length_penalty
        score   += coverage_penalty_weight * sum over slots of log(min(coverage, 1))

    where the length does not count the end id. The second line applies to finished sequences only;
    the coverage of a slot of the memory is the sum of its alignments over all steps. A finished
    sequence is not extended.

    Args:
        cell, params, embed, logits, start, end, initial_state, maximum_iterations: as in
            `greedy_decode`; nothing is tiled.
        beam_width: the number `K` of sequences in each row.
        length_penalty: 0 prefers short sequences, larger numbers longer ones. The order is right
            even if the dtype cannot represent the scores, which then are 0 or `-inf`.
        coverage_penalty_weight: larger numbers prefer sequences that attend to the whole memory;
            `cell` must be an `AttentionWrapper`. Slots that are not valid do not count.
        score_fn: `score_fn(log_probs, lengths, coverage) -> scores`, in place of both penalties: of
            `[B, N]`, `[B, N]` and `[B, N, S]` (`None` if `cell` is not an `AttentionWrapper`). It
            must increase with `log_probs`.

    Returns:
        `(ids int32 [B, K, L], lengths int32 [B, K], scores [B, K])`, the best first; ids are
        `end` from the first `end` on. If there are fewer than `K` sequences, the scores of the
        other slots are `-inf` and their lengths 0.

    Raises:
        TypeError, ValueError: an argument, or a result of a function, has another type or shape,
            or a penalty is not finite; a coverage penalty for a cell that is not
            an `AttentionWrapper`; `score_fn` beside a penalty.

    Differs from TF1: ids are `[B, K, L]`, nothing is tiled, and the length never counts the end id.
    TF1 counts it from the step after the one that adds it, as long as any row of the batch is not
    finished: with a penalty the scores of a row, and sometimes its best sequence, then depend on
    the other rows. The coverage penalty applies from the step that ends a sequence; TF1's applies
    from the step after it, and is `-inf` if a slot of the memory is padding.

    Reference: `tf.contrib.seq2seq.BeamSearchDecoder`; Wu et al., arXiv:1609.08144.

    Example: of two ids, 0 ends; one of three sequences begins with 1
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> cell = rnn.BasicRNNCell(1)
        >>> params = cell.init(jax.random.key(0), (1, 1))
        >>> @jax.jit
        ... def search(params, state):
        ...     return rnn.beam_search(
        ...         cell, params, lambda ids: jnp.zeros((1, 1)),
        ...         lambda output: jnp.log(jnp.array([[0.25, 0.75]])),
        ...         start=1, end=0, initial_state=state, beam_width=3, maximum_iterations=2)
        >>> ids, lengths, scores = search(params, cell.zero_state(1))
        >>> ids.tolist(), [round(p, 4) for p in jnp.exp(scores[0]).tolist()]
        ([[[1, 1], [0, 0], [1, 0]]], [0.5625, 0.25, 0.1875])
    """
    beam_width = _check_data.count("beam_width", beam_width, least=1)
    maximum_iterations = _check_data.count("maximum_iterations", maximum_iterations, least=0)
    cell, penalties = as_cell(cell), (length_penalty, coverage_penalty_weight)
    _check_scoring(cell, penalties, score_fn)
    batch, end = _check_ids_and_state(start, end, initial_state)
    _check_functions(embed, logits)
    options = batch, beam_width, end, maximum_iterations, penalties
    arrays = params, start, initial_state
    return run_compiled(_beam_loop, cell, options, (embed, logits, score_fn), arrays)


def _beam_loop(
    cell: Cell,
    batch: int,
    beam_width: int,
    end: Index,
    maximum_iterations: int,
    penalties: tuple[Any, Any],
    embed: Callable[..., Any],
    logits: Callable[..., Any],
    score_fn: Callable[..., Any] | None,
    params: Params,
    start: Index,
    initial_state: State,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    scoring = _scoring(cell, params, penalties, score_fn)
    embed, logits = _checked_functions(cell, embed, logits, batch, end)
    # The user's functions are written for `[B, ...]`; the beam axis is axis 1.
    embed, logits = jax.vmap(embed, 1, 1), jax.vmap(logits, 1, 1)
    on_beams, shape = OnBeams(cell, beam_width), (batch, beam_width)
    is_scored_by_it = scoring.score_fn is not None or scoring.coverage_weight is not None
    needs_coverage = is_scored_by_it and isinstance(cell, AttentionWrapper)
    # The result is in the loop state; `raw_rnn` has to emit something, and gets zeros.
    none_finished, emit_spec = jnp.zeros(batch, bool), jnp.int32(0)

    def loop_fn(time, output, state, beams):
        if output is None:
            first = jnp.expand_dims(jnp.asarray(start, jnp.int32), -1)
            inputs = embed(jnp.broadcast_to(first, shape))
            state = on_beams.repeat(initial_state)
            coverage = jnp.zeros_like(_alignments(state)) if needs_coverage else None
            beams = first_beams(shape, maximum_iterations, end, coverage)
            beams = with_rows_over(beams, row_sharding(state))
            return none_finished, inputs, state, emit_spec, beams
        # Logits in 16 bits are widened: their log-probabilities are summed over all steps.
        log_probs = jax.nn.log_softmax(widened(logits(output)), -1)
        alignments = _alignments(state) if needs_coverage else None
        parents, ids, beams = extended(beams, log_probs, alignments, end, scoring, time - 1)
        state = jax.tree.map(lambda x: gather_beams(x, parents) if x.ndim else x, state)
        finished = (beams.finished | jnp.isneginf(beams.probability)).all(1)
        return finished, embed(ids), state, jnp.zeros(batch, jnp.int32), beams

    with relabel_errors("beam_search" + ORDER, **LABELS):
        *_, beams = raw_rnn(on_beams, params, loop_fn, maximum_iterations=maximum_iterations)
    exists = ~jnp.isneginf(beams.probability)
    ids = jnp.where(jnp.expand_dims(exists, -1), beams.ids, end)
    return ids, jnp.where(exists, beams.lengths, 0), beams.scores


@explained
def decode_alignments(
    cell: CellLike,
    params: Params,
    embed: Callable[..., Any],
    ids: jax.Array,
    lengths: jax.Array,
    start: Index,
    initial_state: State,
) -> Any:
    """Computes the alignments of sequences that were decoded, by running them again.

    An eager call is compiled each time, as one of `greedy_decode` is: call it under `jax.jit`.

    Args:
        cell: the `AttentionWrapper` that decoded.
        params, embed, start, initial_state: as they were given to the decoder.
        ids, lengths: what it returned: `[B, L]` and `[B]` of `greedy_decode` and `sample_decode`,
            `[B, K, L]` and `[B, K]` of `beam_search`.

    Returns:
        The alignments of each step, `[B, L, S]` or `[B, K, L, S]`, or a tuple of them for several
        mechanisms: those with which id t was chosen, up to and including the end id, 0 after it.

    Raises:
        TypeError, ValueError: the cell is not an `AttentionWrapper`, or an argument has another
            type or shape.

    Differs from TF1: there the alignments are collected while decoding, for beams by
    `gather_tree_from_array`.

    Reference: `alignment_history` of `tf.contrib.seq2seq.AttentionWrapper`.

    Example:
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> cell = rnn.AttentionWrapper(rnn.GRUCell(8), rnn.LuongAttention(8))
        >>> params = cell.attend(cell.init(jax.random.key(0), (2, 5, 3)), jnp.ones((2, 7, 8)))
        >>> state, table = cell.start(params, (2,), jnp.float32), jnp.ones((4, 3))
        >>> @jax.jit
        ... def search(params, state):
        ...     embed = lambda ids: table[ids]
        ...     ids, lengths, _ = rnn.beam_search(
        ...         cell, params, embed, lambda output: output[:, :4], 1, 0, state,
        ...         beam_width=3, maximum_iterations=6)
        ...     return rnn.decode_alignments(cell, params, embed, ids, lengths, 1, state)
        >>> search(params, state).shape
        (2, 3, 6, 7)
    """
    wrapper = as_cell(cell)
    if not isinstance(wrapper, AttentionWrapper):
        raise TypeError(f"cell: expected an AttentionWrapper, which has alignments, got {cell!r}")
    batch, _ = _check_ids_and_state(start, 0, initial_state)
    ids, lengths = (
        jnp.asarray(_check_data.integers(x, name))
        for name, x in (("ids", ids), ("lengths", lengths))
    )
    if ids.ndim not in (2, 3) or ids.shape[0] != batch or lengths.shape != ids.shape[:-1]:
        raise ValueError(
            f"ids: expected [{batch}, L] with lengths [{batch}], or [{batch}, K, L] with lengths "
            f"[{batch}, K], got shapes {ids.shape} and {lengths.shape}"
        )
    with_history = dataclasses.replace(wrapper, alignment_history=True)
    arrays = params, ids, lengths, start, initial_state
    return run_compiled(_alignments_of, with_history, (batch,), (embed,), arrays)


def _alignments_of(
    cell: AttentionWrapper,
    batch: int,
    embed: Callable[..., Any],
    params: Params,
    ids: jax.Array,
    lengths: jax.Array,
    start: Index,
    initial_state: State,
) -> Any:
    first = jnp.expand_dims(jnp.broadcast_to(jnp.asarray(start, ids.dtype), (batch,)), 1)

    def run(ids, lengths):
        is_first = jnp.expand_dims(jnp.arange(ids.shape[1]) == 0, 0)
        given = jnp.where(is_first, first, jnp.roll(ids, 1, 1))
        inputs = jax.vmap(embed, 1, 1)(given)
        # The step that chose the end id is the last one.
        steps = jnp.minimum(lengths + 1, ids.shape[1])
        (_, alignments), _ = dynamic_rnn(cell, params, inputs, steps, initial_state)
        return alignments

    return run(ids, lengths) if ids.ndim == 2 else jax.vmap(run, 1, 1)(ids, lengths)


def _alignments(state: State) -> jax.Array:
    """The alignments in the state of an `AttentionWrapper`; of several mechanisms side by side."""
    return jnp.concatenate(jax.tree.leaves(state.alignments), -1)


LARGEST_PENALTY = 1e30
"""Above it the product with the logarithm of a length may be infinite in float32."""


def _check_penalty(name: str, penalty: Any) -> None:
    """Checks that a penalty is one number, and its value unless it is traced."""
    _check_number(name, penalty)
    if isinstance(penalty, jax.core.Tracer):
        return
    if not abs(float(penalty)) <= LARGEST_PENALTY:  # so written, NaN is refused too
        raise ValueError(
            f"{name}: expected a number in [-{LARGEST_PENALTY:g}, {LARGEST_PENALTY:g}], "
            f"got {penalty!r}"
        )


def _check_number(name: str, x: Any) -> None:
    if not hasattr(x, "__float__") or np.ndim(x):
        raise TypeError(f"{name}: expected one number, got {x!r}")


def _check_temperature(temperature: Any) -> None:
    _check_number("temperature", temperature)
    if isinstance(temperature, jax.core.Tracer):
        return
    if not 0 < float(temperature) < float("inf"):
        raise ValueError(
            f"temperature: expected a positive number, got {temperature!r}; greedy_decode is the "
            "limit of 0"
        )


def _check_scoring(cell: Cell, penalties: tuple[Any, Any], score_fn: Any) -> None:
    """Checks the options that say how sequences are scored."""
    length_penalty, coverage_weight = penalties
    _check_penalty("length_penalty", length_penalty)
    _check_penalty("coverage_penalty_weight", coverage_weight)
    if score_fn is not None:
        if not callable(score_fn):
            raise TypeError(
                "score_fn: expected a function (log_probs, lengths, coverage) -> scores, got "
                f"{type(score_fn).__name__}"
            )
        if _may_differ_from_0(coverage_weight) or _may_differ_from_0(length_penalty):
            raise ValueError(
                "score_fn: expected no length_penalty and no coverage_penalty_weight beside it, "
                "since it computes the whole score"
            )
    elif _may_differ_from_0(coverage_weight) and not isinstance(cell, AttentionWrapper):
        raise ValueError(
            "coverage_penalty_weight: expected an AttentionWrapper, whose alignments it sums up, "
            f"got {cell!r}"
        )


def _may_differ_from_0(x: Any) -> bool:
    return isinstance(x, jax.core.Tracer) or float(x) != 0


def _scoring(
    cell: Cell, params: Params, penalties: tuple[Any, Any], score_fn: Callable[..., Any] | None
) -> Scoring:
    """How sequences are scored, by options that were checked."""
    length_penalty, coverage_weight = penalties
    if score_fn is not None:
        return Scoring(score_fn=functools.partial(_checked_scores, score_fn))
    if not _may_differ_from_0(coverage_weight):
        return Scoring(length_penalty)
    assert isinstance(cell, AttentionWrapper)
    return Scoring(length_penalty, coverage_weight, None, cell.valid_slots(params))


def _checked_scores(
    score_fn: Callable[..., Any], log_probs: jax.Array, lengths: jax.Array, coverage: Any
) -> jax.Array:
    given = log_probs, lengths, coverage
    scores = call_back("score_fn", score_fn, "log_probs, lengths, coverage", *given)
    scores = jnp.asarray(_check_data.array("score_fn", scores))
    if scores.shape != log_probs.shape or not jnp.issubdtype(scores.dtype, jnp.floating):
        raise ValueError(
            f"score_fn: expected it to return floating numbers {list(log_probs.shape)}, got "
            f"{scores.dtype}{list(scores.shape)}"
        )
    return scores.astype(log_probs.dtype)


def _check_ids_and_state(start: Index, end: Index, initial_state: State) -> tuple[int, Any]:
    """Checks both ids and the state -> `(batch size, end)`; `end` is an int unless it is traced."""
    for name, value in (("start", start), ("end", end)):
        dtype = _check_data.of_numbers(name, value).dtype
        if not jnp.issubdtype(dtype, jnp.integer):
            raise TypeError(f"{name}: expected an id, an integer, got {dtype}")
    if np.ndim(end):
        raise ValueError(f"end: expected one id for all rows, got shape {np.shape(end)}")
    sizes = {np.shape(x)[0] for x in jax.tree.leaves(initial_state) if np.ndim(x)}
    if len(sizes) != 1:
        raise ValueError(
            "initial_state: expected arrays with the batch as their first axis, got sizes "
            f"{sorted(sizes)}; begin at cell.start(params, (batch,), dtype)"
        )
    (batch,) = sizes
    if np.shape(start) not in ((), (batch,)):
        raise ValueError(
            f"start: expected one id, or one for each of {batch} rows, got shape {np.shape(start)}"
        )
    try:
        return batch, int(end)
    except jax.errors.JAXTypeError:  # a traced end
        return batch, jnp.asarray(end, jnp.int32)


def _check_functions(embed: object, logits: object) -> None:
    for name, given, hint in (
        ("embed", embed, "lambda ids: table[ids]"),
        ("logits", logits, "lambda output: output @ kernel"),
    ):
        if not callable(given):
            raise TypeError(
                f"{name}: expected a function, as in {hint}, got {type(given).__name__}"
            )


def _checked_functions(
    cell: Cell, embed: Callable[..., Any], logits: Callable[..., Any], batch: int, end: Index
) -> tuple[Any, ...]:
    """`embed` and `logits` with checks of the arrays that they return."""

    def checked_embed(ids):
        inputs = call_back("embed", embed, "ids", ids)
        inputs = _as_arrays("embed", inputs)
        ndims = feature_ndims(cell.feature_ndim, inputs, where="embed: inputs")
        ranks = jax.tree.map(lambda n: 1 + n, ndims)
        leaves = jax.tree.leaves(inputs)
        if jax.tree.map(np.ndim, inputs) != ranks or any(x.shape[0] != batch for x in leaves):
            raise ValueError(
                f"embed: expected it to return inputs [{batch}, ...] of rank {ranks} for {cell!r}, "
                f"got shape {jax.tree.map(np.shape, inputs)}"
            )
        return inputs

    def checked_logits(output):
        scores = call_back("logits", logits, "output", output)
        shape = jax.tree.map(np.shape, scores)
        if not hasattr(scores, "shape") or len(shape) != 2 or shape[0] != batch:
            raise ValueError(f"logits: expected it to return [{batch}, V], got shape {shape}")
        if not jnp.issubdtype(scores.dtype, jnp.floating):
            raise TypeError(f"logits: expected it to return floating numbers, got {scores.dtype}")
        # The number of ids is known only now.
        if isinstance(end, int) and not 0 <= end < shape[1]:
            raise ValueError(f"end: expected an id below {shape[1]}, got {end}")
        return scores

    return checked_embed, checked_logits
