"""Ports of RawRNNTest in TF's rnn_cell_test.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import close, weighted_sum

import jax_dynrnn as rnn

B, D, H = 16, 4, 3
CELL = rnn.LSTMCell(H)
PARAMS = CELL.init(jax.random.key(0), (B, D), jnp.float64)
RANDOM = np.random.default_rng(23489)


def reading(inputs, lengths, emit=None, loop_state=None):
    """A `loop_fn` that reads `[T, B, D]` inputs step by step, as `dynamic_rnn` does.

    `emit(first)` and `loop_state(time, previous)`, if given, return what is emitted and the loop
    state. Inputs behind the end are zeros.
    """
    T = inputs.shape[0]

    def loop_fn(time, output, state, previous):
        first = output is None
        padded = jnp.concatenate([inputs, jnp.zeros((1, B, D))])
        x = jax.lax.dynamic_index_in_dim(padded, jnp.minimum(time, T), keepdims=False)
        state = CELL.zero_state(B, jnp.float64) if first else state
        emitted = emit(first) if emit else output
        next_loop_state = loop_state(time, previous) if loop_state else None
        return time >= jnp.asarray(lengths, jnp.int32), x, state, emitted, next_loop_state

    return loop_fn


def raw(params, inputs, lengths, maximum_iterations):
    loop_fn = reading(inputs, lengths)
    emitted, state, loop_state = rnn.raw_rnn(
        CELL, params, loop_fn, maximum_iterations=maximum_iterations
    )
    assert loop_state is None
    return (emitted.stack(), state), emitted.size()


def dynamic(params, inputs, lengths):
    return rnn.dynamic_rnn(CELL, params, inputs, lengths, time_major=True)


def gradients(run, inputs, lengths):
    def function(params, inputs):
        return weighted_sum(run(params, inputs, lengths))

    return jax.jit(jax.grad(function, (0, 1)))(PARAMS, inputs)


@pytest.mark.parametrize("more", [0, 2])
def test_it_is_dynamic_rnn(more):
    """TF's testRawRNN: outputs, state and gradients agree, with random lengths.

    With a larger maximum of iterations, further steps are not run and emit zeros.
    """
    T = 10
    inputs, lengths = RANDOM.normal(size=(T, B, D)), RANDOM.integers(T, size=B)
    lengths[:2] = T, 0
    (outputs, state), size = raw(PARAMS, inputs, lengths, T + more)
    assert size == T and outputs.shape == (T + more, B, H)
    assert not outputs[T:].any()
    close((outputs[:T], state), dynamic(PARAMS, inputs, lengths), 1e-12)

    def run(params, inputs, lengths):
        (outputs, state), _ = raw(params, inputs, lengths, T + more)
        return outputs[:T], state

    close(gradients(run, inputs, lengths), gradients(dynamic, inputs, lengths), 1e-12)


@pytest.mark.parametrize("maximum_iterations", [0, 3])
def test_no_steps(maximum_iterations):
    """TF's testRawRNNZeroLength: nothing is emitted, and the state is the initial one."""
    inputs, lengths = np.zeros((0, B, D)), np.zeros(B, int)
    (outputs, state), size = raw(PARAMS, inputs, lengths, maximum_iterations)
    expected = dynamic(PARAMS, inputs, lengths)
    assert size == 0 and outputs.shape == (maximum_iterations, B, H) and not outputs.any()
    close((outputs[:0], state), expected, 0)
    gradient = gradients(lambda *a: raw(*a, maximum_iterations)[0], inputs, lengths)
    assert not any(g.any() for g in jax.tree.leaves(gradient))


def test_loop_state():
    """TF's testLoopState: a counter of 10 steps."""
    inputs = RANDOM.normal(size=(10, B, D))

    def count(time, previous):
        return jnp.zeros(1, jnp.int32) if previous is None else previous + 1

    loop_fn = reading(inputs, [10] * B, loop_state=count)
    emitted, _, loop_state = rnn.raw_rnn(CELL, PARAMS, loop_fn, maximum_iterations=15)
    assert loop_state.tolist() == [10] and emitted.size() == 10


def test_a_buffer_in_the_loop_state():
    """TF's testLoopStateWithTensorArray: the loop state is a buffer of running sums."""
    inputs = RANDOM.normal(size=(4, B, D))

    def write(time, previous):
        if previous is None:
            return jnp.zeros(5, jnp.int32).at[0].set(1)
        return previous.at[time].set(previous[time - 1] + time)

    loop_fn = reading(inputs, [4] * B, loop_state=write)
    _, _, written = rnn.raw_rnn(CELL, PARAMS, loop_fn, maximum_iterations=6)
    assert written.tolist() == [1, 2, 4, 7, 11]


def test_emissions_have_their_own_structure():
    """TF's testEmitDifferentStructureThanCellOutput: int32 [2, 3] and int64 [1].

    The first call of `loop_fn` may declare them by arrays or by shapes.
    """
    inputs = RANDOM.normal(size=(10, B, D))
    shapes = ((2, 3), jnp.int32), ((1,), jnp.int64)

    def emit(first):
        if first:
            (shape, dtype), other = shapes
            return jax.ShapeDtypeStruct(shape, dtype), jnp.zeros(*other)
        return tuple(jnp.ones((B, *shape), dtype) for shape, dtype in shapes)

    loop_fn = reading(inputs, [10] * (B - 1) + [4], emit)
    emitted, state, _ = rnn.raw_rnn(CELL, PARAMS, loop_fn, maximum_iterations=10)
    pair = emitted.stack()
    assert isinstance(pair, tuple)
    for values, (shape, dtype) in zip(pair, shapes, strict=True):
        assert values.shape == (10, B, *shape) and values.dtype == dtype
        assert (values[:, :-1] == 1).all() and (values[:4] == 1).all()
        assert not values[4:, -1].any()
    close(state, dynamic(PARAMS, inputs, [10] * (B - 1) + [4])[1], 1e-12)
