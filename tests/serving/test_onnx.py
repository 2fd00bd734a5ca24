"""Every cell, exported to ONNX, computes the same in onnxruntime."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES, LENGTHS, B, D, H, T
from exporters import assert_close, run_onnx, to_onnx

import jax_dynrnn as rnn

BOUND = 1e-5
MASK = np.random.default_rng(0).random((B, T)) < 0.7
REFUSED = {
    "conv_3d": "Unsupported conv layouts",
    "attention_monotonic": "interior padding",
}
"""Cells that jax2onnx cannot export, and what it says."""
EXPORTED = [case for case in CASES if case.ours and not case.keyed]


def numbered(name, tree):
    """The leaves of a tree by numbered names, as NumPy arrays."""
    return {f"{name}_{i}": np.asarray(x) for i, x in enumerate(jax.tree.leaves(tree))}


def program(case):
    """A function of named arrays that runs a cell in every way, and the arrays."""
    cell, params = case.cell, case.params(jnp.float32)
    inputs, state = case.inputs(jnp.float32), case.state(jnp.float32)
    given = numbered("inputs", inputs) | {"lengths": LENGTHS, "mask": MASK}
    given |= numbered("state", state)
    count = len(jax.tree.leaves(inputs))

    def run(*arrays):
        x = jax.tree.unflatten(jax.tree.structure(inputs), arrays[:count])
        lengths, mask, *leaves = arrays[count:]
        first = jax.tree.map(lambda x: x[:, 0], x)
        return [
            rnn.dynamic_rnn(cell, params, x),
            rnn.dynamic_rnn(cell, params, x, lengths),
            rnn.dynamic_rnn(cell, params, x, mask=mask, reverse=True),
            rnn.bidirectional_dynamic_rnn(cell, cell, {"fw": params, "bw": params}, x, lengths),
            cell(params, first, jax.tree.unflatten(jax.tree.structure(state), leaves)),
        ]

    return run, given


@pytest.mark.parametrize("case", EXPORTED, ids=lambda case: case.name)
def test_cells(case, tmp_path):
    """Sequences, lengths, a mask in reverse, both directions, and one step from a state."""
    run, given = program(case)
    expected = jax.tree.map(np.asarray, run(*given.values()))
    shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in given.items()}
    if case.name in REFUSED:
        with pytest.raises(NotImplementedError, match=REFUSED[case.name]):
            to_onnx(run, shapes, tmp_path)
        return
    assert_close(run_onnx(to_onnx(run, shapes, tmp_path), given), expected, BOUND)
    # What jax2onnx traced is not kept.
    assert_close(jax.tree.leaves(run(*given.values())), expected, 0)


def float32(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def test_any_batch_any_time_and_chunks(tmp_path):
    """One model runs any number of rows and steps, and chunks of any size equal the whole."""
    cell = rnn.MultiRNNCell([rnn.LSTMCell(H), rnn.GRUCell(3)])
    params = cell.init(jax.random.key(0), (1, D))
    structure = jax.tree.structure(cell.zero_state(1))

    def run(inputs, lengths, *state):
        state = jax.tree.unflatten(structure, state)
        return rnn.dynamic_rnn(cell, params, inputs, lengths, state)

    zeros = numbered("state", cell.zero_state(3, jnp.float32))
    shapes = {"inputs": float32("B", "T", D), "lengths": jax.ShapeDtypeStruct(("B",), jnp.int32)}
    shapes |= {name: float32("B", x.shape[-1]) for name, x in zeros.items()}
    model = to_onnx(run, shapes, tmp_path)

    inputs = np.random.default_rng(0).normal(size=(3, 9, D)).astype(np.float32)
    lengths = np.array([9, 4, 0], np.int32)
    expected = rnn.dynamic_rnn(cell, params, inputs, lengths)
    given = {"inputs": inputs, "lengths": lengths, **zeros}
    assert_close(run_onnx(model, given), expected, BOUND)
    alone = {name: x[1:2] for name, x in given.items()}
    assert_close(run_onnx(model, alone), jax.tree.map(lambda x: x[1:2], expected), BOUND)

    state, outputs, start = zeros, [], 0
    for size in (1, 5, 3):
        rest = np.clip(lengths - start, 0, size)
        chunk = {"inputs": inputs[:, start : start + size], "lengths": rest, **state}
        output, *leaves = run_onnx(model, chunk)
        outputs.append(output)
        state = dict(zip(zeros, leaves, strict=True))
        start += size
    assert_close([np.concatenate(outputs, 1), *state.values()], expected, BOUND)


def test_a_size_for_which_another_engine_is_chosen(tmp_path):
    """What is exported takes `scan`, also where a run takes `blocked`, and `blocked` says why."""
    cell, inputs = rnn.LSTMCell(64), np.random.default_rng(0).normal(size=(64, 50, 32))
    inputs = inputs.astype(np.float32)
    params = cell.init(jax.random.key(0), inputs.shape)
    assert rnn.explain(cell, params, inputs).chosen == "blocked"

    def run(inputs, implementation=None):
        return rnn.dynamic_rnn(cell, params, inputs, implementation=implementation)

    shapes = {"inputs": float32(*inputs.shape)}
    expected = jax.tree.map(np.asarray, run(inputs))
    assert_close(run_onnx(to_onnx(run, shapes, tmp_path), {"inputs": inputs}), expected, BOUND)
    with pytest.raises(NotImplementedError, match="jax2onnx is tracing"):
        to_onnx(lambda x: run(x, "blocked"), shapes, tmp_path)
