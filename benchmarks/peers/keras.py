"""Keras's layers on its JAX backend, called with a mask."""

import os

os.environ["KERAS_BACKEND"] = "jax"  # Keras reads it when it is imported

import jax.numpy as jnp  # noqa: E402
import keras  # noqa: E402

from jax_dynrnn import interop  # noqa: E402

from ..problems import cells_of  # noqa: E402

LAYERS = {
    "lstm": (keras.layers.LSTM, {}),
    "gru": (keras.layers.GRU, {"reset_after": False}),
    "gru_after": (keras.layers.GRU, {"reset_after": True}),
    "vanilla": (keras.layers.SimpleRNN, {}),
    "bidirectional": (keras.layers.LSTM, {}),
}


def build(kind, size, params):
    if kind not in LAYERS:
        return {}
    make, options = LAYERS[kind]
    layer = make(size.units, return_sequences=True, return_state=True, **options)
    if kind == "bidirectional":
        layer = keras.layers.Bidirectional(layer)
    layer.build(size[:3])
    weights = interop.keras.export_params(cells_of(kind, size.units), params)
    # `stateless_call` also takes the states of the layer's random generators.
    seeds = [v.value for v in layer.non_trainable_variables]

    def run(weights, inputs, lengths):
        mask = None if lengths is None else jnp.arange(size.time) < lengths[:, None]
        (outputs, *states), _ = layer.stateless_call(weights, seeds, inputs, mask=mask)
        if len(states) > 1:  # Keras returns h before c
            states = [s for h, c in zip(states[::2], states[1::2], strict=True) for s in (c, h)]
        return outputs, states

    return {"keras": (run, weights)}
