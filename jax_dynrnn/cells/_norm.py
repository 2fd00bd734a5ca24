"""An LSTM with layer normalisation, with TF1's equations."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from .._cell import MatmulCell, Params
from .._tools import along_last, matmul, widened
from .._types import DTypeLike, Shapes
from ._lstm import LSTM


class LayerNormLSTM(LSTM, MatmulCell):
    """An LSTM whose gates and memory are layer-normalised; it then uses no bias."""

    layer_norm: bool = True
    norm_gain: float = 1.0
    norm_shift: float = 0.0

    def init(self, key: jax.Array, input_shape: Shapes, dtype: DTypeLike = jnp.float32) -> Params:
        params = super().init(key, input_shape, dtype)
        if not self.layer_norm:
            return params
        units = self.num_units
        gamma, beta = (jnp.full(units, x, dtype) for x in (self.norm_gain, self.norm_shift))
        return params | {name: {"gamma": gamma, "beta": beta} for name in (*self.GATES, "state")}

    @property
    def unitwise(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return not self.layer_norm  # the mean and variance are over all units

    def project(self, params: Params, inputs: jax.Array) -> jax.Array:
        if not self.layer_norm:
            return super().project(params, inputs)
        return matmul(inputs, params["kernel"][: -self.hidden_size])

    def normalized(self, params: Params, name: str, x: jax.Array) -> jax.Array:
        return normalize(params[name], x) if self.layer_norm else x


def normalize(norm: Params, x: jax.Array) -> jax.Array:
    """Computes `gamma * (x - mean) / sqrt(variance + epsilon) + beta` over the last axis.

    The epsilon is TF1's. As in TF1, the moments of a 16-bit array are computed in float32.
    """
    epsilon = 1e-3 if x.dtype == jnp.float16 else 1e-12
    wide = widened(x)
    centred = wide - wide.mean(-1, keepdims=True)
    variance = (centred * centred).mean(-1, keepdims=True)
    normal = (centred * jax.lax.rsqrt(variance + epsilon)).astype(x.dtype)
    return along_last(norm["gamma"], x) * normal + along_last(norm["beta"], x)
