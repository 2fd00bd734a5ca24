"""Our cells in Flax's own `nn.RNN` and `nnx.RNN` agree with `dynamic_rnn`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import perturbed
from flax import linen as nn
from flax import nnx
from laws import close, weighted_sum

import jax_dynrnn as rnn
from jax_dynrnn import linen as rnnl
from jax_dynrnn import nnx as rnnx

B, T = 3, 4
LENGTHS = np.array([4, 1, 3])
VALID = np.arange(T) < LENGTHS[:, None]
CELLS = {
    "deep": (
        rnn.MultiRNNCell([rnn.LearnedInitialState(rnn.LSTMCell(4)), rnn.GRUCell(2)]),
        (3,),
    ),
    "conv": (
        rnn.Conv1DLSTMCell(input_shape=(3, 1), output_channels=2, kernel_shape=(2,)),
        (3, 1),
    ),
}


def in_linen(cell, features, params):
    """`run(params, inputs, **options) -> (carry, outputs)` of `nn.RNN`; checks its `init` too."""
    layer = nn.RNN(rnnl.RNNCell(cell, param_dtype=jnp.float64), return_carry=True)
    made = jax.eval_shape(layer.init, jax.random.key(0), jnp.ones((B, T, *features)))
    assert jax.tree.structure(made) == jax.tree.structure({"params": {"cell": {"cell": params}}})
    return lambda params, x, **o: layer.apply({"params": {"cell": {"cell": params}}}, x, **o)


def in_nnx(cell, features, params):
    """`run(params, inputs, **options) -> (carry, outputs)` of `nnx.RNN`."""
    del params
    module = rnnx.RNNCell(cell, in_features=features, rngs=nnx.Rngs(0), param_dtype=jnp.float64)

    def run(params, x, **options):
        graph, _, rest = nnx.split(module, nnx.Param, ...)
        merged = nnx.merge(graph, {"params": params}, nnx.to_pure_dict(rest))
        return nnx.RNN(merged, return_carry=True)(x, **options)

    return run


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("make", [in_linen, in_nnx])
def test_the_loop_of_flax_equals_dynamic_rnn(make, name):
    """Outputs of valid steps, final states (from a learned start), and gradients agree."""
    cell, features = CELLS[name]
    shape = (B, T, *features)
    x = jnp.asarray(np.random.default_rng(0).normal(size=shape))
    params = perturbed(cell.init(jax.random.key(0), shape, jnp.float64), 1)
    run = make(cell, features, params)
    valid = VALID.reshape(B, T, *[1] * len(features))

    def theirs(params, x):
        carry, y = run(params, x, seq_lengths=LENGTHS)
        return jnp.where(valid, y, 0), carry

    def ours(params, x):
        return rnn.dynamic_rnn(cell, params, x, LENGTHS)

    def gradients(function):
        def loss(params, x):
            results = function(params, x)
            return weighted_sum(results), results

        return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(params, x)

    close(gradients(theirs), gradients(ours), 1e-12)


X = np.ones((2, 3, 64), np.float32)
PLAIN = rnn.BasicRNNCell(64, activation=lambda x: x)
DROP = rnn.DropoutWrapper(PLAIN, 1.0, 0.5)


def test_dropout_in_linen():
    """Masks follow `split_rngs`, one per step or one for all; `deterministic` drops nothing."""

    def layer(cell=DROP, drop=True, **o):
        return nn.RNN(rnnl.RNNCell(cell, **o), split_rngs={"params": False, "dropout": drop})

    variables = layer().init(jax.random.key(0), X)  # the params need no stream
    streams = {"dropout": jax.random.key(1)}
    plain = layer(PLAIN).apply(variables, X)
    for drop in (True, False):
        outputs = layer(drop=drop).apply(variables, X, rngs=streams)
        masks = np.asarray(outputs / plain)
        np.testing.assert_allclose(masks, np.where(masks > 1, 2, 0), atol=1e-6)
        assert (masks[:, 0] != masks[:, 1]).any() == drop and (masks[0] != masks[1]).any()
    evaluated = layer(deterministic=True).apply(variables, X, rngs=streams)
    np.testing.assert_array_equal(evaluated, plain)
    for without_stream in (lambda: layer().apply(variables, X), lambda: nn.RNN(layer().cell).apply(
        variables, X, rngs=streams
    )):  # fmt: skip
        with pytest.raises(ValueError, match="draws random numbers; expected a stream of keys"):
            without_stream()


def test_dropout_in_nnx():
    """Each step and each call draws a new mask; `eval` turns dropout off."""

    def make(cell, **o):
        return rnnx.RNNCell(cell, in_features=64, rngs=nnx.Rngs(**o))

    cell = make(DROP, params=0, dropout=1)
    plain = nnx.RNN(make(PLAIN, params=0))(X)
    layer = nnx.RNN(cell)
    masks = np.asarray(layer(X) / plain)
    np.testing.assert_allclose(masks, np.where(masks > 1, 2, 0), atol=1e-6)
    assert (masks[:, 0] != masks[:, 1]).any() and (masks[0] != masks[1]).any()
    assert (np.asarray(layer(X) / plain) != masks).any()
    layer.eval()
    np.testing.assert_array_equal(layer(X), plain)
    with pytest.raises(ValueError, match="draws random numbers; expected a stream of keys"):
        nnx.RNN(make(DROP, params=0))(X)


def test_an_rnn_cell_without_a_loop():
    """An `RNNCell` called directly has Flax's order, `(carry, x)`, and its `initialize_carry`."""
    cell = rnn.LearnedInitialState(rnn.LSTMCell(4))
    module, x = rnnl.RNNCell(cell), X[:, 0, :3]
    carry = module.initialize_carry(jax.random.key(1), x.shape)
    close(carry, cell.zero_state(2), 0)
    variables = module.init(jax.random.key(0), carry, x)
    params = variables["params"]["cell"]
    output, expected = cell(params, x, carry)
    close(module.apply(variables, carry, x), (expected, output), 0)
    params["initial_state"]["h"] += 1
    learned = module.apply(variables, jax.random.key(1), x.shape, method="initialize_carry")
    close(learned.h, np.ones((2, 4)), 0)
    other = rnnx.RNNCell(cell, in_features=3, rngs=nnx.Rngs(0))
    assert isinstance(module, nn.RNNCellBase) and isinstance(other, nnx.RNNCellBase)
    other.params = nnx.data(jax.tree.map(nnx.Param, params))
    carry = other.initialize_carry(x.shape)
    output, expected = cell(params, x, cell.start(params, 2, jnp.float32))
    close(other(carry, x), (expected, output), 0)
    images = rnn.Conv2DLSTMCell(input_shape=(3, 4, 2), output_channels=2, kernel_shape=(3, 2))
    assert rnnl.RNNCell(images).num_feature_axes == 3
    assert rnnl.RNNCell(images).initialize_carry(jax.random.key(0), (5, 3, 4, 2)).c.shape == (
        5,
        3,
        4,
        2,
    )
