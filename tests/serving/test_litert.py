"""LSTMs, GRUs and a stack in LiteRT, formerly TFLite: steps and sequences, float32 and int8."""

import jax
import numpy as np
import pytest
from exporters import assert_close, to_litert

import jax_dynrnn as rnn

B, T, D, H = 2, 7, 3, 32
CELLS = {
    "lstm": rnn.LSTMCell(H),
    "gru": rnn.GRUCell(H),
    "gru reset after": rnn.CudnnCompatibleGRUCell(H),
    "stack": rnn.MultiRNNCell([rnn.LSTMCell(H), rnn.GRUCell(16)]),
}
INT8_ERROR = 5e-3
"""A weight of eight bits is wrong by up to 1/254 of the largest of its kernel."""
# TensorFlow's own, about its interpreter's new package.
pytestmark = pytest.mark.filterwarnings("ignore:.*LiteRT interpreter:UserWarning")


@pytest.mark.parametrize("quantized", [False, True], ids=["float32", "int8"])
@pytest.mark.parametrize("name", CELLS)
def test_cells(name, quantized):
    """Lengths, both directions, and one step whose state is named."""
    cell = CELLS[name]
    params = cell.init(jax.random.key(0), (B, D))
    inputs = np.random.default_rng(0).normal(size=(B, T, D)).astype(np.float32)
    leaves, structure = jax.tree.flatten(cell.zero_state(B))
    state = {f"state_{i}": np.full(x.shape, 0.5, np.float32) for i, x in enumerate(leaves)}

    def run(inputs, lengths, **state):
        both = {"fw": params, "bw": params}
        state = jax.tree.unflatten(structure, [state[name] for name in sorted(state)])
        results = [
            rnn.dynamic_rnn(cell, params, inputs, lengths),
            rnn.bidirectional_dynamic_rnn(cell, cell, both, inputs, lengths),
            cell(params, inputs[:, 0], state),
        ]
        return {f"result_{i:02}": x for i, x in enumerate(jax.tree.leaves(results))}

    given = {"inputs": inputs, "lengths": np.array([7, 3], np.int32), **state}
    runner, model = to_litert(run, given, quantized)
    found, expected = runner(**given), run(**given)
    bound = INT8_ERROR if quantized else 1e-5
    assert_close([found[name] for name in sorted(expected)], expected, bound)
    if quantized:
        assert any((found[name] != x).any() for name, x in expected.items())
        assert len(model) < len(to_litert(run, given)[1])


def test_a_size_for_which_another_engine_is_chosen():
    """LiteRT has no sorting, which `blocked` needs: what is exported takes `scan`."""
    cell, random = rnn.LSTMCell(64), np.random.default_rng(0)
    given = {
        "inputs": random.normal(size=(16, 64, 8)).astype(np.float32),
        "lengths": random.integers(64, size=16).astype(np.int32),
    }
    params = cell.init(jax.random.key(0), (16, 8))
    assert rnn.explain(cell, params, *given.values()).chosen == "blocked"

    def run(inputs, lengths):
        outputs, state = rnn.dynamic_rnn(cell, params, inputs, lengths)
        return {"outputs": outputs, "c": state.c}

    runner, _ = to_litert(run, given)
    found, expected = runner(**given), run(**given)
    assert_close([found["c"], found["outputs"]], expected, 1e-5)
