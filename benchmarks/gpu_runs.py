"""Errors of runs, by cell, dtype and engine, compared with exact results.

Random runs are compared with `scan` in float64 on the CPU of the same process, runs on TensorFlow's
problems with its stored results. JAX must be configured by `gpu_check.configure` before any of
these functions is called.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jax_dynrnn as rnn
from jax_dynrnn.engines import ENGINES

TESTS = Path(__file__).parents[1] / "tests"
sys.path.append(str(TESTS))
from laws import MARGIN, weighted_sum  # noqa: E402
from toys import everything  # noqa: E402

B, T, D = 8, 40, 16
LENGTHS = np.array([40, 0, 17, 1, 33, 40, 2, 25], np.int32)
TF32 = "tensorfloat32"
DTYPES = ("float32", "bfloat16", "float16", TF32)
BOUND = {"float32": 1e-5, TF32: 4 * 2.0**-11}
UNROLL = 4
"""Steps per iteration of a loop: runs on accelerators have several."""

CELLS = {
    "lstm": rnn.LSTMCell(128),
    "lstm peepholes": rnn.LSTMCell(64, use_peepholes=True, cell_clip=1.0, forget_bias=0.5),
    "lstm projection": rnn.LSTMCell(64, num_proj=32, proj_clip=0.9),
    "lstm block": rnn.LSTMBlockCell(64),
    "lstm of 256": rnn.LSTMCell(256),
    "gru reset after of 256": rnn.CudnnCompatibleGRUCell(256),
    "gru": rnn.GRUCell(128),
    "gru reset after": rnn.CudnnCompatibleGRUCell(128),
    "vanilla": rnn.BasicRNNCell(128),
    "all arithmetic": rnn.BasicRNNCell(64, activation=everything),
    "ugrnn": rnn.UGRNNCell(100),
    "coupled": rnn.CoupledInputForgetGateLSTMCell(64),
    "minimal": rnn.MinimalRNNCell(64),
    "nas": rnn.NASCell(32),
    "sru": rnn.SRUCell(16),
    "indy lstm": rnn.IndyLSTMCell(32),
    "layer norm": rnn.LayerNormLSTMCell(32, layer_norm=True),
    "stack": rnn.MultiRNNCell([rnn.LSTMCell(64), rnn.GRUCell(32)]),
}
BOTH = "bidirectional"
ON_MESH = "on a mesh"
"""The arguments are on a mesh of this one device: the run is inside of a `shard_map`."""
CELLS_ON_MESH = ("lstm", "gru reset after", "stack")
OPTIONS = {
    "ragged": {"sequence_length": LENGTHS},
    BOTH: {"sequence_length": LENGTHS},
    ON_MESH: {"sequence_length": LENGTHS},
    "resets, reverse": {
        "sequence_length": LENGTHS,
        "reverse": True,
        "resets": np.arange(T) % (7 + np.arange(B)[:, None]) == 3,
    },
}


class Point(NamedTuple):
    """One comparison: a cell, the options of its run, a dtype, an engine."""

    cell: str
    options: str
    dtype: str
    engine: str


def arguments(cell: Any, dtype: str, rounded_to: str) -> Any:
    """Random params, inputs and a state, in `dtype`, with values that `rounded_to` can represent.

    The values are rounded to a dtype that all compared runs can represent, so that the errors are
    those of the runs, not of rounding the arguments.
    """

    def draw(x, scale):
        return jnp.asarray(scale * random.normal(size=x.shape), "float32")

    random = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: (cell.init(jax.random.key(0), (B, T, D)), cell.zero_state(B)))
    params = jax.tree.map(lambda x: draw(x, 0.5 * x.shape[0] ** -0.5), shapes[0])
    state = jax.tree.map(lambda x: draw(x, 0.5), shapes[1])
    inputs = random.normal(size=(B, T, D)).astype(np.float32)
    return jax.tree.map(lambda x: jnp.asarray(x, rounded_to).astype(dtype), (params, inputs, state))


def rounding_dtype(dtype: str) -> str:
    """The dtype to which the arguments of a run in `dtype` are rounded: see `arguments`."""
    return "float32" if dtype in BOUND else "bfloat16"


def arguments_of(cell: Any, dtype: str) -> Any:
    """The arguments of a run in `dtype`."""
    return arguments(cell, "float32" if dtype == TF32 else dtype, rounding_dtype(dtype))


def results(
    cell: Any,
    engine: str,
    options: dict[str, Any],
    given: Any,
    as_written: bool = False,
    both: bool = False,
) -> list[np.ndarray]:
    """Outputs, final state, and the gradients of a scalar that depends on all of them.

    Args:
        as_written: whether to round wherever the program does. By default compilers may keep more
            bits within a fusion.
        both: whether to run both directions; the backward one has half of each param.
    """

    def run(params, inputs, state):
        how = {"implementation": engine, "unroll": UNROLL, **options}
        if both:
            params = {"fw": params, "bw": jax.tree.map(lambda x: x / 2, params)}
            states = {"initial_state_fw": state, "initial_state_bw": state}
            found = rnn.bidirectional_dynamic_rnn(cell, cell, params, inputs, **states, **how)
        else:
            found = rnn.dynamic_rnn(cell, params, inputs, initial_state=state, **how)
        return weighted_sum(found), found

    compiled = {"xla_allow_excess_precision": False} if as_written else None
    gradient = jax.jit(jax.grad(run, (0, 1, 2), has_aux=True), compiler_options=compiled)
    gradients, found = gradient(*given)
    return [np.asarray(x, np.float64) for x in jax.tree.leaves((found, gradients))]


def error(found: list[np.ndarray], exact: list[np.ndarray]) -> float:
    """The largest error over all leaves, relative to 1 plus the largest element of the leaf."""
    pairs = zip(found, exact, strict=True)
    worst = [np.abs(a - b).max(initial=0) / (1 + np.abs(b).max(initial=0)) for a, b in pairs]
    return float(np.nan_to_num(max(worst), nan=np.inf))  # else NaN would pass every bound


def points(cell: str, options: str, dtypes: Sequence[str] = DTYPES) -> list[Point]:
    """Every one of these dtypes and every engine that can run this cell with these options."""
    found = []
    if options == ON_MESH and cell not in CELLS_ON_MESH:
        return found  # what a mesh changes is around the run: device time is short
    for dtype in dtypes:
        if cell == "all arithmetic" and rounding_dtype(dtype) != "float32":
            continue  # it is discontinuous: bounds in 16 bit would be too wide
        shapes = jax.eval_shape(lambda d=dtype: arguments_of(CELLS[cell], d)[:2])
        with precision(dtype):
            reasons = rnn.explain(CELLS[cell], *shapes, **OPTIONS[options]).reasons
        found += [Point(cell, options, dtype, e) for e in engines(dtype) if reasons[e] is None]
    return found


def engines(dtype: str) -> list[str]:
    """All engines, or for TF32 those that support float32 only at lower precision."""
    return ["pallas"] if dtype == TF32 else [*ENGINES]


def precision(dtype: str) -> Any:
    """A context that sets the precision of float32 matmuls."""
    return jax.default_matmul_precision(TF32 if dtype == TF32 else "highest")


def random_rows(cell: str, options: str, dtypes: Sequence[str] = DTYPES) -> list[dict[str, Any]]:
    """The error and the bound of each point of a cell and options."""
    cpu, rows = jax.devices("cpu")[0], []
    both = options == BOTH
    run = functools.partial(results, CELLS[cell], options=OPTIONS[options], both=both)

    def reference(dtype, rounded_to):
        with jax.default_device(cpu):
            on_cpu = jax.device_put(arguments(CELLS[cell], dtype, rounded_to), cpu)
            return run("scan", given=on_cpu, as_written=True)

    exact = {dtype: reference("float64", dtype) for dtype in ("float32", "bfloat16")}
    bounds = dict(BOUND)
    for dtype in ("bfloat16", "float16"):
        # In 16 bit the error depends on the cell, so the error of `scan` on the CPU sets the bound.
        scan_error = error(reference(dtype, "bfloat16"), exact["bfloat16"])
        bounds[dtype] = MARGIN * scan_error + float(jnp.finfo(dtype).eps)
    for point in points(cell, options, dtypes):
        given = arguments_of(CELLS[cell], point.dtype)
        if options == ON_MESH:
            given = on_mesh(*given)
        here = functools.partial(run, point.engine, given=given)
        with precision(point.dtype):
            found = compared(here, exact[rounding_dtype(point.dtype)])
        rows.append(point._asdict() | found | {"bound": bounds[point.dtype]})
    return rows


def on_mesh(params: Any, inputs: Any, state: Any) -> Any:
    """The arguments of a run on a mesh of one device: its axis is explicit, rows are sharded."""
    mesh = jax.make_mesh((1,), ("rows",), (AxisType.Explicit,), devices=jax.devices()[:1])
    rows, everywhere = NamedSharding(mesh, P("rows")), NamedSharding(mesh, P())
    return jax.device_put(params, everywhere), *jax.device_put((inputs, state), rows)


def compared(run: Callable[[], Any], exact: Any) -> dict[str, Any]:
    """The error of the results of `run`, infinite if it fails, so that other runs go on."""
    try:
        found = run()
        if isinstance(exact, dict):
            exact = {path: exact[path] for path in found}
        return {"error": error(jax.tree.leaves(found), jax.tree.leaves(exact))}
    except Exception as failure:  # a compiler or a driver may raise anything
        return {"error": float("inf"), "failure": f"{type(failure).__name__}: {failure}"}
