"""The time-frequency LSTM and the grid LSTMs in NumPy."""

import numpy as np

from .core import sigmoid


def clipped(cell, c):
    return c if cell.cell_clip is None else np.clip(c, -cell.cell_clip, cell.cell_clip)


def time_freq_lstm(cell, params, x, state):
    n = cell.num_units
    peep = (lambda name, c: params[name] * c) if cell.use_peepholes else (lambda name, c: 0.0)
    m_freq, outputs, states = np.zeros((len(x), n)), [], []
    for k, start in enumerate(
        range(0, cell.input_size - cell.feature_size + 1, cell.frequency_skip)
    ):
        c = state[:, 2 * k * n : (2 * k + 1) * n]
        m_time = state[:, (2 * k + 1) * n : (2 * k + 2) * n]
        window = x[:, start : start + cell.feature_size]
        z = np.concatenate([window, m_time, m_freq], 1) @ params["W_0"] + params["B"]
        i, j, f, o = np.split(z, 4, axis=1)
        forget = sigmoid(f + cell.forget_bias + peep("W_F_diag", c))
        c = clipped(cell, forget * c + sigmoid(i + peep("W_I_diag", c)) * np.tanh(j))
        m_freq = sigmoid(o + peep("W_O_diag", c)) * np.tanh(c)
        outputs.append(m_freq)
        states += [c, m_freq]
    return np.concatenate(outputs, 1), np.concatenate(states, 1)


def grid_block(cell, params, block, windows, times):
    """One block of a grid; `times` are the pairs (c, m) of its windows at the previous step."""
    shared, coupled = cell.share_time_frequency_weights, cell.couple_input_forget_gates
    c_freq, m_freq = np.zeros_like(times[0][0]), np.zeros_like(times[0][0])
    outputs, states = [], []

    def gates(letter, inputs):
        z = inputs @ params[f"W_{letter}_{block}_0"] + params[f"B_{letter}_{block}"]
        if coupled:
            i, j, o = np.split(z, 3, axis=1)
            return i, j, None, o
        return np.split(z, 4, axis=1)

    def peep(gate, which, c_freq, c_time):
        if not cell.use_peepholes:
            return 0.0
        name = f"W_{gate}_diag_{'freq' if shared else which}"
        return params[f"{name}f_{block}"] * c_freq + params[f"{name}t_{block}"] * c_time

    for window, (c_time, m_time) in zip(windows, times, strict=True):
        inputs = np.concatenate([window, m_time, m_freq], 1)
        of_freq = gates("f", inputs)
        of_time = of_freq if shared else gates("t", inputs)
        new = []
        for which, (i, j, f, _), c in (("freq", of_freq, c_freq), ("time", of_time, c_time)):
            i = sigmoid(i + peep("I", which, c_freq, c_time))
            if coupled:
                f = 1 - i
            else:
                f = sigmoid(f + cell.forget_bias + peep("F", which, c_freq, c_time))
            new.append(clipped(cell, f * c + i * np.tanh(j)))
        c_freq, c_time = new
        m_freq = sigmoid(of_freq[3] + peep("O", "freq", c_freq, c_time)) * np.tanh(c_freq)
        m_time = sigmoid(of_time[3] + peep("O", "time", c_freq, c_time)) * np.tanh(c_time)
        outputs += [m_time, m_freq]
        states += [c_time, m_time]
    return outputs, states


def grid_direction(cell, params, x, state, prefix, backward=False):
    outputs, states = [], []
    for block, count in enumerate(cell.num_frequency_blocks):
        start = 0 if cell.start_freqindex_list is None else cell.start_freqindex_list[block]
        starts = [start + k * cell.frequency_skip for k in range(count)]
        windows = [x[:, first : first + cell.feature_size] for first in starts]
        names = [f"{prefix}_f{k:02d}_b{block:02d}" for k in range(count)]
        times = [(getattr(state, f"{name}_c"), getattr(state, f"{name}_m")) for name in names]
        windows = windows[::-1] if backward else windows
        of_block = grid_block(cell, params, block, windows, times)
        outputs, states = outputs + of_block[0], states + of_block[1]
    return outputs, states


def grid_lstm(cell, params, x, state):
    outputs, states = grid_direction(cell, params, x, state, "state")
    return np.concatenate(outputs, 1), type(state)(*states)


def bidirectional_grid_lstm(cell, params, x, state):
    forward = grid_direction(cell, params["fwd"], x, state, "fwd_state")
    offset, none = cell.backward_slice_offset, np.zeros((len(x), abs(cell.backward_slice_offset)))
    if offset > 0:
        x = np.concatenate([x, none], 1)[:, offset:]
    elif offset < 0:
        x = np.concatenate([none, x], 1)
    backward = grid_direction(cell, params["bwd"], x, state, "bwd_state", backward=True)
    return np.concatenate(forward[0] + backward[0], 1), type(state)(*forward[1], *backward[1])


STEPS = {
    "TimeFreqLSTMCell": time_freq_lstm,
    "GridLSTMCell": grid_lstm,
    "BidirectionalGridLSTMCell": bidirectional_grid_lstm,
}
