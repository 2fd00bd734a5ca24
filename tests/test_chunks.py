"""A sequence that is run in chunks, with `pending_resets`, equals one run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import close, weighted_sum

import jax_dynrnn as rnn

B, T, D, DRAWS = 3, 6, 2, 32
RANDOM = np.random.default_rng(0)
INPUTS = RANDOM.normal(size=(B, T, D))
LENGTHS = RANDOM.integers(0, T + 3, (DRAWS, B)).clip(0, T)
MASKS, RESETS = RANDOM.random((2, DRAWS, B, T)) < np.array([0.5, 0.25]).reshape(2, 1, 1, 1)
CELLS = {
    "gru": rnn.GRUCell(3),
    "learned": rnn.LearnedInitialState(rnn.LSTMCell(3)),
    "stack": rnn.MultiRNNCell([rnn.GRUCell(2), rnn.LearnedInitialState(rnn.BasicRNNCell(2))]),
}


def one_run(cell, params, lengths, mask, resets):
    return rnn.dynamic_rnn(cell, params, INPUTS, lengths, mask=mask, resets=resets)


def chunked(cell, params, lengths, mask, resets, size, previous=True):
    """The same run in chunks of `size` steps; the last chunk may be shorter."""
    state, outputs, pending = None, [], jnp.zeros(B, bool)
    for start in range(0, T, size):
        part = np.s_[:, start : start + size]
        within = jnp.clip(lengths - start, 0, INPUTS[part].shape[1])
        first = resets[part].at[:, 0].set(resets[:, start] | pending)
        y, state = rnn.dynamic_rnn(
            cell, params, INPUTS[part], within, state, mask=mask[part], resets=first
        )
        # Pending flags of the previous chunk are either part of the resets, or passed separately.
        options = {"previous": pending} if previous else {}
        flags = resets[part] if previous else first
        pending = rnn.pending_resets(flags, within, mask=mask[part], **options)
        outputs.append(y)
    return jnp.concatenate(outputs, 1), state


def differentiated(run):
    """`run(params, lengths, mask, resets)` and its gradient, mapped over random draws."""

    def loss(params, *arguments):
        results = run(params, *arguments)
        return weighted_sum(results), results

    mapped = jax.vmap(jax.grad(loss, has_aux=True), (None, 0, 0, 0))
    return lambda params: jax.jit(mapped)(params, LENGTHS, MASKS, RESETS)


@pytest.mark.parametrize(
    ("name", "size", "previous"), [("gru", 1, True), ("learned", 2, False), ("stack", 4, True)]
)
def test_chunks_of_any_size_equal_one_run(name, size, previous):
    """Results and gradients agree; without `pending_resets` they would not."""
    cell = CELLS[name]
    params = cell.init(jax.random.key(0), INPUTS.shape, jnp.float64)
    params = jax.tree.map(lambda x: x + 0.3, params)
    expected = differentiated(lambda *x: one_run(cell, *x))(params)
    close(differentiated(lambda *x: chunked(cell, *x, size, previous))(params), expected, 1e-12)

    def state_without_pending_resets(*draw):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(rnn, "pending_resets", lambda *_, **__: jnp.zeros(B, bool))
            return chunked(cell, params, *draw, size, previous)[1]

    forgotten = jax.jit(jax.vmap(state_without_pending_resets))(LENGTHS, MASKS, RESETS)
    different = jax.tree.map(lambda a, b: jnp.abs(a - b).max() > 1e-3, forgotten, expected[1][1])
    assert all(jax.tree.leaves(different)), "no reset waits at a cut: the draws show nothing"


def waiting(resets, valid, previous):
    """Whether a reset of each row still waits for a valid step, by a loop over steps."""
    for t in range(resets.shape[1]):
        previous = (previous | resets[:, t]) & ~valid[:, t]
    return previous


@pytest.mark.parametrize("time", [0, 1, T])
@pytest.mark.parametrize("given", ["nothing", "lengths", "mask", "both"])
def test_pending_resets(given, time):
    """`pending_resets` agrees with a loop, for lengths, masks, both layouts, and `previous`."""
    lengths = np.minimum(LENGTHS, time).reshape(DRAWS * B)
    mask, resets = (x[..., :time].reshape(DRAWS * B, time) for x in (MASKS, RESETS))
    previous = np.random.default_rng(1).random(len(lengths)) < 0.5
    arguments = [lengths if given in ("lengths", "both") else None]
    valid = np.arange(time) < (lengths[:, None] if arguments[0] is not None else time)
    valid = np.broadcast_to(valid, resets.shape)
    options = {}
    if given in ("mask", "both"):
        valid, options["mask"] = valid & mask, mask
    actual = rnn.pending_resets(resets, *arguments, **options)
    assert actual.tolist() == waiting(resets, valid, np.zeros_like(previous)).tolist()
    options = {name: x.T for name, x in options.items()} | {"previous": previous}
    actual = rnn.pending_resets(resets.T, *arguments, time_major=True, **options)
    assert actual.tolist() == waiting(resets, valid, previous).tolist()


FLAGS = np.zeros((B, T), bool)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "match"),
    [
        ((FLAGS[0],), {}, ValueError, r"resets: expected arrays \[batch, time, ...\]"),
        ((FLAGS.astype(int),), {}, TypeError, "resets: expected dtype bool, got int64"),
        ((FLAGS, [1, 2]), {}, ValueError, "integer for each of the 3 rows, got 2"),
        ((FLAGS, [1, 2, 7]), {}, ValueError, r"values in \[0, 6\].*got 7 in row 2"),
        ((FLAGS,), {"mask": FLAGS.T}, ValueError, r"mask: expected shape \(3, 6\)"),
        ((FLAGS,), {"time_major": 1}, TypeError, "time_major: expected True or False, got 1"),
        ((FLAGS,), {"previous": FLAGS[0]}, ValueError, r"previous: expected .*\(3,\).* \(6,\)"),
        ((FLAGS,), {"previous": np.ones(3)}, ValueError, "previous: expected bool.*got float64"),
    ],
)
def test_invalid_arguments_of_pending_resets(arguments, options, error, match):
    """Invalid shapes, dtypes and lengths are refused."""
    with pytest.raises(error, match=match):
        rnn.pending_resets(*arguments, **options)
