"""The phased LSTM in NumPy."""

import numpy as np

import jax_dynrnn as rnn

from .core import sigmoid


def phased_lstm(cell, params, inputs, state):
    (time, x), (c, h) = inputs, state

    def linear(name, *parts):
        return np.concatenate(parts, 1) @ params[name]["kernel"] + params[name]["bias"]

    memory = [c] if cell.use_peepholes else []
    i, f = np.split(sigmoid(linear("mask_gates", x, h, *memory)), 2, axis=1)
    new_c = c * f + i * np.tanh(linear("new_input", x, h))
    memory = [new_c] if cell.use_peepholes else []
    new_h = np.tanh(new_c) * sigmoid(linear("output_gate", x, h, *memory))

    since = time - params["phase"]
    cycle = since / params["period"] - np.floor(since / params["period"])
    on = params["ratio_on"]
    k = np.where(cycle < on, 2 - 2 * cycle / on, cell.leak * cycle)
    k = np.where(cycle < on / 2, 2 * cycle / on, k)
    new_c, new_h = k * new_c + (1 - k) * c, k * new_h + (1 - k) * h
    return new_h, rnn.LSTMStateTuple(new_c, new_h)


STEPS = {"PhasedLSTMCell": phased_lstm}
