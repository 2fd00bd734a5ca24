"""One cell, one dtype, one engine: how far is a run from what is exact?

Random runs are compared with `scan` in float64 on the CPU of the same process, runs on TensorFlow's
problems with its stored results. Whoever imports this has configured JAX (`gpu_check.configure`).
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jax_dynrnn as rnn
from jax_dynrnn.engines import ENGINES

TESTS = Path(__file__).parents[1] / "tests"
sys.path.append(str(TESTS))
from laws import MARGIN, weighted_sum  # noqa: E402
from toys import everything  # noqa: E402

B, T, D = 8, 40, 16
LENGTHS = np.array([40, 0, 17, 1, 33, 40, 2, 25], np.int32)
DTYPES = ("float32", "bfloat16", "float16")
TF32 = "tensorfloat32"
BOUND = {"float32": 1e-5, TF32: 4 * 2.0**-11}
UNROLL = 4
"""Steps of one iteration of a loop: what runs on accelerators has several."""

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
BOTH = "both ways"
OPTIONS = {
    "ragged": {"sequence_length": LENGTHS},
    BOTH: {"sequence_length": LENGTHS},
    "resets, reverse": {
        "sequence_length": LENGTHS,
        "reverse": True,
        "resets": np.arange(T) % (7 + np.arange(B)[:, None]) == 3,
    },
}


class Point(NamedTuple):
    """What is compared: a cell, the options of its run, a dtype, an engine."""

    cell: str
    options: str
    dtype: str
    engine: str


def arguments(cell: Any, dtype: str, within: str) -> Any:
    """Random params, inputs and a state: numbers that `within` holds, in `dtype`.

    Rounded once, to what all compared can hold: what is compared is the run, not the rounding.
    """
    random = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: (cell.init(jax.random.key(0), (B, T, D)), cell.zero_state(B)))
    draw = lambda x, scale: jnp.asarray(scale * random.normal(size=x.shape), "float32")  # noqa: E731
    params = jax.tree.map(lambda x: draw(x, 0.5 * x.shape[0] ** -0.5), shapes[0])
    state = jax.tree.map(lambda x: draw(x, 0.5), shapes[1])
    inputs = random.normal(size=(B, T, D)).astype(np.float32)
    return jax.tree.map(lambda x: jnp.asarray(x, within).astype(dtype), (params, inputs, state))


def held(dtype: str) -> str:
    """What can hold the numbers of a run in `dtype`, and of all that is compared with it."""
    return "float32" if dtype in BOUND else "bfloat16"


def arguments_of(cell: Any, dtype: str) -> Any:
    """Those of a run in `dtype`."""
    return arguments(cell, "float32" if dtype == TF32 else dtype, held(dtype))


def results(
    cell: Any,
    engine: str,
    options: dict[str, Any],
    given: Any,
    as_written: bool = False,
    both: bool = False,
) -> list[np.ndarray]:
    """Outputs, final state, and the gradients of a scalar that depends on all of them.

    `as_written` rounds wherever the program does: compilers keep more bits in what they fuse.
    `both`: of both directions, with half of each param on the way back.
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
    """The largest over all leaves, relative to the largest number of its leaf and 1."""
    pairs = zip(found, exact, strict=True)
    worst = [np.abs(a - b).max(initial=0) / (1 + np.abs(b).max(initial=0)) for a, b in pairs]
    return float(np.nan_to_num(max(worst), nan=np.inf))


def points(cell: str, options: str) -> list[Point]:
    """All that some engine can run."""
    found = []
    for dtype in (*DTYPES, TF32):
        if cell == "all arithmetic" and held(dtype) != "float32":
            continue  # it jumps: in 16 bit bounds would be wide
        shapes = jax.eval_shape(lambda d=dtype: arguments_of(CELLS[cell], d)[:2])
        with precision(dtype):
            reasons = rnn.explain(CELLS[cell], *shapes, **OPTIONS[options]).reasons
        found += [Point(cell, options, dtype, e) for e in engines(dtype) if reasons[e] is None]
    return found


def engines(dtype: str) -> list[str]:
    """Those that are compared: all, or what runs float32 at lower precision only."""
    return ["pallas"] if dtype == TF32 else [*ENGINES]


def precision(dtype: str) -> Any:
    """Of matmuls of float32."""
    return jax.default_matmul_precision(TF32 if dtype == TF32 else "highest")


def random_rows(cell: str, options: str) -> list[dict[str, Any]]:
    """The error of each point of a cell and options beside its bound."""
    cpu, rows = jax.devices("cpu")[0], []
    both = options == BOTH
    run = functools.partial(results, CELLS[cell], options=OPTIONS[options], both=both)

    def reference(dtype, within):
        with jax.default_device(cpu):
            on_cpu = jax.device_put(arguments(CELLS[cell], dtype, within), cpu)
            return run("scan", given=on_cpu, as_written=True)

    exact = {within: reference("float64", within) for within in ("float32", "bfloat16")}
    bounds = dict(BOUND)
    for dtype in ("bfloat16", "float16"):
        off = error(reference(dtype, "bfloat16"), exact["bfloat16"])
        bounds[dtype] = MARGIN * off + float(jnp.finfo(dtype).eps)
    for point in points(cell, options):
        here = functools.partial(run, point.engine, given=arguments_of(CELLS[cell], point.dtype))
        with precision(point.dtype):
            found = compared(here, exact[held(point.dtype)])
        rows.append(point._asdict() | found | {"bound": bounds[point.dtype]})
    return rows


def compared(run: Callable[[], Any], exact: Any) -> dict[str, Any]:
    """The error of what `run` gives; what fails is as wrong as can be, and the rest goes on."""
    try:
        found = run()
        if isinstance(exact, dict):
            exact = {path: exact[path] for path in found}
        return {"error": error(jax.tree.leaves(found), jax.tree.leaves(exact))}
    except Exception as failure:  # of a compiler or a driver
        return {"error": float("inf"), "failure": f"{type(failure).__name__}: {failure}"}
