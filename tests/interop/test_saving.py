"""Params and layers saved by NumPy, safetensors and Orbax are restored bit by bit."""

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import safetensors.flax
from cases import perturbed
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

import jax_dynrnn as rnn
from jax_dynrnn import linen as rnnl
from jax_dynrnn import nnx as rnnx

CELL = rnn.MultiRNNCell([rnn.LearnedInitialState(rnn.LSTMCell(4)), rnn.GRUCell(2)])
SHAPE = (2, 3, 3)


def npz(path, tree):
    np.savez(path / "tree.npz", **flatten_dict(tree, sep="/"))
    with np.load(path / "tree.npz") as file:
        return unflatten_dict(dict(file), sep="/")


def safetensor(path, tree):
    safetensors.flax.save_file(flatten_dict(tree, sep="/"), path / "tree.safetensors")
    return unflatten_dict(safetensors.flax.load_file(path / "tree.safetensors"), sep="/")


def orbax(path, tree):
    with ocp.StandardCheckpointer() as saver:
        saver.save(path / "tree", tree)
        saver.wait_until_finished()
        return saver.restore(path / "tree", jax.eval_shape(lambda: tree))


FORMATS = pytest.mark.parametrize("through", [npz, safetensor, orbax])


def assert_same(actual, expected):
    """Asserts equal structure, dtypes and values."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@FORMATS
def test_params(through, tmp_path):
    """Params of two directions and two layers, in several dtypes, bfloat16 if supported."""
    params = perturbed(rnn.init_bidirectional(jax.random.key(0), CELL, CELL, SHAPE), 1)
    params["fw"]["cell_0"] = jax.tree.map(lambda x: x.astype("float64"), params["fw"]["cell_0"])
    half = jnp.float16 if through is npz else jnp.bfloat16
    params["bw"]["cell_1"] = jax.tree.map(lambda x: x.astype(half), params["bw"]["cell_1"])
    assert_same(through(tmp_path, params), params)


@FORMATS
def test_an_nnx_layer(through, tmp_path):
    """Params are restored into an NNX layer that was initialised with another key."""
    first, second = (rnnx.RNN(CELL, in_features=3, rngs=nnx.Rngs(n)) for n in (0, 1))

    def values(layer):
        return nnx.to_pure_dict(nnx.state(layer, nnx.Param))

    kernels = [values(layer)["params"]["cell_1"]["gates"]["kernel"] for layer in (first, second)]
    assert (kernels[0] != kernels[1]).any()
    nnx.update(second, through(tmp_path, values(first)))
    assert_same(values(second), values(first))


@FORMATS
def test_the_variables_of_a_linen_layer(through, tmp_path):
    """Variables of a bidirectional Linen layer are restored bit by bit."""
    variables = rnnl.Bidirectional(CELL).init(jax.random.key(0), jnp.ones(SHAPE))
    assert_same(through(tmp_path, variables), variables)


def test_loaded_params_of_another_cell_are_refused(tmp_path):
    """A run with loaded params of another cell, or with flat names, raises a clear error."""
    params = npz(tmp_path, CELL.init(jax.random.key(0), SHAPE))
    located = r"params\[\"cell_0\"\]: expected .* missing: bias, kernel; unexpected: cell/bias"
    with pytest.raises(KeyError, match=located):
        rnn.dynamic_rnn(rnn.MultiRNNCell([rnn.LSTMCell(4), rnn.GRUCell(2)]), params, np.ones(SHAPE))
    flat = flatten_dict(params, sep="/")
    with pytest.raises(KeyError, match="expected nested dicts"):
        rnn.dynamic_rnn(CELL, flat, np.ones(SHAPE))
