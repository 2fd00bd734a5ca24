"""Beam search with a trained model: the pronunciations of 2,000 words, beams of 4, on a CPU.

    python -m benchmarks.beams            # two minutes
    python -m benchmarks.beams --short    # 100 words: tests that everything works
    python -m benchmarks.beams --report   # the row of earlier results

The model is that of examples/port_tf1_g2p.py: a GRU with attention, 20 steps at most. TensorFlow
2.21 has no beam search (that of TF1 and of TensorFlow Addons ended with them), so the peer is the
loop that JAX users write: everything repeated for each beam, a `while_loop`, and `top_k` of all
continuations. Both find the same pronunciations.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

import jax_dynrnn as rnn

from . import command
from .timing import rounds, seconds

EXAMPLES = Path(__file__).parents[1] / "examples"
WIDTH, BATCH = 4, 100


def ours(g2p: Any, params: Any, letters: jax.Array, lengths: jax.Array) -> Any:
    """Ids of the best beam of each word, their number, and their scores."""
    attended = g2p.DECODER.attend(params["decoder"], g2p.memory(params, letters, lengths), lengths)
    start = g2p.DECODER.start(attended, len(letters), jnp.float32)
    ids, count, scores = rnn.beam_search(
        g2p.DECODER, attended, g2p.EMBED, lambda y: g2p.logits(params, y), g2p.PAD, g2p.END, start,
        beam_width=WIDTH, maximum_iterations=g2p.MOST,
    )  # fmt: skip
    return ids[:, 0], count[:, 0], scores[:, 0]


def plain(g2p: Any, params: Any, letters: jax.Array, lengths: jax.Array) -> Any:
    """The same by a loop over words times beams."""
    cell, words, rows = g2p.DECODER, len(letters), len(letters) * WIDTH
    memory, sizes = (
        jnp.repeat(x, WIDTH, 0) for x in (g2p.memory(params, letters, lengths), lengths)
    )
    attended = cell.attend(params["decoder"], memory, sizes)
    prepared = cell.prepare(attended, batch_shape=(rows,))
    is_end = jnp.arange(len(g2p.PHONES)) == g2p.END

    def body(loop):
        t, ids, state, sequences, scores, finished = loop
        output, state = cell.step(prepared, cell.project(prepared, g2p.EMBED(ids)), state)
        log_probs = jax.nn.log_softmax(g2p.logits(params, output))
        log_probs = jnp.where(finished[:, None], jnp.where(is_end, 0.0, -jnp.inf), log_probs)
        every = (scores[:, None] + log_probs).reshape(words, -1)
        scores, index = jax.lax.top_k(every, WIDTH)
        parents, ids = jnp.divmod(index, len(g2p.PHONES))
        parents = (parents + WIDTH * jnp.arange(words)[:, None]).reshape(-1)
        ids = ids.reshape(-1)
        state = jax.tree.map(lambda x: x[parents] if x.ndim else x, state)
        sequences = sequences[parents].at[:, t].set(ids)
        finished = finished[parents] | (ids == g2p.END)
        return t + 1, ids, state, sequences, scores.reshape(-1), finished

    first = jnp.tile(jnp.where(jnp.arange(WIDTH) == 0, 0.0, -jnp.inf), words)
    loop = (
        0,
        jnp.full(rows, g2p.PAD),
        cell.start(attended, rows, jnp.float32),
        jnp.full((rows, g2p.MOST), g2p.END),
        first,
        jnp.zeros(rows, bool),
    )
    *_, sequences, scores, _ = jax.lax.while_loop(
        lambda loop: (loop[0] < g2p.MOST) & ~loop[-1].all(), body, loop
    )
    best = sequences.reshape(words, WIDTH, -1)[:, 0]
    return best, (jnp.cumsum(best == g2p.END, 1) == 0).sum(1), scores.reshape(words, WIDTH)[:, 0]


class Timed:
    """All batches of words by one compiled search, with the interface of `timing.rounds`."""

    def __init__(self, search: Any, g2p: Any, params: Any, batches: list[Any]):
        self.program = jax.jit(lambda *given: search(g2p, params, *given)).lower(*batches[0])
        self.program, self.batches = self.program.compile(), batches

    def forward(self) -> Any:
        return jax.block_until_ready([self.program(*batch) for batch in self.batches])

    def seconds(self, what: str) -> float:
        return seconds(self, what)


def rows(short: bool) -> Iterator[dict[str, Any]]:
    """The times of both searches, after a check that they find the same: one row."""
    number, count = (100, 2) if short else (2000, 10)
    sys.path.insert(0, str(EXAMPLES))
    import port_tf1_g2p as g2p

    params = g2p.load()
    words = np.random.default_rng(0).choice(sorted(g2p.dictionary()), number, replace=False)
    batches = [g2p.encoded(words[i : i + BATCH].tolist()) for i in range(0, number, BATCH)]
    searches = {
        name: Timed(search, g2p, params, batches)
        for name, search in tqdm({"ours": ours, "plain loop": plain}.items(), "compile")
    }
    found = {name: search.forward() for name, search in searches.items()}
    equal = 0
    for (ids, _, scores), (theirs, _, expected) in zip(*found.values(), strict=True):
        np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4)
        equal += int((ids == theirs).all(1).sum())
    assert equal >= 0.999 * number, f"{number - equal} of {number} pronunciations differ"
    timers = {name: search.seconds for name, search in searches.items()}
    yield {
        "words": number, "beams": WIDTH, "batch": BATCH, "equal": equal,
        "forward": rounds(timers, "forward", count),
    }  # fmt: skip


def table(measured: dict[str, Any]) -> str:
    (row,) = measured["rows"]
    about = measured["machine"]
    ms = {name: x["median"] for name, x in row["forward"].items()}
    return (
        f"{about['processor']}, {about['cores']} cores, {about['date']}\n"
        f"{row['words']} words, {row['beams']} beams, batches of {row['batch']}: ours "
        f"{ms['ours']:.4g} ms, a plain loop {ms['plain loop']:.4g} ms, "
        f"{ms['plain loop'] / ms['ours']:.2f} times ours; {row['equal']} pronunciations are equal"
    )


if __name__ == "__main__":
    command.run("beams", __doc__, rows, table)
