"""`jax.experimental.rnn`: JAX's wrapper of cuDNN's LSTM, in float32, on NVIDIA GPUs."""

import jax
import jax.numpy as jnp

from jax_dynrnn import interop

from ..problems import cells_of

FLOAT32 = ("jax.experimental.rnn", "ours: cudnn")
"""The implementations that support only float32."""


def build(kind, size, params):
    if kind != "lstm" or jax.default_backend() != "gpu":
        return {}
    weights = interop.cudnn.export_params(cells_of(kind, size.units), params)
    return {FLOAT32[0]: (run_of(size), weights)}


def run_of(size):
    def run(weights, inputs, lengths):
        from jax.experimental import rnn

        zeros = jnp.zeros((1, size.batch, size.units), inputs.dtype)
        # cuDNN always takes lengths.
        lengths = jnp.full(size.batch, size.time, jnp.int32) if lengths is None else lengths
        sizes = size.inputs, size.units, 1, 0.0, False
        outputs, h, c = rnn.lstm(inputs, zeros, zeros, weights, lengths, *sizes)
        return outputs, [c[0], h[0]]

    return run
