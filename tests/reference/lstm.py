"""The LSTMs of tf.contrib in NumPy: normalised, coupled, and grouped."""

import numpy as np

import jax_dynrnn as rnn

from .core import activation, sigmoid


def layer_norm(x, params):
    mean = x.mean(1, keepdims=True)
    variance = ((x - mean) ** 2).mean(1, keepdims=True)
    return params["gamma"] * (x - mean) / np.sqrt(variance + 1e-12) + params["beta"]


def project(cell, m, kernel):
    """Projects the output, and clips it."""
    m = m @ kernel
    return m if cell.proj_clip is None else np.clip(m, -cell.proj_clip, cell.proj_clip)


def lstm(cell, params, x, state, kernel, cell_clip=None, normed=False):
    """`(c, m)` of a step of an LSTM with all options, in TF's order of operations."""
    z = np.concatenate([x, state.h], 1) @ kernel
    if not normed:
        z = z + params["bias"]
    i, j, f, o = np.split(z, 4, axis=1)
    if normed:
        i, j = layer_norm(i, params["input"]), layer_norm(j, params["transform"])
        f, o = layer_norm(f, params["forget"]), layer_norm(o, params["output"])
    w_f, w_i, w_o = (
        params[f"w_{gate}_diag"] if cell.use_peepholes else 0.0 for gate in ("f", "i", "o")
    )
    act = activation(cell)
    c = sigmoid(f + cell.forget_bias + w_f * state.c) * state.c
    c = c + sigmoid(i + w_i * state.c) * act(j)
    if normed:
        c = layer_norm(c, params["state"])
    if cell_clip is not None:
        c = np.clip(c, -cell_clip, cell_clip)
    m = sigmoid(o + w_o * c) * act(c)
    return c, m


def layer_norm_lstm(cell, params, x, state):
    c, m = lstm(cell, params, x, state, params["kernel"], cell.cell_clip, cell.layer_norm)
    if cell.num_proj is not None:
        m = project(cell, m, params["projection"]["kernel"])
    return m, rnn.LSTMStateTuple(c, m)


def layer_norm_basic_lstm(cell, params, x, state):
    c, m = lstm(cell, params, x, state, params["kernel"], None, cell.layer_norm)
    return m, rnn.LSTMStateTuple(c, m)


def l2_normalize(x):
    return x / np.sqrt(np.maximum((x**2).sum(0), 1e-12))


def weight_norm_lstm(cell, params, x, state):
    w_x, w_h = params["kernel"][: x.shape[1]], params["kernel"][x.shape[1] :]
    projection = params.get("projection")
    if cell.norm:
        w_x = l2_normalize(w_x) * params["norm_0"]
        w_h = l2_normalize(w_h) * params["norm_1"]
    c, m = lstm(cell, params, x, state, np.concatenate([w_x, w_h]), cell.cell_clip)
    if projection is not None:
        kernel = projection["kernel"]
        if cell.norm:
            kernel = l2_normalize(kernel) * projection["norm_0"]
        m = project(cell, m, kernel)
    return m, rnn.LSTMStateTuple(c, m)


def coupled_lstm(cell, params, x, state):
    z = np.concatenate([x, state.h], 1) @ params["W_0"]
    if not cell.layer_norm:
        z = z + params["B"]
    j, f, o = np.split(z, 3, axis=1)
    if cell.layer_norm:
        j, f = layer_norm(j, params["transform"]), layer_norm(f, params["forget"])
        o = layer_norm(o, params["output"])
    if cell.use_peepholes:
        f = f + params["W_F_diag"] * state.c
    forget = sigmoid(f + cell.forget_bias)
    act = activation(cell)
    c = forget * state.c + (1 - forget) * act(j)
    if cell.layer_norm:
        c = layer_norm(c, params["state"])
    if cell.use_peepholes:
        o = o + params["W_O_diag"] * c
    m = sigmoid(o) * act(c)
    if cell.num_proj is not None:
        m = project(cell, m, params["W_P_0"])
    return m, rnn.LSTMStateTuple(c, m)


def grouped_lstm(cell, params, x, state):
    n = cell.number_of_groups
    parts = [[], [], [], []]
    for k in range(n):
        x_k, h_k = np.split(x, n, axis=1)[k], np.split(state.h, n, axis=1)[k]
        z = np.concatenate([x_k, h_k], 1) @ params[f"group{k}"]["kernel"]
        for part, gate in zip(parts, np.split(z, 4, axis=1), strict=True):
            part.append(gate)
    i, j, f, o = (
        np.concatenate(part, 1) + params[f"bias_{gate}"]
        for part, gate in zip(parts, "ijfo", strict=True)
    )
    c = sigmoid(f + cell.forget_bias) * state.c + sigmoid(i) * np.tanh(j)
    m = sigmoid(o) * activation(cell)(c)
    if cell.num_proj is not None:
        m = m @ params["projection"]["kernel"]
    return m, rnn.LSTMStateTuple(c, m)


STEPS = {
    "LayerNormLSTMCell": layer_norm_lstm,
    "LayerNormBasicLSTMCell": layer_norm_basic_lstm,
    "WeightNormLSTMCell": weight_norm_lstm,
    "CoupledInputForgetGateLSTMCell": coupled_lstm,
    "GLSTMCell": grouped_lstm,
}
