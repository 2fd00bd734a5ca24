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
from .._types import Params
from ..cells import BasicLSTMCell, LSTMBlockCell, LSTMCell
from ..cells._lstm import LSTM
from ..sequence import reverse_sequence
from .devices import why_checked
from .engine import Engine
from .masks import select, zero_where_invalid
from .request import Request, Run
from .scan import run_scan

CELLS = (LSTMCell, BasicLSTMCell, LSTMBlockCell)


class Cudnn(Engine):
    """cuDNN's LSTM."""

    name = "cudnn"
    checks_vma = False

    def unsupported(self, request: Request) -> str | None:
        """Why it cannot run `request`, or `None`."""
        if (here := request.platform) != "gpu":
            return f"it needs an NVIDIA GPU, and this run is on {here}"
        if not request.has_known_sizes:
            return "cuDNN plans for sizes that are known, not symbolic"
        if (reason := _why_not_cell(request.cell)) is not None:
            return reason
        dtypes = [jnp.dtype(request.dtype)]
        dtypes += [x.dtype for x in jax.tree.leaves(request.initial_state)]
        if other := [dtype for dtype in dtypes if dtype != jnp.float32]:
            return f"JAX's wrapper of cuDNN takes float32 only, not {other[0]}"
        for name in ("mask", "resets", "remat"):
            if getattr(request, name) is not None:
                return f"it does not support {name}="
        return why_checked(request)

    def slower_because(self, request: Request) -> str | None:
        """Why another engine is faster: it always is."""
        del request
        return "scan is over twice as fast with 8 steps an iteration, and has vmap and jvp"

    def run(self, run: Run) -> tuple[Any, Any]:
        """Runs the cell -> `(outputs, final_state)`."""
        if run.time == 0 or run.batch == 0:
            return run_scan(run)
        lengths, valid = run.lengths, run.masks.valid

        def zero_padding(x):
            """NaN in the padding would reach the weights' gradients."""
            return x if valid is None else zero_where_invalid(valid.T, x)

        def in_order_of_run(x):
            return reverse_sequence(x, lengths) if run.reverse else x

        inputs = in_order_of_run(zero_padding(jnp.moveaxis(run.inputs, run.time_axis, 1)))
        c, h = run.initial_state
        assert isinstance(run.cell, LSTM)  # or `unsupported` says so
        weights = _weights(run.cell, run.params)
        at_least_one = jnp.maximum(lengths, 1)  # cuDNN refuses lengths of 0
        outputs, h_new, c_new = _lstm(inputs, h[None], c[None], weights, at_least_one)
        state = select(lengths > 0, LSTMStateTuple(c_new[0], h_new[0]), run.initial_state)
        outputs = in_order_of_run(zero_padding(outputs))
        return jnp.moveaxis(outputs, 1, run.time_axis), state


def _why_not_cell(cell: Any) -> str | None:
    """Why cuDNN's LSTM is not this cell, or `None`."""
    if type(cell) not in CELLS:
        names = ", ".join(known.__name__ for known in CELLS)
        return f"it runs only {names}, not {type(cell).__name__}"
    if cell.use_peepholes:
        return "it does not support use_peepholes"
    if cell.cell_clip is not None or cell.proj_clip is not None:
        return "it does not support cell_clip and proj_clip"
    if cell.num_proj is not None:
        return "JAX's wrapper does not support num_proj"
    if cell.activation not in (None, jnp.tanh, jax.nn.tanh, jax.lax.tanh):
        return "it supports no activation but tanh"
    if cell.recurrent_activation not in (None, jax.nn.sigmoid, jax.lax.logistic):
        return "it supports no recurrent_activation but sigmoid"
    return None


def _weights(cell: LSTM, params: Params) -> jax.Array:
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
def _backward(residuals, cotangents):
    from jax.experimental import rnn

    return rnn.lstm_bwd(*_sizes(residuals[0], residuals[1]), residuals, cotangents)[:4]


def _cotangents(residuals, cotangents):
    return *_backward(residuals, cotangents), None  # the lengths have none


_lstm.defvjp(_forward, _cotangents)
