"""The neural Turing machine in NumPy, row by row."""

import numpy as np

import jax_dynrnn as rnn
import reference

from .core import sigmoid


def softplus(x):
    return np.log1p(np.exp(x))


def softmax(x):
    return np.exp(x) / np.exp(x).sum()


def address(cell, p, memory, before):
    """The address weights of one head for one row: section 3.3 of the paper."""
    width, slots = cell.memory_vector_dim, cell.memory_size
    k, beta, g = np.tanh(p[:width]), softplus(p[width]), sigmoid(p[width + 1])
    shift, gamma = softmax(p[width + 2 : -1]), 1 + softplus(p[-1])
    similarity = [m @ k / (np.linalg.norm(m) * np.linalg.norm(k) + 1e-8) for m in memory]
    gated = g * softmax(beta * np.array(similarity)) + (1 - g) * before
    by_distance = np.zeros(slots)
    by_distance[: cell.shift_range + 1] = shift[: cell.shift_range + 1]
    by_distance[-cell.shift_range :] = shift[-cell.shift_range :]
    moved = [
        sum(gated[j] * by_distance[(i - j) % slots] for j in range(slots)) for i in range(slots)
    ]
    sharp = np.array(moved) ** gamma
    return sharp / sharp.sum()


def ntm(cell, params, x, state):
    controller_inputs = np.concatenate([x, *state.read_vector_list], 1)
    y, controller_state = reference.step(
        cell.controller, params["cell"], controller_inputs, state.controller_state
    )
    bound, width = cell.clip_value, cell.memory_vector_dim
    p = np.clip(y @ params["parameters_kernel"] + params["parameters_bias"], -bound, bound)
    heads = cell.read_head_num + cell.write_head_num
    size = width + 2 * cell.shift_range + 4
    w_list = [np.zeros((len(x), cell.memory_size)) for _ in range(heads)]
    reads = [np.zeros((len(x), width)) for _ in range(cell.read_head_num)]
    memory = np.array(state.M)
    for b in range(len(x)):
        for i in range(heads):
            own = p[b, i * size : (i + 1) * size]
            w_list[i][b] = address(cell, own, state.M[b], state.w_list[i][b])
        for i in range(cell.read_head_num):
            reads[i][b] = w_list[i][b] @ state.M[b]
        for i in range(cell.write_head_num):
            w = w_list[cell.read_head_num + i][b]
            begin = heads * size + 2 * i * width
            erase, add = (
                sigmoid(p[b, begin : begin + width]),
                np.tanh(p[b, begin + width : begin + 2 * width]),
            )
            memory[b] = memory[b] * (1 - np.outer(w, erase)) + np.outer(w, add)
    output = np.concatenate([y, *reads], 1) @ params["output_kernel"] + params["output_bias"]
    new = rnn.NTMControllerState(
        controller_state, tuple(reads), tuple(w_list), memory, state.time + 1
    )
    return np.clip(output, -bound, bound), new


STEPS = {"NTMCell": ntm}
