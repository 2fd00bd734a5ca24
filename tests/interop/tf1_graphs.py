"""Models of TensorFlow 1, built and trained by TensorFlow 2.21 (which this imports)."""

import contextlib

import numpy as np
import tensorflow as tf
from tensorflow_oracle import weights
from tensorflow_run import CELLS
from tensorflow_run import _ours as ours

v1 = tf.compat.v1


def single(cell, inputs, lengths):
    return v1.nn.dynamic_rnn(cell, inputs, lengths, dtype=inputs.dtype)


def bidirectional(cells, inputs, lengths):
    return v1.nn.bidirectional_dynamic_rnn(*cells, inputs, lengths, dtype=inputs.dtype)


def stacked(cells, inputs, lengths):
    """`tf.contrib.rnn.stack_bidirectional_dynamic_rnn`, written from its description."""
    states = []
    with v1.variable_scope("stack_bidirectional_rnn"):
        for i, pair in enumerate(zip(*cells, strict=True)):
            with v1.variable_scope(f"cell_{i}"):
                outputs, state = bidirectional(pair, inputs, lengths)
            inputs = tf.concat(outputs, 2)
            states.append(state)
    return inputs, *zip(*states, strict=True)


def train(run, build, inputs, lengths, *, scope="model", partitions=0):
    """Trains two steps of Adam; returns all variables, and results and gradients with them.

    Args:
        run: one of the functions above.
        build: a function of the namespace of cells that builds those of the model.

    Returns:
        `(variables, results, gradients)`: arrays by TensorFlow's names, results in our structure,
        and the gradients by name and by the inputs.
    """
    partitioner = v1.fixed_size_partitioner(partitions) if partitions else None
    with tf.Graph().as_default(), v1.Session() as session:
        x = tf.constant(inputs)
        variable_scope = v1.variable_scope(scope, partitioner=partitioner)
        with variable_scope if scope else contextlib.nullcontext():
            results = run(build(CELLS), x, tf.constant(lengths))
        trained = v1.trainable_variables()
        gradients = v1.gradients(total(results), [*trained, x])
        step = v1.train.AdamOptimizer(0.1).apply_gradients(
            zip(gradients, trained, strict=False), v1.train.get_or_create_global_step()
        )
        session.run(v1.global_variables_initializer())
        for _ in range(2):  # so that neither biases nor slots are 0
            session.run(step)
        *gradients, of_inputs = session.run(gradients)
        named = {v.name: g for v, g in zip(trained, gradients, strict=True)}
        variables = {v.name: v.eval() for v in v1.global_variables()}
        return variables, ours(session.run(results)), (named, of_inputs)


def total(results):
    return tf.add_n([
        tf.reduce_sum(x * weights(i, x.shape.as_list()).astype(x.dtype.as_numpy_dtype))
        for i, x in enumerate(tf.nest.flatten(results))
    ])  # fmt: skip


INPUTS = np.random.default_rng(0).normal(size=(3, 4, 3))
LENGTHS = np.array([4, 2, 0], np.int32)
