"""Runs the problems of `tensorflow_oracle` in TensorFlow; imported only if it is installed."""

import types

import jax
import numpy as np
import tensorflow as tf
from tensorflow.python.keras.layers.legacy_rnn import rnn_cell_wrapper_impl
from tensorflow.python.ops import rnn_cell_impl
from tensorflow_oracle import dropout_mask, weights

import jax_dynrnn as rnn

v1 = tf.compat.v1
LAYERS = {"rnn", "multi_rnn_cell", "basic_rnn_cell", "gru_cell", "basic_lstm_cell", "lstm_cell"}
LAYERS |= {"bidirectional_rnn", "cudnn_compatible_gru_cell"}


class CudnnCompatibleGRUCell(rnn_cell_impl.LayerRNNCell):
    """TF1's cell of contrib, which TensorFlow 2 lacks, written from its description."""

    def __init__(self, num_units):
        super().__init__(name="cudnn_compatible_gru_cell")
        self._n = num_units

    state_size = property(lambda self: self._n)
    output_size = property(lambda self: self._n)

    def build(self, shape):
        d, n = int(shape[-1]), self._n
        add = self.add_variable
        self.w, self.b = add("gates/kernel", [d + n, 2 * n]), add("gates/bias", [2 * n])
        names = ("candidate/input_projection/", "candidate/hidden_projection/")
        (self.wi, self.bi), (self.wh, self.bh) = (
            (add(name + "kernel", [size, n]), add(name + "bias", [n]))
            for name, size in zip(names, (d, n), strict=True)
        )
        self.built = True

    def call(self, x, h):
        r, u = tf.split(tf.sigmoid(tf.matmul(tf.concat([x, h], 1), self.w) + self.b), 2, 1)
        hidden = tf.matmul(h, self.wh) + self.bh
        c = tf.tanh(tf.matmul(x, self.wi) + self.bi + r * hidden)
        new = u * h + (1 - u) * c
        return new, new


class EmitState(rnn_cell_impl.RNNCell):
    """Returns the pair of output and state as its output."""

    def __init__(self, cell):
        super().__init__()
        self._cell = cell

    state_size = property(lambda self: self._cell.state_size)
    output_size = property(lambda self: (self._cell.output_size, self._cell.state_size))

    def __call__(self, inputs, state, scope=None):
        output, new = self._cell(inputs, state)
        return (output, new), new


CELLS = types.SimpleNamespace(
    **{n: getattr(rnn_cell_impl, n) for n in dir(rnn_cell_impl) if n[0].isupper()},
    CudnnCompatibleGRUCell=CudnnCompatibleGRUCell,
    EmitState=EmitState,
    relu=tf.nn.relu,
    sigmoid=tf.sigmoid,
    softsign=tf.nn.softsign,
)


def run(config, problem, dtype="float64"):
    """TensorFlow's outputs, state and gradients, in the structure of `tensorflow_oracle.ours`."""
    real = rnn_cell_wrapper_impl.nn_ops

    # Dropout is replaced by a fixed mask, which our side uses too.
    def fixed(v, rate, seed):
        return v * dropout_mask(v.shape.as_list()).astype(dtype) / (1.0 - rate)

    rnn_cell_wrapper_impl.nn_ops = types.SimpleNamespace(dropout_v2=fixed)
    try:
        with tf.Graph().as_default(), v1.Session() as session:
            return _run(session, config, problem, dtype)
    finally:
        rnn_cell_wrapper_impl.nn_ops = real


def _run(session, config, problem, dtype):
    params = problem["params"]
    bidirectional = set(params) == {"fw", "bw"}
    inputs = tf.constant(problem["inputs"], dtype)
    lengths = problem["lengths"]
    lengths = None if lengths is None else tf.constant(lengths)
    states, learned = _states(config, problem, dtype)
    if bidirectional:
        cells = config.build(CELLS), config.build(CELLS)
        nested = isinstance(cells[0], EmitState)
        both = _nested_bidirectional if nested else v1.nn.bidirectional_dynamic_rnn
        results = both(*cells, inputs, lengths, *states, dtype=dtype)
    else:
        results = v1.nn.dynamic_rnn(config.build(CELLS), inputs, lengths, states[0], dtype=dtype)
    variables = {_path(v.name): v for v in v1.global_variables()}
    total = sum(
        tf.reduce_sum(tf.cast(x, tf.float64) * weights(i, x.shape.as_list()))
        for i, x in enumerate(tf.nest.flatten(results))
    )
    given = tf.nest.flatten(states) if problem["state"] else []
    by = [*variables.values(), inputs, *given, *learned.values()]
    gradients = [
        tf.zeros_like(x) if g is None else g
        for x, g in zip(by, v1.gradients(total, by), strict=True)
    ]
    session.run(v1.global_variables_initializer())
    values = _flat_params(params)
    for path, variable in variables.items():
        variable.load(values[path].astype(dtype), session)
    results, gradients = session.run((results, gradients))
    named = dict(zip([*variables, "inputs"], gradients, strict=False))
    named |= dict(zip(learned, gradients[len(gradients) - len(learned) :], strict=True))
    structure = jax.tree.structure(problem["state"])
    return {
        "outputs": _ours(results[0]),
        "state": _ours(results[1]),
        "gradients": (
            jax.tree_util.tree_map_with_path(lambda p, _: named[_name(p)], params),
            named["inputs"],
            structure.unflatten(gradients[len(variables) + 1 :][: len(given)]),
        ),
    }


def _nested_bidirectional(cell_fw, cell_bw, inputs, lengths, *states, dtype):
    """A bidirectional run with nested outputs, which TensorFlow's own fails to reverse."""

    def reverse(x):
        return tf.reverse_sequence(x, lengths, seq_axis=1)

    fw = v1.nn.dynamic_rnn(cell_fw, inputs, lengths, states[0], dtype=dtype, scope="fw")
    bw = v1.nn.dynamic_rnn(cell_bw, reverse(inputs), lengths, states[1], dtype=dtype, scope="bw")
    return (fw[0], tf.nest.map_structure(reverse, bw[0])), (fw[1], bw[1])


def _states(config, problem, dtype):
    """The initial states for TensorFlow, and the learned leaves among them, by path."""
    if problem["state"]:
        return [_theirs(s, dtype) for s in problem["state"]], {}
    if not isinstance(config.ours, rnn.LearnedInitialState):
        return [None, None], {}
    learned, states = {}, []
    batch = problem["inputs"].shape[0]
    runs = ["fw/", "bw/"] if "fw" in problem["params"] else [""]
    values = _flat_params(problem["params"])
    for run_name in runs:
        rows = {}
        for leaf in ("c", "h"):
            path = f"{run_name}initial_state/{leaf}"
            learned[path] = tf.constant(values[path], dtype)
            rows[leaf] = tf.tile(learned[path][None], [batch, 1])
        states.append(CELLS.LSTMStateTuple(**rows))
    return states, learned


def _path(name):
    """Our path of a variable: `rnn/multi_rnn_cell/cell_0/lstm_cell/kernel:0` is `cell_0/kernel`."""
    return "/".join(p for p in name.removesuffix(":0").split("/") if p not in LAYERS)


def _name(path):
    return jax.tree_util.keystr(path, simple=True, separator="/").replace("cell/", "")


def _flat_params(params):
    return {_name(p): x for p, x in jax.tree_util.tree_flatten_with_path(params)[0]}


def _theirs(state, dtype):
    if isinstance(state, rnn.LSTMStateTuple):
        return CELLS.LSTMStateTuple(*(_theirs(s, dtype) for s in state))
    if isinstance(state, tuple):
        return tuple(_theirs(s, dtype) for s in state)
    return tf.constant(state, dtype)


def _ours(tree):
    if isinstance(tree, CELLS.LSTMStateTuple):
        return rnn.LSTMStateTuple(*map(_ours, tree))
    if isinstance(tree, tuple | list):
        return tuple(_ours(x) for x in tree)
    return np.asarray(tree)
