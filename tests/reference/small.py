"""NAS, UGRNN, intersection, SRU, Ind and Indy, minimal and CFN cells in NumPy."""

import numpy as np

import jax_dynrnn as rnn

from .core import activation, sigmoid


def relu(x):
    return np.maximum(x, 0)


def nas(cell, params, x, state):
    m = state.h @ params["recurrent_kernel"]
    if cell.use_bias:
        m = m + params["bias"]
    m, i = np.split(m, 8, axis=1), np.split(x @ params["kernel"], 8, axis=1)
    first = [
        f(a + b) for f, a, b in zip(
            (sigmoid, relu, sigmoid, None, np.tanh, sigmoid, np.tanh, sigmoid), i, m, strict=True
        ) if f is not None
    ]  # fmt: skip
    first.insert(3, relu(i[3] * m[3]))
    second = [np.tanh(first[0] * first[1]), np.tanh(first[2] + first[3])]
    second += [np.tanh(first[4] * first[5]), sigmoid(first[6] + first[7])]
    second[0] = np.tanh(second[0] + state.c)
    c = second[0] * second[1]
    h = np.tanh(c * np.tanh(second[2] + second[3]))
    if cell.num_proj is not None:
        h = h @ params["projection_weights"]
    return h, rnn.LSTMStateTuple(c, h)


def ugrnn(cell, params, x, h):
    z = np.concatenate([x, h], 1) @ params["kernel"] + params["bias"]
    g, c = np.split(z, 2, axis=1)
    g = sigmoid(g + cell.forget_bias)
    new = g * h + (1 - g) * activation(cell)(c)
    return new, new


def intersection(cell, params, x, h):
    if x.shape[1] != cell.num_units:
        layer = params["in_projection"]
        x = x @ layer["kernel"] + layer["bias"]
    z = np.concatenate([x, h], 1) @ params["kernel"] + params["bias"]
    g_h, c_h, g_y, c_y = np.split(z, 4, axis=1)
    g_h, g_y = sigmoid(g_h + cell.forget_bias), sigmoid(g_y + cell.forget_bias)
    y_act = relu if cell.y_activation is None else lambda v: np.asarray(cell.y_activation(v))
    return g_y * x + (1 - g_y) * y_act(c_y), g_h * h + (1 - g_h) * np.tanh(c_h)


def sru(cell, params, x, c):
    x_bar, f, r, x_res = np.split(x @ params["kernel"], 4, axis=1)
    f_r = sigmoid(np.concatenate([f, r], 1) + params["bias"])
    f, r = np.split(f_r, 2, axis=1)
    new = f * c + (1 - f) * x_bar
    return r * activation(cell)(new) + (1 - r) * x_res, new


def ind_rnn(cell, params, x, h):
    new = activation(cell)(x @ params["kernel_w"] + params["kernel_u"] * h + params["bias"])
    return new, new


def indy_gru(cell, params, x, h):
    gates, candidate = params["gates"], params["candidate"]
    z = x @ gates["kernel_w"] + np.tile(h, (1, 2)) * gates["kernel_u"] + gates["bias"]
    r, u = np.split(sigmoid(z), 2, axis=1)
    c = x @ candidate["kernel"] + r * h * candidate["kernel_u"] + candidate["bias"]
    new = u * h + (1 - u) * activation(cell)(c)
    return new, new


def indy_lstm(cell, params, x, state):
    z = x @ params["kernel_w"] + np.tile(state.h, (1, 4)) * params["kernel_u"] + params["bias"]
    i, j, f, o = np.split(z, 4, axis=1)
    act = activation(cell)
    c = state.c * sigmoid(f + cell.forget_bias) + sigmoid(i) * act(j)
    h = act(c) * sigmoid(o)
    return h, rnn.LSTMStateTuple(c, h)


def minimal(cell, params, x, h):
    w_x, w = np.split(params["kernel"], [x.shape[1]])
    feedforward = activation(cell)(x @ w_x)
    u = sigmoid(np.concatenate([feedforward, h], 1) @ w + params["bias"])
    new = u * h + (1 - u) * feedforward
    return new, new


def cfn(cell, params, x, h):
    units = h.shape[1]
    v, w = params["kernel"][:, : 2 * units], params["kernel"][:, 2 * units :]
    gates = sigmoid(h @ params["recurrent_kernel"] + x @ v + params["bias"])
    theta, eta = np.split(gates, 2, axis=1)
    act = activation(cell)
    new = theta * act(h) + (1 - eta) * act(x @ w)
    return new, new


STEPS = {
    "NASCell": nas,
    "UGRNNCell": ugrnn,
    "IntersectionRNNCell": intersection,
    "SRUCell": sru,
    "IndRNNCell": ind_rnn,
    "IndyGRUCell": indy_gru,
    "IndyLSTMCell": indy_lstm,
    "MinimalRNNCell": minimal,
    "CFNCell": cfn,
}
