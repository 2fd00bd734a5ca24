"""Static runs, saved states and `raw_rnn` agree with TensorFlow's own functions, run live.

Outputs, states and all gradients are compared in float64, for random weights and lengths.
"""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import close
from tensorflow_oracle import flat, weights

import jax_dynrnn as rnn

T, B, D, H = 5, 4, 3, 3


def problem(cell, seed, directions=()):
    """Random inputs `[T, B, D]`, lengths that include 0 and T, params and a state."""
    random = np.random.default_rng(seed)
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), (B, D)))
    params = {name: params for name in directions} if directions else params

    def draw(x):
        return 0.6 * random.normal(size=x.shape)

    lengths = random.permutation([0, T, *random.integers(T + 1, size=B - 2)])
    return types.SimpleNamespace(
        inputs=random.normal(size=(T, B, D)),
        lengths=lengths.astype(np.int32),
        params=jax.tree.map(draw, params),
        state=jax.tree.map(draw, jax.eval_shape(lambda: cell.zero_state(B))),
    )


def ours(run, given):
    """Our results of `run(params, inputs)`, and the gradients of their weighted sum."""

    def loss(params, inputs):
        results = run(params, inputs)
        leaves = [x for x in jax.tree.leaves(results) if jnp.issubdtype(x.dtype, jnp.floating)]
        return sum((x * weights(i, x.shape)).sum() for i, x in enumerate(leaves)), results

    gradients, results = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(given.params, given.inputs)
    return flat({"results": jax.tree.leaves(results), "gradients": gradients})


def theirs(run, given):
    """TensorFlow's results and gradients of `run(inputs)`, in a graph."""
    import tensorflow as tf
    import tensorflow_run

    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        inputs = tf.constant(given.inputs)
        results = tf.nest.flatten(run(inputs))

        def weighted(i, x):  # like tensorflow_oracle.weights, for shapes that are not static
            angles = tf.cast(tf.range(tf.size(x)), tf.float64) + (1.0 + i)
            return tf.reduce_sum(x * tf.reshape(tf.cos(angles), tf.shape(x)))

        floating = [x for x in results if x.dtype == tf.float64]
        total = sum(weighted(i, x) for i, x in enumerate(floating))
        variables = {tensorflow_run._path(v.name): v for v in v1.global_variables()}
        *by_name, by_inputs = v1.gradients(total, [*variables.values(), inputs])
        session.run(v1.global_variables_initializer())
        values = tensorflow_run._flat_params(given.params)
        for name, variable in variables.items():
            variable.load(values[name], session)
        results, by_name, by_inputs = session.run((results, by_name, by_inputs))
        named = dict(zip(variables, by_name, strict=True))
        params = jax.tree_util.tree_map_with_path(
            lambda path, _: named[tensorflow_run._name(path)], given.params
        )
        return flat({"results": results, "gradients": (params, by_inputs)})


def compare(our_run, their_run, given):
    actual, expected = ours(our_run, given), theirs(their_run, given)
    assert any(np.abs(x).max() > 0.1 for x in expected.values())
    close(actual, expected, 1e-12)


@pytest.fixture
def tf(load_oracle):
    return load_oracle("tensorflow")


@pytest.fixture
def cells(tf):
    import tensorflow_run

    return tensorflow_run.CELLS


@pytest.mark.parametrize("lengths", [True, False])
def test_static_rnn(tf, cells, lengths):
    """`static_rnn` from an initial state, with and without lengths."""
    options = {"use_peepholes": True, "num_proj": 2}
    cell = rnn.LSTMCell(H, **options)
    given = problem(cell, seed=1)
    lengths = given.lengths if lengths else None

    def our_run(params, inputs):
        return rnn.static_rnn(cell, params, list(inputs), given.state, sequence_length=lengths)

    def their_run(inputs):
        steps, state = tf.unstack(inputs), cells.LSTMStateTuple(*map(tf.constant, given.state))
        run, cell = tf.compat.v1.nn.static_rnn, cells.LSTMCell(H, **options)
        return run(cell, steps, state, sequence_length=lengths)

    compare(our_run, their_run, given)


def test_static_bidirectional_rnn(tf, cells):
    """`static_bidirectional_rnn` with two initial states and lengths."""
    cell = rnn.GRUCell(H)
    given = problem(cell, 2, ("fw", "bw"))
    states = given.state, -given.state

    def our_run(params, inputs):
        return rnn.static_bidirectional_rnn(
            cell, cell, params, list(inputs), *states, sequence_length=given.lengths
        )

    def their_run(inputs):
        run, steps = tf.compat.v1.nn.static_bidirectional_rnn, tf.unstack(inputs)
        given_states = map(tf.constant, states)
        pair = cells.GRUCell(H), cells.GRUCell(H)
        return run(*pair, steps, *given_states, sequence_length=given.lengths)

    compare(our_run, their_run, given)


def test_static_state_saving_rnn(tf, cells):
    """Our saver holds the states that TensorFlow passes to its saver."""
    cell = rnn.BasicLSTMCell(H)
    given = problem(cell, 3)
    names = ("c", "m")

    class Saver:
        def __init__(self):
            values = map(tf.constant, given.state)
            self.saved = dict(zip(names, values, strict=True))

        def state(self, name):
            return self.saved[name]

        def save_state(self, name, value):
            self.saved[name] = value
            return tf.identity(value)

    def our_run(params, inputs):
        saver = dict(zip(names, given.state, strict=True))
        return rnn.static_state_saving_rnn(
            cell, params, list(inputs), saver, names, sequence_length=given.lengths
        )

    def their_run(inputs):
        saver, run = Saver(), tf.compat.v1.nn.static_state_saving_rnn
        steps, cell = tf.unstack(inputs), cells.BasicLSTMCell(H)
        results = run(cell, steps, saver, names, sequence_length=given.lengths)
        return *results, saver.saved

    compare(our_run, their_run, given)


def feeding_back(ops, inputs, given):
    """A `loop_fn` for both libraries, which changes inputs, state, emission and loop state."""

    def loop_fn(time, output, state, loop_state):
        x = ops.take(inputs, ops.minimum(time, T - 1))
        finished = time >= given.lengths
        if output is None:
            emit = ops.zeros([H], ops.float64), ops.zeros([], ops.int32)
            return finished, x, given.state + ops.zeros([B, H], ops.float64), emit, ops.one
        emit = 2.0 * output, ops.zeros([B], ops.int32) + time
        total = loop_state + ops.sum(output * output)
        return finished, x + 0.3 * output, 0.9 * state, emit, total

    return loop_fn


def test_raw_rnn(tf, cells):
    """`raw_rnn` with a `loop_fn` that feeds outputs back, changes states, and emits a pair."""
    cell = rnn.GRUCell(H)
    given = problem(cell, 4)
    ours_ops = types.SimpleNamespace(
        take=lambda x, i: x[i], minimum=jnp.minimum, zeros=jnp.zeros, sum=jnp.sum, one=jnp.ones(()),
        float64=jnp.float64, int32=jnp.int32,
    )  # fmt: skip

    def our_run(params, inputs):
        loop_fn = feeding_back(ours_ops, inputs, given)
        emitted, state, total = rnn.raw_rnn(cell, params, loop_fn, maximum_iterations=T)
        return emitted.stack(), state, total

    def their_run(inputs):
        one = tf.constant(1.0, tf.float64)
        ops = types.SimpleNamespace(
            take=tf.gather, minimum=tf.minimum, zeros=tf.zeros, sum=tf.reduce_sum, one=one,
            float64=tf.float64, int32=tf.int32,
        )  # fmt: skip
        loop_fn = feeding_back(ops, inputs, given)
        arrays, state, total = tf.compat.v1.nn.raw_rnn(cells.GRUCell(H), loop_fn)
        return [array.stack() for array in arrays], state, total

    compare(our_run, their_run, given)


def test_keras_simple_rnn_layer(tf):
    """TF's testKerasAndTFRNNLayerOutputComparison: Keras's weights, concatenated, are TF1's."""
    from tensorflow.python.keras.layers import recurrent

    given = problem(rnn.BasicRNNCell(H), 5)
    layer = recurrent.SimpleRNN(H, return_sequences=True, return_state=True, dtype="float64")
    inputs = given.inputs.swapaxes(0, 1)
    layer(inputs)
    kernel, recurrent_kernel = np.split(given.params["kernel"], [D])
    layer.set_weights([kernel, recurrent_kernel, given.params["bias"]])
    expected = tuple(x.numpy() for x in layer(inputs))
    close(rnn.dynamic_rnn(rnn.BasicRNNCell(H), given.params, inputs), expected, 1e-12)
