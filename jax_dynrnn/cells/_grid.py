"""The equations of grid LSTMs, which are recurrent in time and in frequency."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from .._cell import Params, Stages
from .._init import glorot_uniform, init_kernel, init_vector, zeros
from .._tools import along_last, input_size, matmul
from .._types import DTypeLike, Key, Projected, Shapes, State
from ._frequency import FrequencyBlocks
from ._lstm import clip


class GridLSTM(FrequencyBlocks):
    """The equations of a grid LSTM; a subclass defines the directions."""

    @property
    def _num_gates(self) -> int:
        return 3 if self.couple_input_forget_gates else 4

    @property
    def _lstms(self) -> tuple[str, ...]:
        """The LSTMs that have weights; with shared weights, those of frequency serve for both."""
        return ("freq",) if self.share_time_frequency_weights else ("freq", "time")

    def _peepholes(self, lstm: str) -> list[str]:
        """TF1's names of the peephole weights of an LSTM, without the number of the block."""
        gates = "IO" if self.couple_input_forget_gates else "FIO"
        return [f"W_{gate}_diag_{lstm}{of}" for gate in gates for of in "ft"]

    def init(self, key: jax.Array, input_shape: Shapes, dtype: DTypeLike = jnp.float32) -> Params:
        self.check_inputs(input_size(self, input_shape))
        keys = jax.random.split(key, len(self.directions))
        params = [self._init_direction(k, dtype) for k in keys]
        return params[0] if len(params) == 1 else dict(zip(self.directions, params, strict=True))

    def _init_direction(self, key: jax.Array, dtype: DTypeLike) -> Params:
        params, units, size = {}, self.num_units, self._num_gates * self.num_units
        # A block has at most 2 kernels, 2 biases and 12 peepholes.
        keys = iter(jax.random.split(key, 16 * len(self.num_frequency_blocks)))
        for block in range(len(self.num_frequency_blocks)):
            for lstm in self._lstms:
                rows, bias = (self.feature_size, 2 * units), self.bias_initializer
                kernel = init_kernel(next(keys), rows, self._num_gates, self, dtype)
                params[f"W_{lstm[0]}_{block}_0"] = kernel
                params[f"B_{lstm[0]}_{block}"] = init_vector(bias, zeros, next(keys), size, dtype)
                for name in self._peepholes(lstm) if self.use_peepholes else ():
                    params[f"{name}_{block}"] = init_vector(
                        self.kernel_initializer, glorot_uniform, next(keys), units, dtype
                    )
        return params

    def prepare(self, params: Params, *, key: Key = None, batch_shape: tuple[Any, ...]) -> Params:
        """Concatenates the kernels of both LSTMs, for each direction and block.

        Both multiply the same inputs and hidden states, so that one matmul computes both.
        """
        del key, batch_shape

        def prepare_block(params, k):
            def concatenate(name):
                return jnp.concatenate([params[name.format(x[0], k)] for x in self._lstms], -1)

            kernel, bias, rows = concatenate("W_{}_{}_0"), concatenate("B_{}_{}"), self.feature_size
            peepholes = [p for x in self._lstms for p in self._peepholes(x) if self.use_peepholes]
            return {"inputs": kernel[:rows], "hidden": kernel[rows:], "bias": bias} | {
                name: params[f"{name}_{k}"] for name in peepholes
            }

        directions = [params] if len(self.directions) == 1 else [params[d] for d in self.directions]
        blocks = range(len(self.num_frequency_blocks))
        return [[prepare_block(p, k) for k in blocks] for p in directions]

    def project(self, params: Params, inputs: jax.Array) -> Any:
        self.check_inputs(inputs.shape[-1])

        def dense(block, x):
            projected = matmul(x, block["inputs"])
            return projected + along_last(block["bias"], projected)

        return [
            [
                [dense(block, x) for x in windows]
                for block, windows in zip(blocks, self.windows(inputs, direction), strict=True)
            ]
            for blocks, direction in zip(params, self.directions, strict=True)
        ]

    def recurrent_input(self, state: State) -> jax.Array:
        """Concatenates the `m` of all windows."""
        return jnp.concatenate(state[1::2], -1)

    def stages(self, params: Params, projected: Projected, state: State) -> Stages:
        # Not state[1::2]: recurrent dropout replaces recurrent_input.
        hidden = jnp.split(self.recurrent_input(state), len(state) // 2, -1)
        old_states = iter(zip(state[::2], hidden, strict=True))
        outputs, new = [], []
        for blocks, direction in zip(params, projected, strict=True):
            for block, windows in zip(blocks, direction, strict=True):
                c_freq = m_freq = jnp.zeros_like(state[0])
                for x in windows:
                    c_time, m_time = next(old_states)
                    recurred = yield jnp.concatenate([m_time, m_freq], -1), block["hidden"]
                    (c_freq, c_time), (m_freq, m_time) = self._step(
                        block, x + recurred, (c_freq, c_time)
                    )
                    new += [c_time, m_time]
                    outputs += [m_time, m_freq]
        return jnp.concatenate(outputs, -1), self.state_tuple_type(*new)

    def _step(
        self, params: Params, gates: jax.Array, memories: tuple[Any, ...]
    ) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Computes the new memories and the outputs of both LSTMs, `(of frequency, of time)`."""
        split = jnp.split(gates, self._num_gates * len(self._lstms), -1)
        # With shared weights there is one LSTM, which is both the first and the last.
        lstms = [
            (self._lstms[0], split[: self._num_gates]),
            (self._lstms[-1], split[-self._num_gates :]),
        ]

        def peep(gate, lstm, x, memories):
            if not self.use_peepholes:
                return x
            f, t = (along_last(params[f"W_{gate}_diag_{lstm}{of}"], x) for of in "ft")
            return x + f * memories[0] + t * memories[1]

        def new_memory(lstm, gates, c):
            i, j = jax.nn.sigmoid(peep("I", lstm, gates[0], memories)), jnp.tanh(gates[1])
            if self.couple_input_forget_gates:
                return clip((1 - i) * c + i * j, self.cell_clip)
            f = jax.nn.sigmoid(peep("F", lstm, gates[2], memories) + self.forget_bias)
            return clip(f * c + i * j, self.cell_clip)

        new = tuple(new_memory(*lstm, c) for lstm, c in zip(lstms, memories, strict=True))
        outputs = tuple(
            jax.nn.sigmoid(peep("O", lstm, gates[-1], new)) * jnp.tanh(c)
            for (lstm, gates), c in zip(lstms, new, strict=True)
        )
        return new, outputs
