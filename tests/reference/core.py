"""TF1's core cells in NumPy."""

import numpy as np

import jax_dynrnn as rnn
from jax_dynrnn import interop


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gate_function(cell):
    """Of the gates of a cell: a sigmoid, or the hard one of Keras 2."""
    assert cell.recurrent_activation in (None, interop.keras.hard_sigmoid)
    return sigmoid if cell.recurrent_activation is None else hard_sigmoid


def hard_sigmoid(x):
    return np.where(x < -2.5, 0.0, np.where(x > 2.5, 1.0, 0.2 * x + 0.5))


def activation(cell, default=np.tanh):
    """The cell's activation, as a function of NumPy arrays."""
    given = cell.activation
    return default if given is None else (lambda x: np.asarray(given(x)))


def basic_rnn(cell, params, x, h):
    new = activation(cell)(np.concatenate([x, h], 1) @ params["kernel"] + params["bias"])
    return new, new


def gru(cell, params, x, h):
    gates, candidate = params["gates"], params["candidate"]
    both = np.concatenate([x, h], 1) @ gates["kernel"] + gates["bias"]
    r, u = np.split(gate_function(cell)(both), 2, axis=1)
    c = np.concatenate([x, r * h], 1) @ candidate["kernel"] + candidate["bias"]
    new = u * h + (1 - u) * activation(cell)(c)
    return new, new


def basic_lstm(cell, params, x, state):
    z = np.concatenate([x, state.h], 1) @ params["kernel"] + params["bias"]
    i, j, f, o = np.split(z, 4, axis=1)
    act = activation(cell)
    c = sigmoid(f + cell.forget_bias) * state.c + sigmoid(i) * act(j)
    h = sigmoid(o) * act(c)
    return h, rnn.LSTMStateTuple(c, h)


STEPS = {"BasicRNNCell": basic_rnn, "GRUCell": gru, "BasicLSTMCell": basic_lstm}
