"""Decoding, in which a cell receives its own choices as inputs: greedy decoding and beam search.

Both are loops of `raw_rnn`. `B` is the batch size, `K` the beam width, `L` the maximum length,
`V` the number of ids.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable
from typing import Any

import jax
import jax.core
import jax.numpy as jnp

from . import _check_data
from ._adapter import as_cell
from ._arguments import explained
from ._beam import OnBeams, extended, first_beams, gather_beams
from ._cell import Cell, Params, State
from ._check_cell import relabel_errors
from ._features import feature_ndims
from ._protocol import call_back, structure
from ._raw import raw_rnn
from ._tools import widened
from ._types import CellLike, Index, PyTree
from .sequence import sequence_mask

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
        return jnp.repeat(x, multiplier, 0) if x.ndim else x

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
    """Generates the most likely id at every step, until it is `end`. Call it under `jax.jit`.

    Outside of `jax.jit` every call traces and compiles the loop again, which can take seconds:
    JAX's cache does not recognise `embed` and `logits` from an earlier call.

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
    maximum_iterations = _check_data.count("maximum_iterations", maximum_iterations, least=0)
    batch, end = _check_ids_and_state(start, end, initial_state)
    embed, logits = _checked_functions(as_cell(cell), embed, logits, batch, end)
    first = jnp.broadcast_to(jnp.asarray(start, jnp.int32), (batch,))
    zeros = jnp.zeros(batch, jnp.int32)

    def loop_fn(time, output, state, loop_state):
        if output is None:
            return zeros > 0, embed(first), initial_state, jnp.int32(0), (zeros > 0, zeros)
        finished, lengths = loop_state
        ids = jnp.argmax(logits(output), -1).astype(jnp.int32)
        continues = ~finished & (ids != end)
        loop_state = (~continues, lengths + continues.astype(jnp.int32))
        return ~continues, embed(ids), state, ids, loop_state

    with relabel_errors("greedy_decode" + ORDER, **LABELS):
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
    maximum_iterations: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Searches for the `beam_width` best sequences of each row. Call it under `jax.jit`.

    At every step the `beam_width` sequences with the highest scores are selected from all that
    extend those of the step before by one id. Outside of `jax.jit` every call is compiled again,
    as for `greedy_decode`.

        score = log-probability / ((5 + length) / 6) ** length_penalty

    where the length does not count the end id. A finished sequence is not extended.

    Args:
        cell, params, embed, logits, start, end, initial_state, maximum_iterations: as in
            `greedy_decode`; nothing is tiled.
        beam_width: the number `K` of sequences in each row.
        length_penalty: 0 prefers short sequences, larger numbers longer ones. The order is right
            even if the dtype cannot represent the scores, which then are 0 or `-inf`.

    Returns:
        `(ids int32 [B, K, L], lengths int32 [B, K], scores [B, K])`, the best first; ids are
        `end` from the first `end` on. If there are fewer than `K` sequences, the scores of the
        other slots are `-inf` and their lengths 0.

    Raises:
        TypeError, ValueError: an argument, or a result of a function, has another type or shape,
            or `length_penalty` is not finite.

    Differs from TF1: ids are `[B, K, L]`, nothing is tiled, and the length never counts the end id.
    TF1 counts it from the step after the one that adds it, as long as any row of the batch is not
    finished: with a penalty the scores of a row, and sometimes its best sequence, then depend on
    the other rows.

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
    _check_penalty(length_penalty)
    batch, end = _check_ids_and_state(start, end, initial_state)
    embed, logits = _checked_functions(as_cell(cell), embed, logits, batch, end)
    # The user's functions are written for `[B, ...]`; the beam axis is axis 1.
    embed, logits = jax.vmap(embed, 1, 1), jax.vmap(logits, 1, 1)
    on_beams, shape = OnBeams(as_cell(cell), beam_width), (batch, beam_width)
    # The result is in the loop state; `raw_rnn` has to emit something, and gets zeros.
    none_finished, emit_spec = jnp.zeros(batch, bool), jnp.int32(0)

    def loop_fn(time, output, state, beams):
        if output is None:
            first = jnp.expand_dims(jnp.asarray(start, jnp.int32), -1)
            inputs = embed(jnp.broadcast_to(first, shape))
            beams = first_beams(shape, maximum_iterations, end)
            return none_finished, inputs, on_beams.repeat(initial_state), emit_spec, beams
        # Logits in 16 bits are widened: their log-probabilities are summed over all steps.
        log_probs = jax.nn.log_softmax(widened(logits(output)), -1)
        parents, ids, beams = extended(beams, log_probs, end, length_penalty, time - 1)
        state = jax.tree.map(lambda x: gather_beams(x, parents) if x.ndim else x, state)
        finished = (beams.finished | jnp.isneginf(beams.probability)).all(1)
        return finished, embed(ids), state, jnp.zeros(batch, jnp.int32), beams

    with relabel_errors("beam_search" + ORDER, **LABELS):
        *_, beams = raw_rnn(on_beams, params, loop_fn, maximum_iterations=maximum_iterations)
    exists = ~jnp.isneginf(beams.probability)
    ids = jnp.where(jnp.expand_dims(exists, -1), beams.ids, end)
    return ids, jnp.where(exists, beams.lengths, 0), beams.scores


LARGEST_PENALTY = 1e30
"""Above it the product with the logarithm of a length may be infinite in float32."""


def _check_penalty(penalty: Any) -> None:
    """Checks that `length_penalty` is one number, and its value unless it is traced."""
    if not hasattr(penalty, "__float__") or jnp.ndim(penalty):
        raise TypeError(f"length_penalty: expected one number, got {penalty!r}")
    if isinstance(penalty, jax.core.Tracer):
        return
    if not abs(float(penalty)) <= LARGEST_PENALTY:  # so written, NaN is refused too
        raise ValueError(
            f"length_penalty: expected a number in [-{LARGEST_PENALTY:g}, {LARGEST_PENALTY:g}], "
            f"got {penalty!r}"
        )


def _check_ids_and_state(start: Index, end: Index, initial_state: State) -> tuple[int, Any]:
    """Checks both ids and the state -> `(batch size, end)`; `end` is an int unless it is traced."""
    for name, value in (("start", start), ("end", end)):
        dtype = _check_data.of_numbers(name, value).dtype
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
    except jax.errors.JAXTypeError:  # a traced end
        return batch, jnp.asarray(end, jnp.int32)


def _checked_functions(
    cell: Cell, embed: Callable[..., Any], logits: Callable[..., Any], batch: int, end: Index
) -> tuple[Any, ...]:
    """`embed` and `logits` with checks of the arrays that they return."""
    for name, given, hint in (
        ("embed", embed, "lambda ids: table[ids]"),
        ("logits", logits, "lambda output: output @ kernel"),
    ):
        if not callable(given):
            raise TypeError(
                f"{name}: expected a function, as in {hint}, got {type(given).__name__}"
            )

    def checked_embed(ids):
        inputs = call_back("embed", embed, "ids", ids)
        inputs = _as_arrays("embed", inputs)
        ndims = feature_ndims(cell.feature_ndim, inputs, where="embed: inputs")
        ranks = jax.tree.map(lambda n: 1 + n, ndims)
        leaves = jax.tree.leaves(inputs)
        if jax.tree.map(jnp.ndim, inputs) != ranks or any(x.shape[0] != batch for x in leaves):
            raise ValueError(
                f"embed: expected it to return inputs [{batch}, ...] of rank {ranks} for {cell!r}, "
                f"got shape {jax.tree.map(jnp.shape, inputs)}"
            )
        return inputs

    def checked_logits(output):
        scores = call_back("logits", logits, "output", output)
        shape = jax.tree.map(jnp.shape, scores)
        if not hasattr(scores, "shape") or len(shape) != 2 or shape[0] != batch:
            raise ValueError(f"logits: expected it to return [{batch}, V], got shape {shape}")
        if not jnp.issubdtype(scores.dtype, jnp.floating):
            raise TypeError(f"logits: expected it to return floating numbers, got {scores.dtype}")
        # The number of ids is known only now.
        if isinstance(end, int) and not 0 <= end < shape[1]:
            raise ValueError(f"end: expected an id below {shape[1]}, got {end}")
        return scores

    return checked_embed, checked_logits
