"""Eager calls of the decoders share a program only if it cannot compute with arrays of before."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from laws import close

import jax_dynrnn as rnn

B, V, U, END = 3, 5, 4, 2
RANDOM = np.random.default_rng(0)
CELL = rnn.AttentionWrapper(rnn.GRUCell(U), rnn.LuongAttention(U, memory_size=2))
PARAMS = CELL.attend(
    CELL.init(jax.random.key(0), (B, 2), jnp.float64), jnp.asarray(RANDOM.normal(size=(B, 3, 2)))
)
START = CELL.start(PARAMS, (B,), jnp.float64)
TABLE, KERNEL = RANDOM.normal(size=(2, V, 2)), 3 * RANDOM.normal(size=(2, 2, V))
TRACED = []


def embed(table, ids):
    TRACED.append("embed")
    return table[ids]


def logits(kernel, output):
    TRACED.append("logits")
    return output @ kernel


def by_length(log_probs, lengths, coverage):
    return log_probs / (1 + lengths).astype(log_probs.dtype)


def beams(*given, score_fn=None, **options):
    return rnn.beam_search(*given, beam_width=3, score_fn=score_fn, **options)


def greedy_alignments(cell, params, embed, logits, start, end, state, **options):
    given = cell, params, embed, logits, start, end, state
    ids, lengths, _ = rnn.greedy_decode(*given, **options)
    return rnn.decode_alignments(cell, params, embed, ids, lengths, start, state)


def from_table(table, time, output, state, loop_state):
    """The `loop_fn` of a run over the first ids, for three steps."""
    TRACED.append("loop_fn")
    first = output is None
    inputs = jnp.broadcast_to(table[jnp.asarray(time, jnp.int32)], (B, 2))
    return time >= jnp.full(B, 3), inputs, START if first else state, output, None


def raw(cell, params, embed, logits, start, end, state, **options):
    """`raw_rnn` with the table of `embed`: jitted, partial, or read from a variable."""
    kind = type(embed)
    if kind is Partial:
        loop_fn = Partial(from_table, *embed.args)
    else:
        loop_fn = lambda *given: from_table(embed(jnp.arange(V)), *given)  # noqa: E731
        loop_fn = jax.jit(loop_fn) if isinstance(embed, jax.stages.Wrapped) else loop_fn
        loop_fn = LOOPS.setdefault(embed, loop_fn)
    emitted, state, _ = rnn.raw_rnn(cell, params, loop_fn, maximum_iterations=4)
    return emitted.stack(), state.cell_state


LOOPS = {}
DECODERS = {
    "greedy": rnn.greedy_decode,
    "sample": lambda *given, **options: rnn.sample_decode(
        *given, key=jax.random.key(1), temperature=0.5, **options
    ),
    "beams": lambda *given, **options: beams(*given, length_penalty=0.5, **options),
    "scored": lambda *given, **options: beams(*given, score_fn=Partial(by_length), **options),
    "alignments": greedy_alignments,
    "raw": raw,
}
each = pytest.mark.parametrize("name", DECODERS)


def decode(name, embed, logits, cell=CELL):
    return DECODERS[name](cell, PARAMS, embed, logits, 0, END, START, maximum_iterations=4)


def expected(name, i):
    """The results in one program, with the arrays of index i."""

    def run(table, kernel):
        return decode(name, Partial(embed, table), Partial(logits, kernel))

    return jax.jit(run)(jnp.asarray(TABLE[i]), jnp.asarray(KERNEL[i]))


@each
def test_functions_that_hold_their_arrays_are_compiled_once(name):
    """The second call traces nothing, and uses its own arrays."""
    right = [expected(name, i) for i in (0, 1)]
    found = []
    for i in (0, 1):
        TRACED.clear()
        table, kernel = jnp.asarray(TABLE[i]), jnp.asarray(KERNEL[i])
        found.append(decode(name, Partial(embed, table), Partial(logits, kernel)))
    assert TRACED == []
    close(found, right, 1e-12)
    assert any(bool((x != y).any()) for x, y in zip(*map(jax.tree.leaves, right), strict=True))


@each
def test_jitted_functions_are_compiled_once(name):
    table, kernel = jnp.asarray(TABLE[0]), jnp.asarray(KERNEL[0])
    functions = jax.jit(lambda ids: embed(table, ids)), jax.jit(lambda y: logits(kernel, y))
    first = decode(name, *functions)
    TRACED.clear()
    close(decode(name, *functions), first, 0)
    assert TRACED == []
    close(first, expected(name, 0), 1e-12)


@each
def test_plain_functions_see_variables_that_have_changed(name):
    now = {"table": jnp.asarray(TABLE[0]), "kernel": jnp.asarray(KERNEL[0])}

    def reads_table(ids):
        return embed(now["table"], ids)

    def reads_kernel(output):
        return logits(now["kernel"], output)

    first = decode(name, reads_table, reads_kernel)
    now.update(table=jnp.asarray(TABLE[1]), kernel=jnp.asarray(KERNEL[1]))
    second = decode(name, reads_table, reads_kernel)
    close([first, second], [expected(name, i) for i in (0, 1)], 1e-12)


def test_a_cell_that_is_no_configuration_is_traced_each_time():
    class Scaled(rnn.Cell):
        scale = 1.0

        def init(self, key, input_shape, dtype=jnp.float32):
            return {}

        def zero_state(self, batch_shape=(), dtype=jnp.float32):
            return jnp.zeros((*np.atleast_1d(batch_shape), 1), dtype)

        def __call__(self, params, inputs, state, *, key=None):
            return state + self.scale, state + self.scale

    cell = Scaled()
    given = {}, Partial(embed, jnp.zeros((V, 1))), Partial(logits, jnp.eye(1, V, 3)), 0, END
    for cell.scale in (1.0, -1.0):
        state = jnp.zeros((B, 1))
        ids, _, _ = rnn.greedy_decode(cell, *given, state, maximum_iterations=1)
        assert ids.tolist() == [[3 if cell.scale > 0 else 0]] * B


def test_wrong_functions_are_named_before_anything_is_compiled():
    with pytest.raises(TypeError, match="embed: expected a function.*ArrayImpl"):
        decode("greedy", jnp.asarray(TABLE[0]), Partial(logits, KERNEL[0]))
    with pytest.raises(ValueError, match="end: expected an id below 2"):
        decode("beams", Partial(embed, TABLE[0]), Partial(logits, KERNEL[0][:, :2]))
