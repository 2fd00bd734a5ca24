"""Configurations and problems for comparing our cells with TensorFlow's.

`CONFIGS` pairs each of our cells with a function that builds TensorFlow's. `problem` draws the
weights, inputs, lengths and states, and `ours` computes our results. TensorFlow's are computed by
`tensorflow_run`, in TensorFlow 2.21, or are stored in golden/.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jax_dynrnn as rnn

H = 4
KEEP = {"input_keep_prob": 0.75, "output_keep_prob": 0.5, "state_keep_prob": 0.625}


@dataclasses.dataclass(frozen=True)
class Config:
    """Our cell, and a function `build(cells module)` that builds TensorFlow's."""

    ours: Any
    build: Callable
    features: int = 3


def subtract(inputs, outputs):
    return inputs - 2.0 * outputs


CONFIGS = {
    "basic_rnn": Config(rnn.BasicRNNCell(H), lambda tf: tf.BasicRNNCell(H)),
    "basic_rnn_relu": Config(
        rnn.BasicRNNCell(H, activation=jax.nn.relu), lambda tf: tf.BasicRNNCell(H, tf.relu)
    ),
    "gru": Config(rnn.GRUCell(H), lambda tf: tf.GRUCell(H)),
    "gru_softsign": Config(
        rnn.GRUCell(H, activation=jax.nn.soft_sign), lambda tf: tf.GRUCell(H, tf.softsign)
    ),
    "cudnn_gru": Config(rnn.CudnnCompatibleGRUCell(H), lambda tf: tf.CudnnCompatibleGRUCell(H)),
    "basic_lstm": Config(rnn.BasicLSTMCell(H), lambda tf: tf.BasicLSTMCell(H)),
    "basic_lstm_options": Config(
        rnn.BasicLSTMCell(H, forget_bias=0.3, activation=jax.nn.sigmoid),
        lambda tf: tf.BasicLSTMCell(H, 0.3, activation=tf.sigmoid),
    ),
    "lstm": Config(rnn.LSTMCell(H), lambda tf: tf.LSTMCell(H)),
    "lstm_peepholes": Config(
        rnn.LSTMCell(H, use_peepholes=True), lambda tf: tf.LSTMCell(H, use_peepholes=True)
    ),
    "lstm_clip": Config(
        rnn.LSTMCell(H, cell_clip=0.3, forget_bias=0.0),
        lambda tf: tf.LSTMCell(H, cell_clip=0.3, forget_bias=0.0),
    ),
    "lstm_clip_0": Config(
        rnn.LSTMCell(H, use_peepholes=True, cell_clip=0.0),
        lambda tf: tf.LSTMCell(H, use_peepholes=True, cell_clip=0.0),
    ),
    "lstm_projection": Config(rnn.LSTMCell(H, num_proj=2), lambda tf: tf.LSTMCell(H, num_proj=2)),
    "lstm_everything": Config(
        rnn.LSTMCell(
            H,
            use_peepholes=True,
            cell_clip=0.4,
            num_proj=3,
            proj_clip=0.1,
            forget_bias=2.0,
            activation=jax.nn.soft_sign,
        ),
        lambda tf: tf.LSTMCell(
            H,
            use_peepholes=True,
            cell_clip=0.4,
            num_proj=3,
            proj_clip=0.1,
            forget_bias=2.0,
            activation=tf.softsign,
        ),
    ),
    "multi": Config(
        rnn.MultiRNNCell([rnn.LSTMCell(H), rnn.GRUCell(2), rnn.BasicRNNCell(3)]),
        lambda tf: tf.MultiRNNCell([tf.LSTMCell(H), tf.GRUCell(2), tf.BasicRNNCell(3)]),
    ),
    "residual": Config(
        rnn.ResidualWrapper(rnn.GRUCell(H)), lambda tf: tf.ResidualWrapper(tf.GRUCell(H)), H
    ),
    "residual_fn": Config(
        rnn.ResidualWrapper(rnn.GRUCell(H), residual_fn=subtract),
        lambda tf: tf.ResidualWrapper(tf.GRUCell(H), subtract),
        H,
    ),
    "dropout": Config(
        rnn.DropoutWrapper(rnn.LSTMCell(H), **KEEP),
        lambda tf: tf.DropoutWrapper(tf.LSTMCell(H), **KEEP),
    ),
    "dropout_filter": Config(
        rnn.DropoutWrapper(
            rnn.MultiRNNCell([rnn.LSTMCell(H), rnn.GRUCell(H)]),
            **KEEP,
            dropout_state_filter_visitor=lambda s: not isinstance(s, rnn.LSTMStateTuple),
        ),
        lambda tf: tf.DropoutWrapper(
            tf.MultiRNNCell([tf.LSTMCell(H), tf.GRUCell(H)]),
            **KEEP,
            dropout_state_filter_visitor=lambda s: not isinstance(s, tf.LSTMStateTuple),
        ),
    ),
    "emit": Config(rnn.EmitState(rnn.LSTMCell(H)), lambda tf: tf.EmitState(tf.LSTMCell(H))),
    "learned": Config(rnn.LearnedInitialState(rnn.LSTMCell(H)), lambda tf: tf.LSTMCell(H)),
}


def learns(config):
    """Whether the start state is learned, so that no initial state is passed."""
    return isinstance(config.ours, rnn.LearnedInitialState)


def options(config):
    """The options of a run: a key, for a cell with dropout."""
    return {"key": jax.random.key(0)} if "Dropout" in repr(config.ours) else {}


def dropout_mask(shape):
    """The fixed mask that replaces random dropout masks on both sides."""
    return (np.arange(int(np.prod(shape))) * 7 % 5 < 3).reshape(shape)


def weights(i, shape):
    """The weights of leaf i of the results in the loss; see laws.weighted_sum."""
    return np.cos(1.0 + i + np.arange(int(np.prod(shape)))).reshape(shape)


def problem(config, *, bidirectional, batch, time, seed, lengths, given_state):
    """Random weights, inputs and states, as float64 NumPy arrays."""
    random = np.random.default_rng(seed)
    shape = (batch, time, config.features)
    cell = config.ours
    init = (
        (lambda: rnn.init_bidirectional(jax.random.key(0), cell, cell, shape))
        if bidirectional
        else (lambda: cell.init(jax.random.key(0), shape))
    )

    def draw(x):
        return 0.6 * random.normal(size=x.shape)

    state = jax.eval_shape(lambda: cell.zero_state(batch))
    state = (state, state) if bidirectional else (state,)
    return {
        "params": jax.tree.map(draw, jax.eval_shape(init)),
        "inputs": random.normal(size=shape),
        "lengths": lengths,
        "state": jax.tree.map(draw, state) if given_state else None,
    }


def ours(config, problem, dtype, **options):
    """Our outputs, state, and gradients with respect to params, inputs and state, for a problem."""
    cell, lengths = config.ours, problem["lengths"]
    params, inputs, state = jax.tree.map(
        lambda x: jnp.asarray(x, dtype), (problem["params"], problem["inputs"], problem["state"])
    )
    bidirectional = set(params) == {"fw", "bw"}

    def loss(params, inputs, state):
        if bidirectional:
            states = state or (None, None)
            results = rnn.bidirectional_dynamic_rnn(
                cell, cell, params, inputs, lengths, *states, **options
            )
        else:
            initial = state[0] if state else None
            results = rnn.dynamic_rnn(cell, params, inputs, lengths, initial, **options)
        total = 0.0
        for i, x in enumerate(jax.tree.leaves(results)):
            total = total + (x.astype(float) * jnp.asarray(weights(i, x.shape))).sum()
        return total, results

    gradient = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))
    gradients, (outputs, final) = gradient(params, inputs, state)
    return {"outputs": outputs, "state": final, "gradients": gradients}


def flat(tree):
    """A result as `{path: float64 array}`, to be stored or compared."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]

    def name(path):
        return jax.tree_util.keystr(path, simple=True, separator="/")

    return {name(path): np.asarray(x).astype(np.float64) for path, x in leaves}
