"""Ports of LSTMTest in TF's rnn_cell_test.py: lists, arrays and Python loops over steps agree."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_loop
from laws import close

import jax_dynrnn as rnn

B, T, D = 2, 8, 5
KEY = jax.random.key(0)
INPUTS = np.random.default_rng(23489).normal(size=(T, B, D))
PROJECTED = rnn.LSTMCell(3, use_peepholes=True, num_proj=4)
STACK = rnn.MultiRNNCell(
    [rnn.LSTMCell(3 + i, use_peepholes=True, num_proj=4 + i) for i in range(4)]
)


def static(cell, params, inputs, lengths, **options):
    return rnn.static_rnn(cell, params, list(inputs), sequence_length=lengths, **options)


def dynamic(cell, params, inputs, lengths, **options):
    outputs, state = rnn.dynamic_rnn(cell, params, inputs, lengths, time_major=True, **options)
    return list(outputs), state


def unrolled(cell, params, inputs, lengths):
    """The run in Python loops over steps and rows, as TF's static_rnn was unrolled."""
    lengths = [T] * B if lengths is None else lengths
    outputs, state = reference_loop.run(
        cell, params, jnp.swapaxes(inputs, 0, 1), cell.zero_state(B, jnp.float64), lengths
    )
    return list(jnp.swapaxes(outputs, 0, 1)), state


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.float32, jnp.float64])
def test_params_have_the_dtype_asked_for(dtype):
    """TF's testDType: params have the requested dtype, by default float32."""
    cell = rnn.LSTMCell(10)
    assert cell.init(KEY, (10, 50))["bias"].dtype == jnp.float32
    params = cell.init(KEY, (10, 50), dtype)
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype(dtype)}


@pytest.mark.parametrize("cell", [PROJECTED, STACK], ids=["one", "stack"])
def test_tuple_states(cell):
    """TF's testDynamicRNNWithTupleStates and ...WithNestedTupleStates, with lengths 4 and 6."""
    params = cell.init(KEY, INPUTS.shape, jnp.float64)

    def run(kind):
        return kind(cell, params, INPUTS, [4, 6])

    expected = run(unrolled)
    for kind in (static, dynamic):
        actual = run(kind)
        close(actual, expected, 1e-12)
        states = (actual[1],) if cell is PROJECTED else actual[1]
        assert len(states) == (1 if cell is PROJECTED else 4)
        for i, state in enumerate(states):
            assert isinstance(state, rnn.LSTMStateTuple)
            assert state[0] is state.c and state[1] is state.h
            assert state.c.shape == (B, 3 + i) and state.h.shape == (B, 4 + i)


@pytest.mark.parametrize("lengths", [None, [5, 0]])
def test_dynamic_is_static(lengths):
    """TF's testDynamicEquivalentToStaticRNN, and ...WithSequenceLength.

    Outputs, states, and gradients with respect to inputs and params: of the sum of all results,
    of the first output, of the last output, and of the state.
    """
    params = PROJECTED.init(KEY, INPUTS.shape, jnp.float64)

    def readouts(kind, params, inputs):
        outputs, state = results = kind(PROJECTED, params, inputs, lengths)
        sums = [sum(x.sum() for x in outputs + list(state)), outputs[0].sum()]
        return jnp.stack([*sums, outputs[-1].sum(), state.c.sum() + state.h.sum()]), results

    @functools.partial(jax.jit, static_argnums=0)
    def both(kind, params, inputs):
        function = functools.partial(readouts, kind)
        gradients, results = jax.jacrev(function, (0, 1), has_aux=True)(params, inputs)
        return results, gradients

    expected = both(unrolled, params, INPUTS)
    assert all(jnp.abs(g[0]).max() > 1e-3 for g in jax.tree.leaves(expected[1]))
    for kind in (static, dynamic):
        close(both(kind, params, INPUTS), expected, 1e-12)


def test_doubles_with_dropout_and_lengths():
    """TF's testDoubleInputWithDropoutAndDynamicCalculation: float64, lengths, and dropout.

    Masks are those of `dynamic_rnn`, and do not depend on the lengths.
    """
    cell = rnn.DropoutWrapper(PROJECTED, 0.5)
    params = cell.init(KEY, INPUTS.shape, jnp.float64)
    run = functools.partial(static, cell, params, INPUTS, key=jax.random.key(1))
    outputs, state = run([2, 3])
    assert {x.dtype for x in [*outputs, *state]} == {jnp.dtype(jnp.float64)}
    assert not np.array(outputs[3:]).any() and not outputs[2][0].any() and outputs[2][1].any()
    close((outputs, state), dynamic(cell, params, INPUTS, [2, 3], key=jax.random.key(1)), 1e-12)
    whole, _ = run(None)
    close([outputs[1], outputs[2][1]], [whole[1], whole[2][1]], 1e-12)
    close(state.h, jnp.stack([whole[1][0], whole[2][1]]), 1e-12)
    assert not np.allclose(whole[0], static(cell, params, INPUTS, None)[0][0])


def test_sharing_weights():
    """TF's testSharingWeightsWithReuse, ...WithDifferentNamescope: equal params, equal results."""
    same, other = (PROJECTED.init(key, INPUTS.shape) for key in jax.random.split(KEY))
    outputs = [static(PROJECTED, p, INPUTS, None)[0] for p in (same, dict(same), other)]
    close(outputs[1], outputs[0], 0)
    for a, b in zip(outputs[0], outputs[2], strict=True):
        assert jnp.linalg.norm(a - b) > 1e-6
