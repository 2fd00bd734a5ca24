"""Convolutional LSTMs in NumPy: a convolution is a sum over the offsets of its window."""

import itertools

import numpy as np

import jax_dynrnn as rnn

from .core import gate_function


def convolve(images, kernel):
    """Convolves `[B, *sizes, C]` with `[*window, C, Z]`, with stride 1 and TF's padding SAME.

    A window of n pixels has (n - 1) // 2 of them before its centre, and n // 2 behind it.
    """
    window, sizes = kernel.shape[:-2], images.shape[1:-1]
    around = [((n - 1) // 2, n // 2) for n in window]
    padded = np.pad(images, [(0, 0), *around, (0, 0)])
    total = 0.0
    for offset in itertools.product(*map(range, window)):
        part = tuple(slice(p, p + n) for p, n in zip(offset, sizes, strict=True))
        total = total + padded[(slice(None), *part)] @ kernel[offset]
    return total


def conv_lstm(cell, params, x, state):
    z = convolve(np.concatenate([x, state.h], -1), params["kernel"])
    if cell.use_bias:
        z = z + params["biases"]
    i, j, f, o = np.split(z, 4, axis=-1)
    gate = gate_function(cell)
    c = gate(f + cell.forget_bias) * state.c + gate(i) * np.tanh(j)
    h = np.tanh(c) * gate(o)
    output = np.concatenate([h, x], -1) if cell.skip_connection else h
    return output, rnn.LSTMStateTuple(c, h)


STEPS = dict.fromkeys(
    ("ConvLSTMCell", "Conv1DLSTMCell", "Conv2DLSTMCell", "Conv3DLSTMCell"), conv_lstm
)
