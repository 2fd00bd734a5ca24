"""Batches without rows, in every public function (for every cell: see test_laws.py)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx as flax_nnx

import jax_dynrnn as rnn
from jax_dynrnn import linen, nnx

B, T, D, H, V = 3, 5, 2, 7, 4
CELL = rnn.GRUCell(H)
ONE = jax.tree.map(lambda x: x + 0.1, CELL.init(jax.random.key(0), (D,), jnp.float64))

LAYERS = {
    "linen": linen.RNN(CELL, param_dtype=jnp.float64),
    "nnx": nnx.RNN(CELL, in_features=D, param_dtype=jnp.float64, rngs=flax_nnx.Rngs(0)),
}


def embed(ids):
    return jnp.ones((V, D))[ids]


def logits(output):
    return output[:, :V]


def raw(params, x, n):
    def loop_fn(time, output, state, loop_state):
        state = jnp.zeros((len(n), H)) if state is None else state
        return time >= jnp.asarray(n, jnp.int32), x[:, 0], state, output, None

    emitted, state, _ = rnn.raw_rnn(CELL, params, loop_fn, maximum_iterations=T)
    return jnp.swapaxes(emitted.stack(), 0, 1), state


def saving(params, x, n):
    saver = {"h": jnp.zeros((len(n), H))}
    return rnn.static_state_saving_rnn(CELL, params, steps(x), saver, "h", sequence_length=n)


def steps(x):
    return [x[:, t] for t in range(T)]


def linen_layer(params, x, n):
    return LAYERS["linen"].apply({"params": {"cell": params}}, x, n)


def decoding(decode, **options):
    return lambda p, x, n: decode(
        CELL, p, embed, logits, 0, 1, jnp.zeros((len(n), H)), maximum_iterations=T, **options
    )


RUNS = {
    "blocked": lambda p, x, n: rnn.dynamic_rnn(CELL, p, x, n, implementation="blocked"),
    "remat": lambda p, x, n: rnn.dynamic_rnn(CELL, p, x, n, remat="sqrt", implementation="scan"),
    "bidirectional": lambda p, x, n: rnn.bidirectional_dynamic_rnn(
        CELL, CELL, {"fw": p, "bw": p}, x, n
    ),
    "stack": lambda p, x, n: rnn.stack_bidirectional_dynamic_rnn(
        [CELL], [CELL], {"cell_0": {"fw": p, "bw": p}}, x, n
    ),
    "static": lambda p, x, n: rnn.static_rnn(CELL, p, steps(x), sequence_length=n),
    "saving": saving,
    "raw": raw,
    "greedy": decoding(rnn.greedy_decode),
    "beam": decoding(rnn.beam_search, beam_width=2, length_penalty=0.5),
    "linen": linen_layer,
    "nnx": lambda p, x, n: LAYERS["nnx"](x, n),
    "last_output": lambda p, x, n: rnn.last_output(x, n),
    "mean_pool": lambda p, x, n: rnn.mean_pool(x, n),
    "max_pool": lambda p, x, n: rnn.max_pool(x, n),
    "reverse_sequence": lambda p, x, n: rnn.reverse_sequence(x, n),
    "sequence_mask": lambda p, x, n: rnn.sequence_mask(n, T),
    "segment_starts": lambda p, x, n: rnn.segment_starts(x[..., 0].astype(int)),
    "pending_resets": lambda p, x, n: rnn.pending_resets(x[..., 0] > 0, n),
    "transpose_batch_time": lambda p, x, n: rnn.transpose_batch_time(x).swapaxes(0, 1),
    "tile_batch": lambda p, x, n: rnn.tile_batch(x, 1),
}


@pytest.mark.parametrize("name", RUNS)
def test_no_rows(name):
    """Results have the shapes and dtypes of a batch with rows, with 0 rows; gradients are 0."""
    run, inputs = RUNS[name], jnp.zeros((B, T, D))
    full = jax.eval_shape(lambda p, x: run(p, x, np.full(B, T)), ONE, inputs)

    def loss(params):
        results = run(params, inputs[:0], np.zeros(0, int))
        floating = [x for x in jax.tree.leaves(results) if jnp.issubdtype(x.dtype, jnp.floating)]
        return sum((x.sum() for x in floating), jnp.zeros(())), results

    gradients, empty = jax.jit(jax.grad(loss, has_aux=True))(ONE)

    def without(shape):
        return tuple(0 if n == B else n for n in shape)

    expected = jax.tree.map(lambda x: (without(x.shape), x.dtype), full)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), empty) == expected
    assert not any(x.any() for x in jax.tree.leaves(gradients))
