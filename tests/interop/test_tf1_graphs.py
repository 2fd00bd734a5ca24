"""Models trained by TensorFlow have the same outputs, states and gradients after import."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import close
from tensorflow_oracle import weights

import jax_dynrnn as rnn
from jax_dynrnn.interop import checkpoint, tf1


def options(cells):
    return {
        "use_peepholes": True, "cell_clip": 0.4, "num_proj": 3, "proj_clip": 0.1,
        "forget_bias": 2.0, "activation": cells,
    }  # fmt: skip


def layers(tf):
    """A stack with wrappers that have no variables, of TensorFlow's or of our cells."""
    # Our run has no key, and so drops nothing.
    keep = {"output_keep_prob": 1.0 if hasattr(tf, "softsign") else 0.5}
    return [
        tf.DropoutWrapper(tf.LSTMCell(3, use_peepholes=True), **keep),
        tf.ResidualWrapper(tf.GRUCell(3)),
        tf.BasicRNNCell(2),
    ]


MODELS = {
    "basic_rnn": ("single", rnn.BasicRNNCell(2), lambda tf: tf.BasicRNNCell(2)),
    "cudnn_gru": (
        "single", rnn.CudnnCompatibleGRUCell(2), lambda tf: tf.CudnnCompatibleGRUCell(2)
    ),
    "every_option": (
        "single",
        rnn.LSTMCell(4, **options(jax.nn.soft_sign)),
        lambda tf: tf.LSTMCell(4, **options(tf.softsign)),
    ),
    "multi": (
        "single", rnn.MultiRNNCell(layers(rnn)), lambda tf: tf.MultiRNNCell(layers(tf))
    ),
    "bidirectional": (
        "bidirectional",
        (rnn.GRUCell(2), rnn.MultiRNNCell([rnn.BasicLSTMCell(2), rnn.GRUCell(3)])),
        lambda tf: (tf.GRUCell(2), tf.MultiRNNCell([tf.BasicLSTMCell(2), tf.GRUCell(3)])),
    ),
    "stacked": (
        "stacked",
        ([rnn.GRUCell(2), rnn.LSTMCell(2)], [rnn.BasicLSTMCell(3), rnn.GRUCell(2)]),
        lambda tf: ([tf.GRUCell(2), tf.LSTMCell(2)], [tf.BasicLSTMCell(3), tf.GRUCell(2)]),
    ),
}  # fmt: skip


def run(kind, cells, params, inputs, lengths):
    if kind == "single":
        return rnn.dynamic_rnn(cells, params, inputs, lengths)
    both = {
        "bidirectional": rnn.bidirectional_dynamic_rnn,
        "stacked": rnn.stack_bidirectional_dynamic_rnn,
    }[kind]
    return both(*cells, params, inputs, lengths)


def results_and_gradients(kind, cells, params, inputs, lengths):
    def loss(params, inputs):
        results = run(kind, cells, params, inputs, lengths)
        leaves = enumerate(jax.tree.leaves(results))
        return sum((x * weights(i, x.shape)).sum() for i, x in leaves), results

    gradients, results = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(params, inputs)
    return results, gradients


@pytest.mark.parametrize("name", MODELS)
def test_a_trained_model(name, load_oracle):
    """Results and gradients agree; optimizer slots and steps among the variables are ignored."""
    load_oracle("tensorflow")
    import tf1_graphs

    kind, cells, build = MODELS[name]
    inputs, lengths = tf1_graphs.INPUTS, tf1_graphs.LENGTHS
    variables, expected, (by_name, by_inputs) = tf1_graphs.train(
        getattr(tf1_graphs, kind), build, inputs, lengths
    )
    params = tf1.import_params(cells, variables)
    results, (by_params, ours) = results_and_gradients(
        kind, cells, params, jnp.asarray(inputs), lengths
    )
    close(results, expected, 1e-12)
    close(ours, by_inputs, 1e-12)
    scope = "model/" + {"single": "rnn", "bidirectional": "bidirectional_rnn"}.get(
        kind, "stack_bidirectional_rnn"
    )
    exported = tf1.export_params(cells, by_params, scope)
    close({f"{name}:0": x for name, x in exported.items()}, by_name, 1e-12)
    reexported = tf1.export_params(cells, params, scope)
    for key, value in reexported.items():
        np.testing.assert_array_equal(value, variables[f"{key}:0"])


def test_a_partitioned_model(load_oracle):
    """A model with every kernel and bias in shards (`kernel/part_0`) has TensorFlow's results."""
    load_oracle("tensorflow")
    import tf1_graphs

    def build(tf):
        return tf.MultiRNNCell([tf.LSTMCell(4, use_peepholes=True, num_proj=3), tf.GRUCell(2)])

    inputs, lengths = tf1_graphs.INPUTS, tf1_graphs.LENGTHS
    variables, expected, _ = tf1_graphs.train(
        tf1_graphs.single, build, inputs, lengths, partitions=2
    )
    assert sum(name.endswith("part_1:0") for name in variables) == 10
    params = tf1.import_params(build(rnn), variables)
    results = rnn.dynamic_rnn(build(rnn), params, jnp.asarray(inputs), lengths)
    close(results, expected, 1e-12)


def test_a_model_of_two_runs(load_oracle):
    """Two runs in one graph are imported by their scopes, and are ambiguous without."""
    load_oracle("tensorflow")
    import tensorflow as tf
    import tf1_graphs

    inputs, lengths = tf1_graphs.INPUTS, tf1_graphs.LENGTHS

    def encoder_decoder(cells, inputs, lengths):
        with tf.compat.v1.variable_scope("encoder"):
            _, state = tf1_graphs.single(cells[0], inputs, lengths)
        return tf.compat.v1.nn.dynamic_rnn(
            cells[1], inputs, lengths, initial_state=state, scope="decoder"
        )

    variables, expected, _ = tf1_graphs.train(
        encoder_decoder, lambda tf: (tf.GRUCell(2), tf.GRUCell(2)), inputs, lengths, scope=""
    )
    cell, x = rnn.GRUCell(2), jnp.asarray(inputs)
    with pytest.raises(ValueError, match="got 'encoder/rnn', 'decoder'; pass scope="):
        tf1.import_params(cell, variables)
    _, state = rnn.dynamic_rnn(cell, tf1.import_params(cell, variables, "encoder"), x, lengths)
    decoder = tf1.import_params(cell, variables, "decoder")
    close(rnn.dynamic_rnn(cell, decoder, x, lengths, state), expected, 1e-12)


def test_a_checkpoint_under_old_names(tmp_path, load_oracle):
    """Names of TF 0.12 are imported; the export is restored by TensorFlow under current names."""
    tf = load_oracle("tensorflow")
    import tf1_graphs

    def build(tf):
        return tf.MultiRNNCell([tf.BasicLSTMCell(2), tf.LSTMCell(3, num_proj=2)])

    old = {
        "multi_rnn_cell/cell_": "MultiRNNCell/Cell",
        "basic_lstm_cell/kernel": "BasicLSTMCell/Linear/Matrix",
        "basic_lstm_cell/bias": "BasicLSTMCell/Linear/Bias",
        "lstm_cell/projection/kernel": "LSTMCell/W_P_0",
        "lstm_cell/kernel": "LSTMCell/W_0",
        "lstm_cell/bias": "LSTMCell/B",
        "rnn/": "RNN/",
    }
    v1, inputs, lengths = tf.compat.v1, tf1_graphs.INPUTS, tf1_graphs.LENGTHS
    with tf.Graph().as_default(), v1.Session() as session:
        results = tf1_graphs.single(build(tf1_graphs.CELLS), tf.constant(inputs), lengths)
        renamed = {v.op.name: v for v in v1.global_variables()}
        for new, before in old.items():
            renamed = {name.replace(new, before): v for name, v in renamed.items()}
        assert not any("lstm_cell" in name or "kernel" in name for name in renamed)
        session.run(v1.global_variables_initializer())
        v1.train.Saver(renamed).save(session, str(tmp_path / "old"))
        expected = tf1_graphs.ours(session.run(results))
        params = tf1.import_params(build(rnn), checkpoint.read_checkpoint(tmp_path / "old"))
        close(rnn.dynamic_rnn(build(rnn), params, jnp.asarray(inputs), lengths), expected, 1e-12)
        checkpoint.write_checkpoint(tmp_path / "new", tf1.export_params(build(rnn), params))
        session.run(v1.global_variables_initializer())
        v1.train.Saver().restore(session, str(tmp_path / "new"))
        close(tf1_graphs.ours(session.run(results)), expected, 1e-12)
