"""Ports of TF's fused_rnn_cell_test.py: its adaptors are time-major calls of `dynamic_rnn`."""

import jax
import jax.numpy as jnp
import numpy as np
from laws import close, weighted_sum

import jax_dynrnn as rnn

T, B, D = 15, 5, 20
CELL = rnn.BasicRNNCell(10)
INPUTS = np.random.default_rng(19890212).normal(size=(T, B, D))


def results_and_gradients(run, params):
    def loss(params, inputs):
        results = run(params, inputs)
        return weighted_sum(results), results

    gradients, results = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(params, INPUTS)
    return results, gradients


def test_fused_is_static():
    """TF's testBasicRNNFusedWrapper: results and gradients of arrays, lists and a loop agree."""
    params = CELL.init(jax.random.key(0), INPUTS.shape, jnp.float64)

    def fused(params, inputs):
        return rnn.dynamic_rnn(CELL, params, inputs, time_major=True)

    def listed(params, inputs):
        outputs, state = rnn.static_rnn(CELL, params, list(inputs))
        return jnp.stack(outputs), state

    def looped(params, inputs):
        state, outputs = jnp.zeros((B, 10)), []
        for x in inputs:
            sums = jnp.concatenate([x, state], 1) @ params["kernel"]
            state = jnp.tanh(sums + jnp.expand_dims(params["bias"], 0))
            outputs.append(state)
        return jnp.stack(outputs), state

    expected = results_and_gradients(looped, params)
    close(results_and_gradients(fused, params), expected, 1e-12)
    close(results_and_gradients(listed, params), expected, 1e-12)


def test_time_reversed():
    """TF's testTimeReversedFusedRNN: a run over flipped inputs is the backward direction."""
    params = rnn.init_bidirectional(jax.random.key(0), CELL, CELL, INPUTS.shape, jnp.float64)

    def flipped(params, inputs):
        fw, bw = params["fw"], params["bw"]
        forward, fw_state = rnn.dynamic_rnn(CELL, fw, inputs, time_major=True)
        backward, bw_state = rnn.dynamic_rnn(CELL, bw, jnp.flip(inputs, 0), time_major=True)
        return jnp.concatenate([forward, jnp.flip(backward, 0)], 2), fw_state, bw_state

    def both(params, inputs):
        outputs, *states = rnn.static_bidirectional_rnn(CELL, CELL, params, list(inputs))
        return jnp.stack(outputs), *states

    expected = results_and_gradients(flipped, params)
    close(results_and_gradients(both, params), expected, 1e-12)
