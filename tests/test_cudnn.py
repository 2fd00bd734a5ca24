"""The engine `cudnn` without a GPU: the code around JAX's call, and what the engine refuses.

JAX's own reference in plain JAX replaces the GPU's kernel. On hardware,
`python -m benchmarks.gpu_check` compares the engine itself.
"""

import re
import subprocess
import sys

import jax
import jax.experimental.rnn
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from laws import close, weighted_sum
from meshes import BOTH, compiled_on, in_loops, mesh_of

import jax_dynrnn as rnn
from jax_dynrnn import _rnn
from jax_dynrnn.engines import devices

X = np.random.default_rng(0).normal(size=(4, 6, 3)).astype(np.float32)
LENGTHS = np.array([6, 3, 0, 1], np.int32)
CELL = rnn.LSTMCell(5)
PARAMS = CELL.init(jax.random.key(0), X.shape)
TOLERANCE = 1e-5
"""In float32, the only dtype of this engine."""


def reference(x, h, c, weights, lengths, inputs, units, *_):
    """JAX's reference of cuDNN's LSTM, with the signature of `rnn.lstm`."""
    arrays = jax.experimental.rnn.unpack_lstm_weights(weights, inputs, units, 1, False)
    return jax.experimental.rnn.lstm_ref(
        x, h, c, *arrays, lengths, inputs, units, 1, 0.0, False
    )  # fmt: skip


@pytest.fixture
def stand_in(monkeypatch):
    """Replaces the GPU and cuDNN; like cuDNN, it supports only lengths above 0."""

    def forward(x, h, c, weights, lengths, *sizes):
        y, h_n, c_n = reference(x, h, c, weights, lengths, *sizes)
        y = jnp.where((lengths > 0).all(), y, jnp.nan)
        return (y, h_n, c_n), (x, h, c, weights, lengths, y, jnp.zeros(1))

    def backward(*arguments):
        *sizes, (x, h, c, weights, lengths, _, _), cotangents = arguments

        def run(*args):
            return reference(*args, lengths, *sizes)

        return *jax.vjp(run, x, h, c, weights)[1](cotangents), None

    monkeypatch.setattr(_rnn, "device", lambda arrays: devices.Device("gpu", "of a test"))
    monkeypatch.setattr(jax.experimental.rnn, "lstm_fwd", forward)
    monkeypatch.setattr(jax.experimental.rnn, "lstm_bwd", backward)


def results(cell, params, x, state, engine, **options):
    """The results, and the gradients with respect to params, inputs and state."""

    def run(params, x, state):
        found = rnn.dynamic_rnn(
            cell, params, x, initial_state=state, implementation=engine, **options
        )
        return weighted_sum(found), found

    return jax.jit(jax.value_and_grad(run, (0, 1, 2), has_aux=True))(params, x, state)


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "ragged"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("time_major", [False, True])
@pytest.mark.parametrize(
    "cell",
    [CELL, rnn.BasicLSTMCell(5, forget_bias=0.3), rnn.LSTMBlockCell(5)],
    ids=lambda cell: type(cell).__name__,
)
def test_equals_scan(stand_in, cell, time_major, reverse, lengths):
    """Results and gradients equal those of `scan`, with NaN as padding and a row of length 0."""
    random = np.random.default_rng(1)
    state = rnn.LSTMStateTuple(*random.normal(size=(2, 4, 5)).astype(np.float32))
    x = X.copy()
    if lengths is not None:
        x[np.arange(6) >= lengths[:, None]] = np.nan
    x = x.swapaxes(0, 1) if time_major else x
    params = cell.init(jax.random.key(0), X.shape)
    params["bias"] = jnp.asarray(random.normal(size=20), jnp.float32)
    options = {"sequence_length": lengths, "reverse": reverse, "time_major": time_major}
    expected = results(cell, params, x, state, "scan", **options)
    close(results(cell, params, x, state, "cudnn", **options), expected, TOLERANCE)


@BOTH
def test_on_a_mesh_each_device_runs_its_rows(stand_in, axis):
    """Results and gradients are those of one device."""
    state = CELL.zero_state(4)

    def run(params, x, lengths, state):
        def loss(params, x):
            found = rnn.dynamic_rnn(CELL, params, x, lengths, state, implementation="cudnn")
            return weighted_sum(found), found

        return jax.value_and_grad(loss, (0, 1), has_aux=True)(params, x)

    rows = P("rows")
    program, placed = compiled_on(
        mesh_of(axis, (4,), ("rows",)), run, PARAMS, X, LENGTHS, state,
        specs=(P(), rows, rows, rows),
    )  # fmt: skip
    close(program(*placed), jax.jit(run)(PARAMS, X, LENGTHS, state), 1e-5)
    assert not in_loops(program)


def test_inside_of_a_shard_map_that_checks_what_varies(stand_in):
    """It is refused there, and runs with `check_vma=False`."""
    mesh, rows = mesh_of(AxisType.Auto, (4,), ("rows",)), P("rows")

    def run(x):
        return rnn.dynamic_rnn(CELL, PARAMS, x, implementation="cudnn")[0]

    def on_mesh(check_vma):
        return jax.shard_map(run, mesh=mesh, in_specs=rows, out_specs=rows, check_vma=check_vma)

    close(jax.jit(on_mesh(False))(X), run(X), 1e-6)
    with pytest.raises(NotImplementedError, match="with check_vma=False only"):
        jax.jit(on_mesh(True))(X)


@pytest.mark.parametrize(
    ("cell", "options", "reason"),
    [
        (rnn.GRUCell(5), {}, "it runs only LSTMCell, .* not GRUCell"),
        (rnn.LSTMCell(5, use_peepholes=True), {}, "peepholes"),
        (rnn.LSTMCell(5, cell_clip=1.0), {}, "does not support cell_clip and proj_clip"),
        (rnn.LSTMCell(5, num_proj=2), {}, "does not support num_proj"),
        (rnn.LSTMCell(5, activation=jax.nn.relu), {}, "tanh"),
        (rnn.LSTMCell(5, recurrent_activation=jax.nn.hard_sigmoid), {}, "but sigmoid"),
        (CELL, {"dtype": jnp.bfloat16}, "float32 only, not bfloat16"),
        (CELL, {"mask": np.ones((4, 6), bool)}, "does not support mask="),
        (CELL, {"resets": np.zeros((4, 6), bool)}, "does not support resets="),
        (CELL, {"remat": "sqrt"}, "does not support remat="),
    ],
)
def test_unsupported_calls_are_refused_with_a_reason(stand_in, cell, options, reason):
    """`explain` and a run give the same reason for what cuDNN's LSTM cannot compute."""
    params = cell.init(jax.random.key(0), X.shape)
    assert re.search(reason, rnn.explain(cell, params, X, **options).reasons["cudnn"])
    with pytest.raises(NotImplementedError, match=reason):
        rnn.dynamic_rnn(cell, params, X, implementation="cudnn", **options)


def test_vmap_and_jvp_are_refused(stand_in):
    """It supports neither, and so is never chosen automatically."""

    def run(x):
        return rnn.dynamic_rnn(CELL, PARAMS, x, LENGTHS, implementation="cudnn")[0]

    with pytest.raises(NotImplementedError, match="'cudnn' cannot run under vmap"):
        jax.vmap(run)(np.stack([X, X]))
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(run, (jnp.asarray(X),), (jnp.ones_like(X),))
    assert rnn.explain(CELL, PARAMS, X, LENGTHS).chosen == "scan"


def test_needs_a_gpu_and_imports_nothing_without_one():
    """Without a GPU it is refused, and `jax.experimental.rnn` is not imported."""
    with pytest.raises(NotImplementedError, match="needs an NVIDIA GPU, and this run is on cpu"):
        rnn.dynamic_rnn(CELL, PARAMS, X, implementation="cudnn")
    code = "import sys, jax, jax.numpy as jnp, jax_dynrnn as rnn; c = rnn.LSTMCell(2); " \
        "p = c.init(jax.random.key(0), (1, 1, 1)); rnn.dynamic_rnn(c, p, jnp.ones((1, 1, 1))); " \
        "assert 'jax.experimental.rnn' not in sys.modules"  # fmt: skip
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
