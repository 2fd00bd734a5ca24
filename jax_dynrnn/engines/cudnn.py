"""cuDNN's LSTM, through `jax.experimental.rnn`: by its name, on NVIDIA GPUs.

It serves plain LSTMs in float32, with lengths, forward or reversed. `grad` works; `jvp`, and so
second order, and `vmap` do not, which is why it is never chosen without its name. JAX's wrapper
copies the lengths to the host at every call and waits for it.

JAX's matmul precision decides between float32 (`"highest"`) and TF32.

Source: Chetlur et al., arXiv:1410.0759; NVIDIA's documentation of `cudnnRNNMode_t`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from .._cell import LSTMStateTuple
from ..cells import BasicLSTMCell, LSTMBlockCell, LSTMCell
from ..sequence import reverse_sequence, sequence_mask
from . import scan
from .call import Call, platform, select

CELLS = (LSTMCell, BasicLSTMCell, LSTMBlockCell)


def unsupported(call: Call) -> str | None:
    """Why it cannot run `call`, or `None`."""
    if (here := platform()) != "gpu":
        return f"it needs an NVIDIA GPU, and JAX runs on {here}"
    if not (isinstance(call.time, int) and isinstance(call.batch, int)):
        return "cuDNN plans for sizes that are known, not symbolic"
    if (difference := _other_cell(call.cell)) is not None:
        return f"cuDNN's LSTM is a plain one: {difference}"
    dtypes = [jnp.dtype(call.dtype), *(x.dtype for x in jax.tree.leaves(call.initial_state))]
    if other := [dtype for dtype in dtypes if dtype != jnp.float32]:
        return f"JAX's wrapper of cuDNN takes float32 only, not {other[0]}"
    for name in ("mask", "resets", "remat"):
        if getattr(call, name) is not None:
            return f"cuDNN knows of no {name}"
    return None


def _other_cell(cell: Any) -> str | None:
    """What cuDNN's LSTM does not have of a cell, or `None`."""
    if type(cell) not in CELLS:
        return f"it is not {type(cell).__name__}"
    if cell.use_peepholes:
        return "it has no peepholes"
    if cell.cell_clip is not None or cell.proj_clip is not None:
        return "its clips are not those of TF1"
    if cell.num_proj is not None:
        return "JAX's wrapper has no projection"
    if cell.activation not in (None, jnp.tanh, jax.nn.tanh, jax.lax.tanh):
        return "its activation is tanh"
    return None


def run(call: Call) -> tuple[Any, Any]:
    """Runs the cell -> `(outputs, final_state)`."""
    if call.time == 0 or call.batch == 0:
        return scan.run(call)
    lengths = call.lengths
    if lengths is None:
        lengths = jnp.full(call.batch, call.time, jnp.int32)

    def real(x):
        """0 in the padding: NaN there would reach the weights' gradients."""
        if call.lengths is None:
            return x
        return jnp.where(sequence_mask(lengths, call.time)[..., None], x, 0)

    def turned(x):
        return reverse_sequence(x, lengths) if call.reverse else x

    inputs = turned(real(jnp.moveaxis(call.inputs, call.time_axis, 1)))
    c, h = call.initial_state
    weights, longer = _weights(call.cell, call.params), jnp.maximum(lengths, 1)  # it takes no 0
    outputs, h_new, c_new = _lstm(inputs, h[None], c[None], weights, longer)
    state = select(lengths > 0, LSTMStateTuple(c_new[0], h_new[0]), call.initial_state)
    return jnp.moveaxis(turned(real(outputs)), 1, call.time_axis), state


def _weights(cell: Any, params: Any) -> jax.Array:
    """One vector: both matrices, then both biases, the gates in the order i, f, j, o."""
    i, j, f, o = jnp.split(params["kernel"].T, 4)
    kernel = jnp.concatenate([i, f, j, o])
    i, j, f, o = jnp.split(params["bias"], 4)
    bias = jnp.concatenate([i, f + cell.forget_bias, j, o])
    parts = kernel[:, : -cell.num_units], kernel[:, -cell.num_units :], bias, jnp.zeros_like(bias)
    return jnp.concatenate([part.reshape(-1) for part in parts])


@jax.custom_vjp
def _lstm(inputs, h, c, weights, lengths):
    return _forward(inputs, h, c, weights, lengths)[0]


def _unmapped(f):
    """`f`, which says under `vmap` that it cannot."""
    f = jax.custom_batching.custom_vmap(f)

    @f.def_vmap
    def refuse(*_):
        raise NotImplementedError(
            "implementation='cudnn' cannot run under vmap: JAX has no batching rule for it; "
            "implementation=None chooses an engine that can"
        )

    return f


def _sizes(inputs, h):
    """Features, units, layers, dropout, directions, precision: as the wrapper takes them."""
    return inputs.shape[-1], h.shape[-1], 1, 0.0, False, None


@_unmapped
def _forward(inputs, h, c, weights, lengths):
    from jax.experimental import rnn

    return rnn.lstm_fwd(inputs, h, c, weights, lengths, *_sizes(inputs, h))


@_unmapped
def _backward(kept, cotangents):
    from jax.experimental import rnn

    return rnn.lstm_bwd(*_sizes(kept[0], kept[1]), kept, cotangents)[:4]


_lstm.defvjp(_forward, lambda kept, cotangents: (*_backward(kept, cotangents), None))
