"""Is every engine right on this accelerator?

    python -m benchmarks.gpu_check          # a few minutes; ends with an error on any miss
    python -m benchmarks.gpu_check --cpu    # the engines of the CPU, in the same way

TensorFlow's stored results first, in float32. Then random runs, forward and gradients, against
`scan` in float64 on the CPU of the same process. In 16 bit the bound is 1.5 times what `scan` is
off there in the same dtype, and one rounding; in float32, multiplied as `"highest"` says, 1e-5.
`pallas` runs float32 at lower precision only: it is held to four roundings of TF32.
Several processes share the accelerator: most of the time goes into tracing and compiling, and XLA
does not search for the fastest of equal matmuls.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import multiprocessing
import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # all processes want memory
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_gpu_autotune_level=0"

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from tqdm import tqdm  # noqa: E402

import jax_dynrnn as rnn  # noqa: E402
from jax_dynrnn.engines import ENGINES  # noqa: E402

from . import machine  # noqa: E402
from .files import RESULTS, SHORT, write  # noqa: E402
from .report import aligned, heading  # noqa: E402

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
REFUSAL = "cannot run this call"
"""What an engine that was asked for by its name says of what it does not run."""

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
        shapes = jax.eval_shape(lambda d=dtype: arguments_of(CELLS[cell], d)[:2])
        with precision(dtype):
            reasons = rnn.explain(CELLS[cell], *shapes, **OPTIONS[options]).reasons
        engines = ["pallas"] if dtype == TF32 else ENGINES
        found += [Point(cell, options, dtype, e) for e in engines if reasons[e] is None]
    return found


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


def golden_rows(name: str) -> list[dict[str, Any]]:
    """TensorFlow's stored outputs, states and gradients, by every engine that can run them."""
    import tensorflow_oracle as oracle
    from golden.make_golden import RUNS, problem

    config, stored = oracle.CONFIGS[name], np.load(TESTS / "golden" / f"{name}.npz")
    rows = []
    for run, engine in itertools.product(RUNS, ENGINES):
        given = problem(config, run)

        def flat(given=given, engine=engine):
            return oracle.flat(oracle.ours(config, given, "float32", implementation=engine))

        exact = {k.split(":", 2)[2]: v for k, v in stored.items() if f"{run}:expected:" in k}
        found = compared(flat, exact)
        if REFUSAL in found.get("failure", ""):
            continue
        about = {"cell": f"TensorFlow's {name}", "options": run, "dtype": "float32"}
        rows.append(about | {"engine": engine} | found | {"bound": BOUND["float32"]})
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


def golden_names() -> list[str]:
    import tensorflow_oracle as oracle

    return [name for name, config in oracle.CONFIGS.items() if not oracle.options(config)]


def checked(cells: list[str], processes: int, measured: dict[str, Any], out: Path) -> None:
    """Adds all rows, and writes what there is after each unit of work.

    What most engines run is begun with, so that no process is left with it alone.
    """
    context, begin = multiprocessing.get_context("spawn"), configure
    units = list(itertools.product(cells, OPTIONS))
    units.sort(key=lambda unit: len(points(*unit)), reverse=True)
    work = [(random_rows, *unit) for unit in units] + [(golden_rows, n) for n in golden_names()]
    with ProcessPoolExecutor(processes, context, begin) as pool:
        futures = [pool.submit(*each) for each in work]
        for future in tqdm(as_completed(futures), "runs of cells", len(futures)):
            future.result()
            done = [f.result() for f in futures if f.done()]
            measured["rows"] = [row for rows in done for row in rows]
            write(measured, out)


def configure() -> None:
    """What every process computes with."""
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_default_matmul_precision", "highest")


def table(rows: list[dict[str, Any]]) -> str:
    """A line for each cell, dtype and engine: the run that is nearest to its bound."""
    lines, groups = [["cell", "dtype", "engine", "run", "error", "bound", ""]], {}
    for row in rows:
        groups.setdefault((row["cell"], row["dtype"], row["engine"]), []).append(row)
    for group, found in groups.items():
        worst = max(found, key=lambda row: row["error"] / row["bound"])
        verdict = "ok" if worst["error"] <= worst["bound"] else "MISS"
        figures = f"{worst['error']:.1e}", f"{worst['bound']:.1e}"
        lines.append([*group, worst["options"], *figures, verdict])
    return aligned(lines, left=4)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check", description=__doc__)
    parser.add_argument("--cpu", action="store_true", help="check the engines of the CPU")
    parser.add_argument("--cells", nargs="*", choices=CELLS, default=[*CELLS], metavar="CELL")
    options = parser.parse_args()
    on_cpu = options.cpu
    if not on_cpu and jax.default_backend() == "cpu":
        raise SystemExit("no accelerator: JAX runs on the CPU, and nothing was checked; see --cpu")
    device = jax.devices()[0]
    measured = {"machine": machine.describe() | {"device": device.device_kind}, "rounds": 1}
    measured["versions"] = machine.versions()
    processes = (os.cpu_count() or 1) - (0 if on_cpu else 2)  # of which this one, and the driver's
    out = (SHORT if on_cpu else RESULTS) / "gpu_check.json"
    checked(options.cells, max(1, processes), measured, out)
    missed = sum(row["error"] > row["bound"] for row in measured["rows"])
    print(f"{heading(measured)}\n{device.device_kind}\n\n{table(measured['rows'])}\n\nin {out}")
    for row in measured["rows"]:
        if "failure" in row:
            print(*(row[k] for k in Point._fields), row["failure"][:500], sep=", ")
    if missed:
        raise SystemExit(f"{missed} of {len(measured['rows'])} runs are off")
    print(f"all {len(measured['rows'])} runs are right")


if __name__ == "__main__":
    main()
