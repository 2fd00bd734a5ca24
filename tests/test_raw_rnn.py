"""`raw_rnn` beyond TF's own test cases: random draws, transformations, the end of the loop."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys
from laws import close, weighted_sum

import jax_dynrnn as rnn

T, B, D = 5, 3, 4
LENGTHS = np.array([4, 0, 2], np.int32)
INPUTS = np.random.default_rng(0).normal(size=(B, T, D))
GRU = rnn.GRUCell(D)
PARAMS = GRU.init(jax.random.key(0), INPUTS.shape, jnp.float64)


def reading(cell, inputs, lengths, dtype=jnp.float64):
    """A `loop_fn` that reads a pytree of `[B, T, ...]` inputs up to each row's length."""

    def loop_fn(time, output, state, loop_state):
        x = jax.tree.map(lambda x: jnp.asarray(x)[:, jnp.minimum(time, T - 1)], inputs)
        state = cell.zero_state(B, dtype) if output is None else state
        return time >= lengths, x, state, output, None

    return loop_fn


def raw(cell, params, inputs, lengths=LENGTHS, **options):
    loop_fn = reading(cell, inputs, jnp.asarray(lengths))
    emitted, state, _ = rnn.raw_rnn(cell, params, loop_fn, maximum_iterations=T, **options)

    def batch_major(y):
        return jnp.moveaxis(y, 0, 1) if y.ndim > 1 else y

    return jax.tree.map(batch_major, emitted.stack()), state


DRAWING = {
    "dropout": rnn.DropoutWrapper(rnn.LSTMCell(3), 0.5, 0.6, 0.7),
    "variational": rnn.DropoutWrapper(rnn.GRUCell(3), 0.5, 0.6, 0.7, variational_recurrent=True),
    "stack": rnn.MultiRNNCell([rnn.DropoutWrapper(rnn.GRUCell(3), 0.5)] * 2),
}


@pytest.mark.parametrize("name", DRAWING)
def test_draws_are_those_of_dynamic_rnn(name):
    """`raw_rnn` derives the same keys as `dynamic_rnn`, and so draws the same masks."""
    cell, key = DRAWING[name], jax.random.key(7)
    params = cell.init(jax.random.key(0), INPUTS.shape, jnp.float64)
    expected = rnn.dynamic_rnn(cell, params, INPUTS, LENGTHS, key=key)
    actual = raw(cell, params, INPUTS, key=key)
    close(actual, expected, 1e-12)
    assert not np.allclose(actual[0], raw(cell, params, INPUTS)[0])


def test_cells_of_any_structure():
    """Nested inputs, outputs and states; rank-0 leaves are updated at every step that is run."""
    random = np.random.default_rng(1)

    def draw(n):
        return random.normal(size=(B, T, n))

    cell, inputs = toys.Nested(), {"a": draw(3), "b": [draw(2), draw(1)]}
    params = cell.init(jax.random.key(0), jax.tree.map(np.shape, inputs), jnp.float64)
    close(raw(cell, params, inputs), rnn.dynamic_rnn(cell, params, inputs, LENGTHS), 1e-12)
    counted = rnn.EmitState(toys.PlusOne())
    (_, states), state = raw(counted, {}, INPUTS)
    assert states["steps"].tolist() == [1, 2, 3, 4, 0] and state["steps"] == 4
    assert state["row"].tolist() == LENGTHS.tolist()


def test_transformations():
    """`raw_rnn` under `jit`, `grad`, `jvp` and `vmap` agrees with `dynamic_rnn`."""

    def run(params, inputs, lengths):
        return raw(GRU, params, inputs, lengths)

    def loss(params, inputs, lengths, run=run):
        return weighted_sum(run(params, inputs, lengths))

    def reference(params, inputs, lengths):
        return rnn.dynamic_rnn(GRU, params, inputs, lengths)

    close(jax.jit(run)(PARAMS, INPUTS, LENGTHS), run(PARAMS, INPUTS, LENGTHS), 1e-12)

    def two(x):
        return np.stack([x, 0.5 * np.flip(x, 0)])

    many = jax.tree.map(two, (PARAMS, INPUTS)) + (np.stack([LENGTHS, LENGTHS[::-1]]),)
    gradient = jax.jit(jax.vmap(jax.value_and_grad(loss, (0, 1))))(*many)
    expected = functools.partial(loss, run=reference)
    close(gradient, jax.jit(jax.vmap(jax.value_and_grad(expected, (0, 1))))(*many), 1e-12)
    tangent = jax.jvp(lambda x: loss(PARAMS, x, LENGTHS), (INPUTS,), (INPUTS,))[1]
    forward = jax.jvp(lambda x: expected(PARAMS, x, LENGTHS), (INPUTS,), (INPUTS,))[1]
    np.testing.assert_allclose(tangent, forward, rtol=1e-12)


def test_nothing_runs_after_all_rows_have_finished():
    """Neither the cell nor `loop_fn` runs again, and the loop state stays."""
    called = []

    @toys.config
    class Noted(toys.Sum):
        def __call__(self, params, inputs, state, *, key=None):
            jax.debug.callback(lambda: called.append("cell"))
            return super().__call__(params, inputs, state)

    cell = Noted()

    def loop_fn(time, output, state, loop_state):
        first = output is None
        if not first:
            jax.debug.callback(lambda t: called.append(int(t)), time)
        state = cell.zero_state(B, jnp.float64) if first else state
        total = jnp.zeros(()) if first else loop_state[1] + output.sum()
        return time >= LENGTHS, jnp.ones((B, 1)), state, output, (time, total)

    emitted, state, (last, total) = rnn.raw_rnn(cell, {}, loop_fn, maximum_iterations=50)
    jax.effects_barrier()
    assert sorted(x for x in called if x != "cell") == [1, 2, 3, 4]
    assert called.count("cell") == 4 and last == 4 and emitted.size() == 4
    assert state[:, 0].tolist() == LENGTHS.tolist()
    # `loop_fn` receives the cell's outputs of finished rows too.
    assert total == (1 + 2 + 3 + 4) + 4 * 1 + (1 + 2 + 3 + 3)


def test_loop_fn_may_change_inputs_state_and_end():
    """Outputs are fed back as inputs, the state is changed, and rows end by their outputs."""

    def loop_fn(time, output, state, loop_state):
        if output is None:
            x, state = jnp.array([[1.0], [2.0], [5.0]]), jnp.zeros((B, 1))
            return jnp.zeros(B, bool), x, state, jnp.zeros(()), jnp.zeros(B, jnp.int32)
        ended = output[:, 0] > 10
        going = loop_state + (~ended).astype(jnp.int32)
        return ended, output, state + 0.5, output[:, 0] * 10, going

    emitted, state, going = rnn.raw_rnn(toys.Sum(), {}, loop_fn, maximum_iterations=9)
    # row 0: 1, then 1 + (1 + 0.5), then 2.5 + (2.5 + 0.5), ...
    steps = [[10, 25, 55, 115], [20, 45, 95, 195], [50, 105, 0, 0]]
    assert emitted.size() == 4 and not emitted.stack()[4:].any()
    assert emitted.stack()[:4].T.tolist() == steps
    assert state[:, 0].tolist() == [12, 20, 11] and going.tolist() == [3, 3, 1]


def test_a_loop_state_of_none_keeps_the_previous_one():
    """If `loop_fn` returns `None` as loop state in later calls, the first one stays."""

    def loop_fn(time, output, state, loop_state):
        first = output is None
        state = jnp.zeros((B, 1)) if first else state
        loop_state = {"seed": jax.random.key(3), "n": jnp.int32(7)} if first else None
        return time >= LENGTHS, jnp.ones((B, 1)), state, output, loop_state

    _, _, last = rnn.raw_rnn(toys.Sum(), {}, loop_fn, maximum_iterations=5)
    assert last["n"] == 7 and last["seed"] == jax.random.key(3)


def test_emitted_without_x64():
    """With x64 off, 64-bit NumPy arrays of `loop_fn` are emitted in 32 bits, without a warning."""
    with jax.enable_x64(False):
        pair = np.zeros((2,)), np.zeros((), np.int64)

        def loop_fn(time, output, state, loop_state):
            first = output is None
            emit = pair if first else (jnp.ones((B, 2)), jnp.full(B, time))
            return time >= LENGTHS, jnp.ones((B, 1)), jnp.zeros((B, 1)), emit, None

        values, times = rnn.raw_rnn(toys.Sum(), {}, loop_fn, maximum_iterations=5)[0].stack()
    assert values.dtype == jnp.float32 and times.dtype == jnp.int32
    assert times.T.tolist() == [[1, 2, 3, 4, 0], [0] * 5, [1, 2, 0, 0, 0]]
