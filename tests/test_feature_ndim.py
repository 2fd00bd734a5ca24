"""Inputs whose leaves have different ranks: `feature_ndim` is a pytree of ints."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys
from cases import MIXED, B, D, T, is_shape
from flax import nnx
from laws import close

import jax_dynrnn as rnn
from jax_dynrnn import linen as rnnl
from jax_dynrnn import nnx as rnnx

CELL = toys.Mixed()


def shapes(*leading):
    return jax.tree.map(lambda s: (*leading, *s), MIXED, is_leaf=is_shape)


def random_inputs(*leading):
    """Random inputs of a `toys.Mixed`, with the given leading axes."""
    random = np.random.default_rng(0)
    return jax.tree.map(
        lambda s: jnp.asarray(random.normal(size=s)), shapes(*leading), is_leaf=is_shape
    )


ZERO = CELL.zero_state(B, jnp.float64)
PARAMS = CELL.init(jax.random.key(0), shapes(B, T), "float64")
INPUTS = random_inputs(B, T)


@pytest.fixture(scope="module")
def expected():
    return rnn.dynamic_rnn(CELL, PARAMS, INPUTS, [5, 3, 1, 0])


def steps(inputs):
    return [jax.tree.map(lambda x, t=t: x[:, t], inputs) for t in range(T)]


def test_static_and_bidirectional_runs(expected):
    """`static_rnn` and bidirectional runs agree with `dynamic_rnn`."""
    outputs, state = rnn.static_rnn(CELL, PARAMS, steps(INPUTS), sequence_length=[5, 3, 1, 0])
    close((jnp.stack(outputs, 1), state), expected, 0)
    both = {"fw": PARAMS, "bw": PARAMS}
    run = rnn.bidirectional_dynamic_rnn(CELL, CELL, both, INPUTS, [5, 3, 1, 0])
    close((run[0][0], run[1][0]), expected, 0)


def test_raw_rnn_and_one_step_of_one_row(expected):
    """`raw_rnn`, and a direct call with one row, agree with `dynamic_rnn`."""
    inputs = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), INPUTS)

    def loop_fn(time, output, state, loop_state):
        x = jax.tree.map(lambda x: x[jnp.minimum(time, T - 1)], inputs)
        state = ZERO if output is None else state
        return time >= jnp.array([5, 3, 1, 0], jnp.int32), x, state, output, None

    emitted, state, _ = rnn.raw_rnn(CELL, PARAMS, loop_fn, maximum_iterations=T)
    close((jnp.moveaxis(emitted.stack(), 0, 1), state), expected, 1e-12)
    row = jax.tree.map(lambda x: x[0, 0], INPUTS)
    cell = rnn.DropoutWrapper(CELL, 0.5, variational_recurrent=True)
    close(cell(PARAMS, row, ZERO[0])[0], expected[0][0, 0], 1e-12)


def test_flax_layers(expected):
    """Flax layers detect that a cell draws, and start it, with inputs of several ranks."""
    cell = rnn.DropoutWrapper(CELL, output_keep_prob=0.5)
    layer = rnnl.RNN(cell, param_dtype="float64")
    variables = {"params": {"cell": PARAMS}}
    close(layer.apply(variables, INPUTS, [5, 3, 1, 0], deterministic=True), expected, 0)
    with pytest.raises(ValueError, match="draws random numbers"):
        layer.apply(variables, INPUTS)
    module = rnnx.RNN(CELL, in_features=shapes(), rngs=nnx.Rngs(0))
    outputs, state = module(INPUTS)
    step = jax.tree.map(lambda x: x[:, 0], INPUTS)
    close(module.step(step, module.start(B))[0], outputs[:, 0], 1e-6)
    assert rnnl.RNNCell(CELL).initialize_carry(jax.random.key(0), shapes(B)).shape == (B, 3)


def test_decoding():
    """Greedy decoding, and beam search with one beam, agree with a loop over steps."""
    table = jnp.asarray(np.random.default_rng(1).normal(size=(5, D)))

    def embed(ids):
        ones = jax.tree.map(lambda s: jnp.ones((*ids.shape, *s)), MIXED, is_leaf=is_shape)
        return {**ones, "vectors": (table[ids], table[ids])}

    arguments = CELL, PARAMS, embed, lambda y: y @ table.T, 0, 1, ZERO
    ids, lengths, _ = rnn.greedy_decode(*arguments, maximum_iterations=3)
    best, _, _ = rnn.beam_search(*arguments, beam_width=1, maximum_iterations=3)
    assert (best[:, 0] == ids).all()
    state, last = ZERO, jnp.zeros(B, jnp.int32)
    for t in range(3):
        output, state = CELL(PARAMS, embed(last), state)
        last = (output @ table.T).argmax(-1).astype(jnp.int32)
        assert (ids[:, t] == last)[t < lengths].all()


def one_without_an_axis(inputs):
    """The inputs with a vector that lacks its feature axis."""
    return {**inputs, "vectors": (inputs["vectors"][0], inputs["vectors"][1][..., 0])}


@pytest.mark.parametrize(
    "wrong, said",
    [
        (one_without_an_axis(INPUTS), r"inputs\['vectors'\]\[1\]: expected rank 3, .* got rank 2"),
        ({**INPUTS, "number": INPUTS["image"]}, r"inputs\['number'\]: expected rank 2,"),
        (INPUTS["image"], r"inputs: expected the structure of the cell's feature_ndim=\{'image"),
        ([INPUTS["image"]] * 3, "inputs: expected the structure of the cell's feature_ndim="),
    ],
)
def test_errors_name_the_leaf(wrong, said):
    """The error for a leaf of another rank names its path and the expected rank."""
    with pytest.raises(ValueError, match=said):
        rnn.dynamic_rnn(CELL, PARAMS, wrong)


def test_errors_of_inputs_that_callbacks_return():
    """`loop_fn` and `embed` must return leaves of the ranks in `feature_ndim`."""
    bad = one_without_an_axis(random_inputs(B))
    with pytest.raises(ValueError, match=r"next_input\['vectors'\]\[1\] to be \[batch\] and 1"):
        rnn.raw_rnn(
            CELL,
            PARAMS,
            lambda *_: (jnp.zeros(B, bool), bad, ZERO, None, None),
            maximum_iterations=2,
        )
    with pytest.raises(ValueError, match="embed: expected .* of rank {'image': 3, 'number': 1"):
        rnn.greedy_decode(
            CELL, PARAMS, lambda ids: bad, lambda y: y, 0, 1, ZERO,
            maximum_iterations=2,
        )  # fmt: skip
