"""Cells of TF1's contrib, which TensorFlow 2 lacks, written from their descriptions."""

import tensorflow as tf
from tensorflow.python.ops import rnn_cell_impl
from tensorflow_run import CELLS, CudnnCompatibleGRUCell

v1 = tf.compat.v1


class Contrib(rnn_cell_impl.RNNCell):
    """Makes its variables in a scope of its own."""

    scope = ""

    def __init__(self, num_units, activation=tf.tanh, forget_bias=1.0):
        super().__init__()
        self.n, self.activation, self.forget_bias = num_units, activation, forget_bias

    state_size = property(lambda self: self.n)
    output_size = property(lambda self: self.n)

    def __call__(self, inputs, state, scope=None):
        with v1.variable_scope(self.scope):
            return self.step(inputs, state)

    def linear(self, *given, size, bias=True):
        joined = tf.concat(given, 1)
        product = tf.matmul(joined, v1.get_variable("kernel", [int(joined.shape[1]), size]))
        return tf.nn.bias_add(product, v1.get_variable("bias", [size])) if bias else product


class ContribLSTM(Contrib):
    state_size = property(lambda self: rnn_cell_impl.LSTMStateTuple(self.n, self.n))

    def result(self, c, h):
        return h, rnn_cell_impl.LSTMStateTuple(c, h)

    def normalised(self, x, name):
        with v1.variable_scope(name):
            gamma, beta = (v1.get_variable(n, [self.n]) for n in ("gamma", "beta"))
        mean, variance = tf.nn.moments(x, [1], keepdims=True)
        return tf.nn.batch_normalization(x, mean, variance, beta, gamma, 1e-12)


class LayerNormBasicLSTMCell(ContribLSTM):
    scope = "layer_norm_basic_lstm_cell"

    def step(self, x, state):
        gates = tf.split(self.linear(x, state.h, size=4 * self.n, bias=False), 4, 1)
        names = ("input", "transform", "forget", "output")
        i, j, f, o = map(self.normalised, gates, names)
        g = self.activation(j)
        c = state.c * tf.sigmoid(f + self.forget_bias) + tf.sigmoid(i) * g
        c = self.normalised(c, "state")
        return self.result(c, self.activation(c) * tf.sigmoid(o))


class CoupledInputForgetGateLSTMCell(ContribLSTM):
    scope = "coupled_input_forget_gate_lstm_cell"

    def step(self, x, state):
        joined = tf.concat([x, state.h], 1)
        kernel = v1.get_variable("W_0", [int(joined.shape[1]), 3 * self.n])
        gates = tf.nn.bias_add(tf.matmul(joined, kernel), v1.get_variable("B", [3 * self.n]))
        j, f, o = tf.split(gates, 3, 1)
        w_f, w_o = (v1.get_variable(f"W_{x}_diag", [self.n]) for x in "FO")
        f = tf.sigmoid(f + self.forget_bias + w_f * state.c)
        c = f * state.c + (1 - f) * self.activation(j)
        return self.result(c, tf.sigmoid(o + w_o * c) * self.activation(c))


class UGRNNCell(Contrib):
    scope = "ugrnn_cell"

    def step(self, x, h):
        g, c = tf.split(self.linear(x, h, size=2 * self.n), 2, 1)
        g = tf.sigmoid(g + self.forget_bias)
        new = g * h + (1.0 - g) * self.activation(c)
        return new, new


class IndRNNCell(Contrib):
    scope = "ind_rnn_cell"

    def step(self, x, h):
        kernel = v1.get_variable("kernel_w", [int(x.shape[1]), self.n])
        recurrent = v1.get_variable("kernel_u", [1, self.n])
        sums = tf.matmul(x, kernel) + h * recurrent
        new = self.activation(tf.nn.bias_add(sums, v1.get_variable("bias", [self.n])))
        return new, new


class LSTMBlockCell(ContribLSTM):
    scope, cell_clip = "lstm_cell", -1.0

    def step(self, x, state):
        zeros = tf.zeros([self.n])
        _, c, _, _, _, _, h = tf.raw_ops.LSTMBlockCell(
            x=x, cs_prev=state.c, h_prev=state.h,
            w=v1.get_variable("kernel", [int(x.shape[1]) + self.n, 4 * self.n]),
            wci=zeros, wcf=zeros, wco=zeros, b=v1.get_variable("bias", [4 * self.n]),
            forget_bias=self.forget_bias, cell_clip=self.cell_clip,
        )  # fmt: skip
        return self.result(c, h)


class ClippedLSTMBlockCell(LSTMBlockCell):
    cell_clip = 0.3


class BahdanauWrapper(Contrib):
    """An `AttentionWrapper` around a cell; its state is that of the cell, and the attention."""

    scope = "attention_wrapper"

    def __init__(self, cell, memory, output_attention):
        super().__init__(5)
        self.cell, self.memory, self.output_attention = cell, memory, output_attention
        layer = v1.get_variable("memory_layer/kernel", [int(memory.shape[2]), 4])
        self.keys = tf.tensordot(memory, layer, 1)

    state_size = property(lambda self: (self.cell.state_size, self.n))

    @property
    def output_size(self):
        return self.n if self.output_attention else self.cell.output_size

    def step(self, x, state):
        cell_state, attention = state
        y, cell_state = self.cell(tf.concat([x, attention], 1), cell_state)
        with v1.variable_scope("bahdanau_attention"):
            query = tf.matmul(y, v1.get_variable("query_layer/kernel", [int(y.shape[1]), 4]))
            v = v1.get_variable("attention_v", [4])
        scores = tf.reduce_sum(v * tf.tanh(self.keys + query[:, None]), 2)
        context = tf.reduce_sum(tf.nn.softmax(scores)[..., None] * self.memory, 1)
        joined = tf.concat([y, context], 1)
        kernel = v1.get_variable("attention_layer/kernel", [int(joined.shape[1]), self.n])
        attention = tf.matmul(joined, kernel)
        return (attention if self.output_attention else y), (cell_state, attention)


def lstm_block(x, num_units, forget_bias, clip):
    """The run of an `LSTMBlockFusedCell`."""
    batch, size = tf.shape(x)[1], int(x.shape[2])
    zeros, state = tf.zeros([num_units]), tf.zeros([batch, num_units])
    with v1.variable_scope("lstm_fused_cell"):
        kernel = v1.get_variable("kernel", [size + num_units, 4 * num_units])
        bias = v1.get_variable("bias", [4 * num_units])
    _, c, _, _, _, _, h = tf.raw_ops.BlockLSTM(
        seq_len_max=tf.cast(tf.shape(x)[0], tf.int64), x=x, cs_prev=state, h_prev=state, w=kernel,
        wci=zeros, wcf=zeros, wco=zeros, b=bias, forget_bias=forget_bias, cell_clip=clip,
    )  # fmt: skip
    return h, rnn_cell_impl.LSTMStateTuple(c[-1], h[-1])


class CudnnGRUCell(CudnnCompatibleGRUCell):
    """With an activation."""

    def __init__(self, num_units, activation):
        super().__init__(num_units)
        self.activation = activation

    def call(self, x, h):
        r, u = tf.split(tf.sigmoid(tf.matmul(tf.concat([x, h], 1), self.w) + self.b), 2, 1)
        hidden = tf.matmul(h, self.wh) + self.bh
        new = u * h + (1 - u) * self.activation(tf.matmul(x, self.wi) + self.bi + r * hidden)
        return new, new


def make(kind, num_units, activation, forget_bias):
    """A cell by the name of its kind."""
    functions = {"activation": activation}
    lstm = functions | {"forget_bias": forget_bias}
    options = {"cell_clip": 0.4, "num_proj": 3, "proj_clip": 0.15, "use_peepholes": True}
    if kind == "LSTMCell, all options":
        return CELLS.LSTMCell(num_units, **options, **lstm)
    if kind in ("BasicRNNCell", "GRUCell"):
        return getattr(CELLS, kind)(num_units, **functions)
    if kind in ("BasicLSTMCell", "LSTMCell"):
        return getattr(CELLS, kind)(num_units, **lstm)
    if kind == "CudnnCompatibleGRUCell":
        return CudnnGRUCell(num_units, **functions)
    return globals()[kind](num_units, **lstm)
