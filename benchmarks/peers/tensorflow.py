"""TensorFlow's own `dynamic_rnn` in a `tf.function`, with and without XLA."""

import warnings

import tensorflow as tf
from tensorflow.python.ops import rnn_cell_impl

from ..timing import Results

tf.get_logger().setLevel("ERROR")
warnings.filterwarnings("ignore", module="tensorflow")  # `dynamic_rnn` is deprecated
JIT_COMPILE = {"tensorflow": None, "tensorflow: XLA": True}
CELLS = {"gru": rnn_cell_impl.GRUCell, "vanilla": rnn_cell_impl.BasicRNNCell}
CELLS |= dict.fromkeys(("lstm", "bidirectional"), rnn_cell_impl.LSTMCell)


def names(kind, size, given):
    del size, given
    return list(JIT_COMPILE) if kind in CELLS else []


def build(name, kind, size, weights):
    scopes = ("fw/", "bw/") if kind == "bidirectional" else ("rnn/",)
    cells = [_cell(CELLS[kind], size, weights, scope) for scope in scopes]
    return Run(cells, JIT_COMPILE[name])


def _cell(make, size, weights, scope):
    """A cell whose variables have the values of the weights in `scope`."""
    cell = make(size.units)
    cell.build(tf.TensorShape([None, size.inputs]))
    arrays = {name.split("_cell/")[1]: x for name, x in weights.items() if scope in name}
    for variable in cell.trainable_variables:
        variable.assign(arrays[variable.name.removesuffix(":0").partition("/")[2]])
    return cell


class Run:
    """Has the interface of `benchmarks.compiled.Compiled`."""

    def __init__(self, cells, jit_compile):
        self.cells = cells
        self.programs = [
            tf.function(program, jit_compile=jit_compile) for program in (self._run, self._training)
        ]

    def feed(self, inputs, lengths):
        self.arguments = tf.constant(inputs), None if lengths is None else tf.constant(lengths)

    def forward(self):
        return self.programs[0](*self.arguments)

    def training(self):
        return self.programs[1](*self.arguments)

    def results(self):
        outputs, states = self.forward()
        gradient = self.training()[1][-1]
        return Results(outputs.numpy(), [s.numpy() for s in states], gradient.numpy())

    def _run(self, inputs, lengths):
        rnn = tf.compat.v1.nn
        run = rnn.dynamic_rnn if len(self.cells) == 1 else rnn.bidirectional_dynamic_rnn
        outputs, state = run(*self.cells, inputs, lengths, dtype=tf.float32)
        if len(self.cells) == 2:
            outputs = tf.concat(outputs, -1)
        return outputs, tf.nest.flatten(state)

    def _training(self, inputs, lengths):
        weights = [v for cell in self.cells for v in cell.trainable_variables]
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs, states = self._run(inputs, lengths)
            if lengths is not None:
                valid = tf.sequence_mask(lengths, outputs.shape[1])
                outputs = tf.where(valid[..., None], outputs, 0.0)
            value = sum(tf.reduce_sum(x**2) for x in (outputs, *states)) / 2
        return value, tape.gradient(value, [*weights, inputs])
