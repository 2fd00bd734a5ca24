"""Ports of TF's BidirectionalRNNTest, and of StackBidirectionalRNNTest (contrib/rnn_test.py)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import close

import jax_dynrnn as rnn

B, T, D, H = 2, 8, 5, 3
ROW = np.random.default_rng(23489).normal(size=(B, D))
STEPS = [ROW] * T  # TF feeds one placeholder to all steps, so that time is symmetric
LSTM = rnn.LSTMCell(H)


def tied(params):
    """The same params in both directions: TF's initialisers have one seed."""
    return {"fw": params, "bw": params}


PARAMS = tied(LSTM.init(jax.random.key(0), (B, D), jnp.float64))


def check_mirrored(outputs, lengths):
    """Asserts that forward outputs at t equal backward ones at length - 1 - t, and are 0 behind.

    Outputs are `[T, B, 2 H]`.
    """
    for row, n in enumerate(lengths):
        fw, bw = np.split(np.asarray(outputs[:, row]), 2, -1)
        np.testing.assert_allclose(fw[:n], bw[:n][::-1], rtol=1e-12)
        assert (np.abs(np.diff(fw[:n], axis=0)) > 1e-6).all() and not fw[n:].any()


@pytest.mark.parametrize("lengths", [None, [2, 3]])
def test_lists(lengths):
    """TF's testBidirectionalRNN, and ...WithoutSequenceLength: lists of steps."""
    outputs, fw, bw = rnn.static_bidirectional_rnn(
        LSTM, LSTM, PARAMS, STEPS, sequence_length=lengths
    )
    assert len(outputs) == T and outputs[0].shape == (B, 2 * H)
    check_mirrored(np.stack(outputs), lengths or [T, T])
    close(fw, bw, 1e-12)


@pytest.mark.parametrize("lengths", [None, [2, 3]])
@pytest.mark.parametrize("time_major", [True, False])
def test_arrays(lengths, time_major):
    """TF's testBidirectionalDynamicRNN: arrays; TF's other options are about shapes in graphs."""
    inputs = np.stack(STEPS, 0 if time_major else 1)
    outputs, (fw, bw) = rnn.bidirectional_dynamic_rnn(
        LSTM, LSTM, PARAMS, inputs, lengths, time_major=time_major
    )
    outputs = np.concatenate(outputs, 2)
    check_mirrored(outputs if time_major else outputs.swapaxes(0, 1), lengths or [T, T])
    close(fw, bw, 1e-12)


LAYERS = [rnn.LSTMCell(2), rnn.LSTMCell(3)]
STACK_PARAMS = {
    name: tied(layer["fw"])
    for name, layer in rnn.init_stack_bidirectional(
        jax.random.key(0), LAYERS, LAYERS, (B, D), jnp.float64
    ).items()
}


def stack(kind, lengths, fw=None, bw=None):
    """A run of both layers from the states `fw` and `bw`, its outputs time-major."""
    options = {"initial_states_fw": fw, "initial_states_bw": bw, "sequence_length": lengths}
    if kind == "list":
        outputs, *states = rnn.stack_bidirectional_rnn(
            LAYERS, LAYERS, STACK_PARAMS, STEPS, **options
        )
        return np.stack(outputs), *states
    major = kind == "time-major array"
    inputs = np.stack(STEPS, 0 if major else 1)
    outputs, *states = rnn.stack_bidirectional_dynamic_rnn(
        LAYERS, LAYERS, STACK_PARAMS, inputs, time_major=major, **options
    )
    return np.asarray(outputs if major else outputs.swapaxes(0, 1)), *states


KINDS = pytest.mark.parametrize("kind", ["list", "array", "time-major array"])


@KINDS
def test_stacked(kind):
    """TF's testStackBidirectionalRNN and its testBidirectionalRNN: lengths 2 and 3.

    The first layer is symmetric in time, as its inputs are. The second is not: its inputs are the
    concatenated outputs of both directions.
    """
    outputs, fw, bw = stack(kind, np.array([2, 3], np.int64))
    assert outputs.shape == (T, B, 6)
    close(fw[0], bw[0], 1e-12)
    for row, n in enumerate([2, 3]):
        forward, backward = np.split(outputs[:n, row], 2, -1)
        assert (np.abs(forward - backward[::-1]) > 1e-6).all()
        assert not outputs[n:, row].any()
        np.testing.assert_allclose(fw[1].h[row], forward[-1], rtol=1e-12)
        np.testing.assert_allclose(bw[1].h[row], backward[0], rtol=1e-12)


@KINDS
def test_stacked_states_are_fed_back(kind):
    """TF's _testStackBidirectionalRNNStates: 3 + 2 and 2 + 1 steps equal 5 and 3 steps.

    This holds in the first layer only: inputs of the second depend on later steps.
    """
    _, fw, bw = stack(kind, np.array([3, 2], np.int32))
    _, fed_fw, fed_bw = stack(kind, np.array([2, 1], np.int32), list(fw), list(bw))
    _, whole_fw, whole_bw = stack(kind, np.array([5, 3], np.int32))
    close((fed_fw[0], fed_bw[0]), (whole_fw[0], whole_bw[0]), 1e-12)
    assert not np.allclose(fed_fw[0].h, fw[0].h) and not np.allclose(fed_bw[1].h, whole_bw[1].h)
