"""Microseconds a time step on an accelerator: ours by engine, cuDNN through JAX, Flax.

    python -m benchmarks.gpu                    # some minutes
    python -m benchmarks.gpu --short            # tiny: is it alive, on whatever there is?
    python -m benchmarks.gpu --report FILE      # the table of what was measured before

XLA's flags are those of the environment, and are kept with the figures. The floor is arithmetic:
what a step takes where the recurrent matrix never leaves the chip and latency alone is left.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from tqdm import tqdm

from . import machine
from .compiled import Compiled, warm_up
from .files import RESULTS, SHORT, write
from .grid import TINY, Problem, Size, draw_inputs, draw_lengths
from .peers import flax, nnx, ours
from .problems import cells_of, params_of
from .report import aligned, heading
from .timing import WHAT, rounds

SIZES = (
    Size(64, 512, 128, 128),
    Size(64, 512, 256, 256),
    Size(32, 1024, 512, 512),
    Size(16, 1024, 768, 768),
    Size(16, 4096, 64, 64),
)
KINDS = ("lstm", "gru_after", "gru")
DTYPES = ("float32", "bfloat16")
LENGTHS = ("full", "lognormal")
UNROLL = (4, 16)
GATES = {"lstm": 4, "gru": 3, "gru_after": 3}
CHIP = ((200e3, 0.35), (8 * 200e3, 0.5), (float("inf"), 1.5))
"""Bytes of one, of eight and of all multiprocessors, and microseconds to pass a state around."""


def floor(kind: str, size: Size, dtype: str) -> float:
    """Microseconds of a forward step where latency alone is left."""
    matrix = GATES[kind] * size.units**2 * jnp.dtype(dtype).itemsize
    return next(least for held, least in CHIP if matrix <= held)


def implementations(kind: str, size: Size, dtype: str) -> dict[str, tuple[Any, Any]]:
    """Ours by engine and by steps unrolled, and Flax, with weights of one dtype."""
    params, cell = params_of(kind, size), cells_of(kind, size.units)
    runs = ours.build(kind, size, params)
    if dtype != "float32":
        runs.pop("ours: cudnn", None)
    for steps in UNROLL:
        runs[f"ours: scan, unroll {steps}"] = ours.forward(cell, "scan", unroll=steps), params
    runs |= flax.build(kind, size, params) | nnx.build(kind, size, params)
    cast = lambda tree: jax.tree.map(lambda x: jnp.asarray(x, dtype), tree)  # noqa: E731
    return {name: (run, cast(weights)) for name, (run, weights) in runs.items()}


def measured_rows(kind: str, size: Size, dtype: str, count: int) -> list[dict[str, Any]]:
    """The rows of a cell and size, for all lengths, which one compilation serves."""
    problems = [Problem(kind, size, lengths) for lengths in LENGTHS]
    data = [(jnp.asarray(draw_inputs(p), dtype), draw_lengths(p)) for p in problems]
    runs, rows = implementations(kind, size, dtype), []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        built = pool.map(lambda run: Compiled(*run, *data[0]), runs.values())
        compiled = dict(zip(runs, built, strict=True))
    for problem, given in zip(problems, data, strict=True):
        for each in compiled.values():
            each.feed(*given)
        turns = {name: each.seconds for name, each in compiled.items()}
        times = {what: rounds(turns, what, count) for what in WHAT}
        rows += [
            {"kind": kind, "size": list(size), "lengths": problem.lengths, "dtype": dtype}
            | {"implementation": name, "floor": floor(kind, size, dtype)}
            | {what: times[what][name] | each.cost[what] for what in WHAT}
            for name, each in compiled.items()
        ]
    return rows


def table(measured: dict[str, Any]) -> str:
    """Microseconds a step, their ratio to Flax's fastest, and how many times the floor."""
    lines = [["cell", "size", "lengths", "dtype", "implementation"]]
    lines[0] += ["forward, us", "Flax/it", "floors", "training, us", "Flax/it"]
    rows = measured["rows"]
    for row in rows:
        same = [
            r for r in rows if all(r[k] == row[k] for k in ("kind", "size", "lengths", "dtype"))
        ]
        line = [row["kind"], str(Size(*row["size"])), row["lengths"], row["dtype"]]
        line.append(row["implementation"])
        for what in WHAT:
            theirs = [r[what]["median"] for r in same if r["implementation"].startswith("flax")]
            step = 1e3 * row[what]["median"] / row["size"][1]
            line += [f"{step:.2f}", f"{min(theirs) / row[what]['median']:.2f}" if theirs else "-"]
            if what == "forward":
                line.append(f"{step / row['floor']:.1f}")
        lines.append(line)
    kept = measured["machine"]
    said = f"{kept['device']}, XLA_FLAGS={kept['flags']!r}, precision {kept['precision']}"
    return f"{heading(measured)}\n{said}\n\n{aligned(lines, left=5)}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    add = parser.add_argument
    add("--short", action="store_true", help="one tiny size, on whatever there is")
    add("--report", type=Path, help="of this JSON file; nothing is run")
    add("--cells", nargs="+", choices=KINDS, default=KINDS, metavar="KIND")
    add("--sizes", nargs="+", type=Size.read, default=SIZES)
    add("--dtypes", nargs="+", choices=DTYPES, default=DTYPES)
    add("--rounds", type=int, default=7)
    add("--out", type=Path, help="the JSON file")
    options = parser.parse_args()
    if options.report:
        print(table(json.loads(options.report.read_text())))
        return
    if not options.short and jax.default_backend() == "cpu":
        raise SystemExit("no accelerator: JAX runs on the CPU; --short shows that all are alive")
    print(table(run(options, options.out or (SHORT if options.short else RESULTS) / "gpu.json")))


def run(options: argparse.Namespace, out: Path) -> dict[str, Any]:
    """Measures, and writes what there is after each cell and size."""
    sizes, count = ((TINY,), 2) if options.short else (options.sizes, options.rounds)
    kept = {"device": jax.devices()[0].device_kind, "flags": os.environ.get("XLA_FLAGS", "")}
    kept["precision"] = str(jax.config.jax_default_matmul_precision)
    measured = {"machine": machine.describe() | kept, "versions": machine.versions()}
    measured |= {"rounds": count, "rows": []}
    warm_up()
    points = list(itertools.product(sizes, options.cells, options.dtypes))
    for size, kind, dtype in tqdm(points, unit="cell"):
        measured["rows"] += measured_rows(kind, size, dtype, count)
        write(measured, out)
    return measured


if __name__ == "__main__":
    main()
