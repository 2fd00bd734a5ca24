"""Is every engine right on this accelerator?

    python -m benchmarks.gpu_check          # a few minutes; ends with an error on any miss
    python -m benchmarks.gpu_check --cpu    # the engines of the CPU, in the same way

TensorFlow's stored results first, in float32. Then random runs, forward and gradients, against
`scan` in float64 on the CPU of the same process. In 16 bit the bound is 1.5 times what `scan` is
off there in the same dtype, and one rounding; in float32, multiplied as `"highest"` says, 1e-5.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

import jax_dynrnn as rnn
from jax_dynrnn.engines import ENGINES

from . import machine
from .files import RESULTS, SHORT, write
from .report import aligned, heading

TESTS = Path(__file__).parents[1] / "tests"
sys.path.append(str(TESTS))
from laws import MARGIN, weighted_sum  # noqa: E402

B, T, D = 8, 40, 16
LENGTHS = np.array([40, 0, 17, 1, 33, 40, 2, 25], np.int32)
DTYPES = ("float32", "bfloat16", "float16")
FLOAT32 = 1e-5

CELLS = {
    "lstm": rnn.LSTMCell(128),
    "lstm peepholes": rnn.LSTMCell(64, use_peepholes=True, cell_clip=1.0, forget_bias=0.5),
    "lstm projection": rnn.LSTMCell(64, num_proj=32, proj_clip=0.9),
    "lstm block": rnn.LSTMBlockCell(64),
    "gru": rnn.GRUCell(128),
    "gru reset after": rnn.CudnnCompatibleGRUCell(128),
    "vanilla": rnn.BasicRNNCell(128),
    "ugrnn": rnn.UGRNNCell(64),
    "coupled": rnn.CoupledInputForgetGateLSTMCell(64),
    "minimal": rnn.MinimalRNNCell(64),
    "nas": rnn.NASCell(32),
    "sru": rnn.SRUCell(16),
    "indy lstm": rnn.IndyLSTMCell(32),
    "layer norm": rnn.LayerNormLSTMCell(32, layer_norm=True),
    "stack": rnn.MultiRNNCell([rnn.LSTMCell(64), rnn.GRUCell(32)]),
}
OPTIONS = {
    "ragged": {"sequence_length": LENGTHS},
    "reverse": {"sequence_length": LENGTHS, "reverse": True},
    "resets": {
        "sequence_length": LENGTHS,
        "resets": np.arange(T) % (7 + np.arange(B)[:, None]) == 3,
    },
}


class Point(NamedTuple):
    """What is compared: a cell, the options of its run, a dtype, an engine."""

    cell: str
    options: str
    dtype: str
    engine: str


def arguments(cell: Any, dtype: str) -> Any:
    """Random params, inputs and a state, the same for all dtypes but for the rounding."""
    random = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: (cell.init(jax.random.key(0), (B, T, D)), cell.zero_state(B)))
    draw = lambda x, scale: jnp.asarray(scale * random.normal(size=x.shape), "float32")  # noqa: E731
    params = jax.tree.map(lambda x: draw(x, 0.5 * x.shape[0] ** -0.5), shapes[0])
    state = jax.tree.map(lambda x: draw(x, 0.5), shapes[1])
    inputs = random.normal(size=(B, T, D)).astype(np.float32)
    # Rounded once, to what all can hold: what is compared is the run, not the rounding.
    return jax.tree.map(lambda x: jnp.asarray(x, "bfloat16").astype(dtype), (params, inputs, state))


def results(cell: Any, engine: str, options: dict[str, Any], given: Any) -> list[np.ndarray]:
    """Outputs, final state, and the gradients of a scalar that depends on all of them."""

    def run(params, inputs, state):
        found = rnn.dynamic_rnn(
            cell, params, inputs, initial_state=state, implementation=engine, **options
        )
        return weighted_sum(found), found

    gradients, found = jax.jit(jax.grad(run, (0, 1, 2), has_aux=True))(*given)
    return [np.asarray(x, np.float64) for x in jax.tree.leaves((found, gradients))]


def error(found: list[np.ndarray], exact: list[np.ndarray]) -> float:
    """The largest over all leaves, relative to the largest number of its leaf and 1."""
    pairs = zip(found, exact, strict=True)
    worst = [np.abs(a - b).max(initial=0) / (1 + np.abs(b).max(initial=0)) for a, b in pairs]
    return float(np.nan_to_num(max(worst), nan=np.inf))


def points(cells: list[str]) -> list[Point]:
    """All that some engine can run."""
    found = []
    for cell, options, dtype in itertools.product(cells, OPTIONS, DTYPES):
        shapes = jax.eval_shape(lambda c=cell, d=dtype: arguments(CELLS[c], d)[:2])
        reasons = rnn.explain(CELLS[cell], *shapes, **OPTIONS[options]).reasons
        found += [Point(cell, options, dtype, e) for e in ENGINES if reasons[e] is None]
    return found


def random_rows(pool: ThreadPoolExecutor, cells: list[str]) -> list[dict[str, Any]]:
    """The error of each point beside its bound."""
    cpu = jax.devices("cpu")[0]

    def on_cpu(of):
        cell, options, dtype = of
        given = jax.device_put(arguments(CELLS[cell], dtype), cpu)
        with jax.default_device(cpu):
            return results(CELLS[cell], "scan", OPTIONS[options], given)

    def here(point):
        given = arguments(CELLS[point.cell], point.dtype)
        return results(CELLS[point.cell], point.engine, OPTIONS[point.options], given)

    kinds = list(itertools.product(cells, OPTIONS, ("float64", *DTYPES)))
    there = tqdm(pool.map(on_cpu, kinds), "on the CPU", len(kinds))
    reference = dict(zip(kinds, there, strict=True))
    checked, rows = points(cells), []
    done = tqdm(pool.map(here, checked), "here", len(checked))
    for point, found in zip(checked, done, strict=True):
        exact = reference[point.cell, point.options, "float64"]
        base = error(reference[point[:3]], exact)
        bound = MARGIN * base + float(jnp.finfo(point.dtype).eps)
        bound = FLOAT32 if point.dtype == "float32" else bound
        rows.append(point._asdict() | {"error": error(found, exact), "bound": bound})
    return rows


def golden_rows(pool: ThreadPoolExecutor) -> list[dict[str, Any]]:
    """TensorFlow's stored outputs, states and gradients, by every engine that can run them."""
    import tensorflow_oracle as oracle
    from golden.make_golden import RUNS, problem

    def row(of):
        name, run, engine = of
        config, stored = oracle.CONFIGS[name], np.load(TESTS / "golden" / f"{name}.npz")
        given = problem(config, run)
        try:
            ours = oracle.ours(config, given, "float32", implementation=engine)
        except NotImplementedError:  # it cannot run this, and says why
            return None
        found = oracle.flat(ours)
        exact = [stored[f"{run}:expected:{path}"] for path in found]
        return {
            "cell": f"TensorFlow's {name}", "options": run, "dtype": "float32", "engine": engine,
            "error": error(list(found.values()), exact), "bound": FLOAT32,
        }  # fmt: skip

    names = [name for name, config in oracle.CONFIGS.items() if not oracle.options(config)]
    all_of = list(itertools.product(names, RUNS, ENGINES))
    return [found for found in tqdm(pool.map(row, all_of), "stored", len(all_of)) if found]


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
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_default_matmul_precision", "highest")
    device = jax.devices()[0]
    measured = {"machine": machine.describe() | {"device": device.device_kind}, "rounds": 1}
    measured["versions"] = machine.versions()
    with ThreadPoolExecutor(2 if on_cpu else 8) as pool:
        measured["rows"] = golden_rows(pool) + random_rows(pool, options.cells)
    out = (SHORT if on_cpu else RESULTS) / "gpu_check.json"
    write(measured, out)
    missed = sum(row["error"] > row["bound"] for row in measured["rows"])
    print(f"{heading(measured)}\n{device.device_kind}\n\n{table(measured['rows'])}\n\nin {out}")
    if missed:
        raise SystemExit(f"{missed} of {len(measured['rows'])} runs are off")
    print(f"all {len(measured['rows'])} runs are right")


if __name__ == "__main__":
    main()
