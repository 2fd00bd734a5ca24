"""Foreign cells with dropout, with trained weights, and invalid ones, which are refused."""

import subprocess
import sys
from typing import Any

import flax
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
from jax_dynrnn.interop import foreign

B, T, D, H = 3, 3, 3, 2
LENGTHS = np.array([3, 0, 1])


class DropsLinen(nn.RNNCellBase):
    """A Linen cell that sums its inputs after dropout."""

    deterministic: bool = False
    num_feature_axes = 1

    @nn.compact
    def __call__(self, carry, inputs):
        new = carry + nn.Dropout(0.5)(inputs, self.deterministic)
        return new, new

    @nn.nowrap
    def initialize_carry(self, rng, input_shape):
        return jnp.zeros(input_shape)


class DropsNNX(nnx.Module):
    """An NNX cell that sums its inputs after dropout, with two random streams side by side."""

    num_feature_axes = 1

    def __init__(self):
        self.one = nnx.Dropout(0.5, rngs=nnx.Rngs(0))
        self.two = nnx.Dropout(0.5, rngs=nnx.Rngs(dropout=0))

    def __call__(self, carry, inputs):
        new = carry + jnp.concatenate([self.one(inputs), self.two(inputs)], -1)
        return new, new

    def initialize_carry(self, input_shape, rngs):
        return jnp.zeros((*input_shape[:-1], 2 * input_shape[-1]))


X = np.ones((2, 3, 64))
KEY = jax.random.key(3)


def masks_of(outputs):
    """The dropout mask of each step, of 0 and 1, recovered from running sums."""
    return np.diff(np.asarray(outputs), axis=1, prepend=0) / 2


def assert_draws_as(cell, steps):
    """Asserts that a run equals the framework's own steps, `steps(t, state) -> state`."""
    state, expected = jnp.zeros((2, 64)), []
    for t in range(3):
        state = steps(t, state)
        expected.append(state)
    outputs, _ = rnn.dynamic_rnn(cell, cell.init(KEY, X.shape), X, key=KEY)
    np.testing.assert_array_equal(outputs, jnp.stack(expected, 1))
    masks = masks_of(outputs)
    assert set(np.unique(masks)) == {0, 1}
    assert (masks[:, 0] != masks[:, 1]).any() and (masks[0] != masks[1]).any()


def test_dropout_of_linen():
    """Step t of a Linen cell draws from fold_in(key, t); without a key Flax raises its error."""
    cell = foreign.LinenCell(DropsLinen(), input_shape=(64,))

    def steps(t, state):
        rngs = {"dropout": jax.random.fold_in(KEY, t)}
        return DropsLinen().apply({}, state, X[:, t], rngs=rngs)[0]

    assert_draws_as(cell, steps)
    with pytest.raises(flax.errors.InvalidRngError, match='needs PRNG for "dropout"'):
        rnn.dynamic_rnn(cell, {}, X)
    evaluated = foreign.LinenCell(DropsLinen(deterministic=True), input_shape=[64])
    np.testing.assert_array_equal(rnn.dynamic_rnn(evaluated, {}, X)[0], np.cumsum(X, 1))


def test_dropout_of_haiku(load_oracle):
    """Step t of a Haiku core draws from fold_in(key, t); without a key Haiku raises its error."""
    hk = load_oracle("haiku")

    class Drops(hk.RNNCore):
        def __call__(self, inputs, state):
            keep = jax.random.bernoulli(hk.next_rng_key(), 0.5, inputs.shape)
            new = state + jnp.where(keep, 2 * inputs, 0)
            return new, new

        def initial_state(self, batch_size):
            return jnp.zeros((batch_size, 64))

    step = hk.transform(lambda x, state: Drops()(x, state))
    cell = foreign.HaikuCell(Drops)
    assert_draws_as(cell, lambda t, s: step.apply({}, jax.random.fold_in(KEY, t), X[:, t], s)[0])
    with pytest.raises(ValueError, match="must pass a non-None PRNGKey"):
        rnn.dynamic_rnn(cell, {}, X)


def test_dropout_of_equinox(load_oracle):
    """Each step equals Equinox's own with a split key, one per row; a key is required."""
    eqx = load_oracle("equinox")

    class Drops(eqx.Module):
        drop: Any

        def __call__(self, inputs, state, key=None):
            return state + self.drop(inputs, key=key)

    module = Drops(eqx.nn.Dropout(0.5))

    def steps(t, state):
        keys = jax.random.split(jax.random.fold_in(KEY, t), 2)
        return jnp.stack([module(X[b, t], state[b], keys[b]) for b in range(2)])

    cell = foreign.EquinoxCell(module, state=np.zeros(64))
    assert_draws_as(cell, steps)
    with pytest.raises(RuntimeError, match="requires a key"):
        rnn.dynamic_rnn(cell, cell.params, X)


def test_dropout_of_nnx():
    """All streams draw independently; without a key none draws, and no counter advances."""
    module = DropsNNX()
    cell = foreign.NNXCell(module, input_shape=(64,))

    def run(key):
        return rnn.dynamic_rnn(cell, {}, X, key=key)[0]

    masks = masks_of(run(KEY))
    assert set(np.unique(masks)) == {0, 1}
    assert (masks[..., :64] != masks[..., 64:]).any()
    assert (masks[:, 0] != masks[:, 1]).any() and (masks[0] != masks[1]).any()
    np.testing.assert_array_equal(masks, masks_of(run(KEY)))
    assert (masks != masks_of(run(jax.random.PRNGKey(4)))).any()
    np.testing.assert_array_equal(run(None)[..., :64], np.cumsum(X, 1))
    assert int(module.one.rngs.count.get_value()) == 0 and not module.one.deterministic
    module.eval()
    np.testing.assert_array_equal(run(KEY), run(None))


def test_params_of_an_nnx_module_are_current():
    """`cell.params` are the current values of the module, even as tracers inside of a model."""
    module = nnx.GRUCell(D, H, rngs=nnx.Rngs(0))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(B, T, D)))
    cell = foreign.NNXCell(module)
    params = perturbed(cell.params, 1)
    nnx.update(module, params)
    close(cell.params, params, 0)

    def total(module):
        cell = foreign.NNXCell(module)
        return weighted_sum(rnn.dynamic_rnn(cell, cell.params, x, LENGTHS))

    gradients = nnx.to_pure_dict(nnx.jit(nnx.grad(total))(module))

    def function(params):
        return weighted_sum(rnn.dynamic_rnn(cell, params, x, LENGTHS))

    close(gradients, jax.jit(jax.grad(function))(params), 1e-6)


def test_params_of_an_equinox_module(load_oracle):
    """The module itself serves as params; `cell.params` leaves out what is not an array."""
    eqx = load_oracle("equinox")
    module = eqx.nn.GRUCell(D, H, use_bias=False, key=jax.random.key(0))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(B, T, D)))

    def total(module):
        return weighted_sum(rnn.dynamic_rnn(foreign.EquinoxCell(module), module, x, LENGTHS))

    cell = foreign.EquinoxCell(module)

    def function(params):
        return weighted_sum(rnn.dynamic_rnn(cell, params, x, LENGTHS))

    gradients = eqx.filter_jit(eqx.filter_grad(total))(module)
    close(gradients, jax.jit(jax.grad(function))(cell.params), 1e-12)

    class Own(eqx.Module):
        weight: jax.Array
        activation: Any

        def __call__(self, inputs, state):
            return self.activation(self.weight * inputs + state)

    own = foreign.EquinoxCell(Own(jnp.full(D, 0.5), jnp.tanh), state=jnp.ones(D))
    assert jax.tree.structure(own.params) == jax.tree.structure(
        eqx.filter(own.module, eqx.is_array)
    )
    _, state = rnn.dynamic_rnn(own, own.params, x, LENGTHS)
    np.testing.assert_array_equal(state[1], np.ones(D))
    np.testing.assert_allclose(state[2], np.tanh(0.5 * x[2, 0] + 1), rtol=1e-12)


def test_foreign_cells_compare_by_value():
    """Linen cells with equal modules are equal, and Haiku cells with the same function."""
    one, other = (foreign.LinenCell(nn.GRUCell(H)) for _ in range(2))
    assert one == other and hash(one) == hash(other) and one != foreign.LinenCell(nn.GRUCell(3))

    def make():
        return None

    assert foreign.HaikuCell(make) == foreign.HaikuCell(make) != foreign.HaikuCell(lambda: None)
    made = []

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            made.append(foreign.LinenCell(nn.GRUCell(H)))
            return rnnl.RNN(made[-1])(x)

    variables = Model().init(jax.random.key(0), X)
    assert made == [one] and set(variables["params"]) == {"RNN_0"}


class Averages(nnx.Module):
    """An NNX cell with batch statistics, which are not params."""

    num_feature_axes = 1

    def __init__(self):
        self.norm = nnx.BatchNorm(D, rngs=nnx.Rngs(0))

    def initialize_carry(self, input_shape, rngs): ...


class Counts(DropsLinen):
    """A Linen cell with a variable that is not a param."""

    @nn.compact
    def __call__(self, carry, inputs):
        self.variable("counts", "n", lambda: jnp.zeros(()))
        return carry, carry


def test_invalid_modules_are_refused(load_oracle):
    """Other objects, and modules with variables that are not params, are refused."""
    refused = [
        (lambda: foreign.LinenCell(nn.Dense(3)), TypeError, "instance of RNNCellBase.*got Dense"),
        (lambda: foreign.LinenCell(nn.GRUCell), TypeError, "instance of RNNCellBase.*got <class"),
        (
            lambda: foreign.NNXCell(nnx.Linear(2, 2, rngs=nnx.Rngs(0))),
            TypeError,
            "NNXCell: expected an instance",
        ),
        (
            lambda: rnn.dynamic_rnn(foreign.LinenCell(nn.GRUCell(H)), {}, {"a": X}),
            ValueError,
            "takes one array of inputs, as Flax's RNN does: expected one shape, got {'a'",
        ),
        (
            lambda: foreign.LinenCell(nn.ConvLSTMCell(H, (2,)), input_shape=(3,)),
            ValueError,
            r"input_shape to be that of one step of one row, of 2 axes, got \(3,\)",
        ),
        (
            lambda: foreign.LinenCell(nn.ConvLSTMCell(H, (2,))).zero_state(2),
            ValueError,
            "expected input_shape=, the shape of one step of one row, of 2 axes, got None",
        ),
        (
            lambda: foreign.LinenCell(Counts()).init(KEY, X.shape),
            TypeError,
            "LinenCell.Counts.: expected a module with no variables but params, got counts",
        ),
        (
            lambda: foreign.NNXCell(Averages()).params,
            TypeError,
            "expected a module with no variables but nnx.Param.*got BatchStat",
        ),
        (lambda: foreign.HaikuCell(3), TypeError, "a function that makes a core.*got 3"),
        (lambda: foreign.EquinoxCell(3), TypeError, "an instance of a module.*got 3"),
    ]
    for call, error, message in refused:
        with pytest.raises(error, match=message):
            call()
    eqx = load_oracle("equinox")
    with pytest.raises(TypeError, match="expected state=, where a row of Linear begins"):
        foreign.EquinoxCell(eqx.nn.Linear(2, 2, key=KEY))


def test_no_framework_is_imported_before_it_is_used():
    """Importing `interop` imports none of the frameworks."""
    names = ["flax", "haiku", "equinox", "torch", "keras", "tensorflow"]
    program = f"import sys, jax_dynrnn.interop; print(set({names}) & set(sys.modules))"
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert output.stdout == "set()\n", output
