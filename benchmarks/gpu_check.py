"""Checks the results of every engine on this accelerator.

    python -m benchmarks.gpu_check          # a few minutes; exits with an error on any miss
    python -m benchmarks.gpu_check --cpu    # the same check of the engines on the CPU

Random runs, forward and gradients, are compared with `scan` in float64 on the CPU of the same
process, and with TensorFlow's stored results, in float32. In 16 bit the bound is 1.5 times the
error of `scan` on the CPU in the same dtype, plus one rounding. In float32, with the matmul
precision `"highest"`, it is 1e-5. `pallas` supports float32 only at lower precision: its bound is
four roundings of TF32.
Several processes share the accelerator, because most of the time is spent on tracing and compiling.
XLA's autotuning of matmuls is off, to compile faster.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # all processes share the memory
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_gpu_autotune_level=0"

import jax  # noqa: E402
from tqdm import tqdm  # noqa: E402

from . import gpu_golden, machine  # noqa: E402
from .files import RESULTS, SHORT, write  # noqa: E402
from .gpu_runs import CELLS, OPTIONS, Point, points, random_rows  # noqa: E402
from .report import aligned, heading  # noqa: E402


def checked(cells: list[str], processes: int, measured: dict[str, Any], out: Path) -> None:
    """Runs all checks, and writes the results after each unit of work.

    The units that most engines can run are the longest. They start first, so that no process is
    still busy with one when the others have finished.
    """
    # "spawn": a forked process could not use the accelerator that this one has initialised.
    context, begin = multiprocessing.get_context("spawn"), configure
    units = [unit for unit in itertools.product(cells, OPTIONS) if points(*unit)]
    units.sort(key=lambda unit: len(points(*unit)), reverse=True)
    work = [(random_rows, *unit) for unit in units]
    work += [(gpu_golden.rows, name) for name in gpu_golden.names()]
    with ProcessPoolExecutor(processes, context, begin) as pool:
        futures = [pool.submit(*each) for each in work]
        for future in tqdm(as_completed(futures), "runs of cells", len(futures)):
            future.result()  # raises the error of a process
            done = [f.result() for f in futures if f.done()]
            measured["rows"] = [row for rows in done for row in rows]
            write(measured, out)


def configure() -> None:
    """Sets JAX's options in every process."""
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_default_matmul_precision", "highest")


def table(rows: list[dict[str, Any]]) -> str:
    """A line for each cell, dtype and engine: the run whose error is closest to its bound."""
    lines, groups = [["cell", "dtype", "engine", "run", "error", "bound", ""]], {}
    for row in rows:
        groups.setdefault((row["cell"], row["dtype"], row["engine"]), []).append(row)
    for group, found in groups.items():
        worst = max(found, key=lambda row: row["error"] / row["bound"])
        verdict = "ok" if worst["error"] <= worst["bound"] else "FAILED"
        figures = f"{worst['error']:.1e}", f"{worst['bound']:.1e}"
        lines.append([*group, worst["options"], *figures, verdict])
    return aligned(lines, left=4)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check", description=__doc__)
    parser.add_argument("--cpu", action="store_true", help="check the engines on the CPU")
    parser.add_argument("--cells", nargs="*", choices=CELLS, default=[*CELLS], metavar="CELL")
    options = parser.parse_args()
    on_cpu = options.cpu
    if not on_cpu and jax.default_backend() == "cpu":
        raise SystemExit("no accelerator: JAX runs on the CPU, and nothing was checked; see --cpu")
    device = jax.devices()[0]
    measured = {"machine": machine.describe() | {"device": device.device_kind}, "rounds": 1}
    measured["versions"] = machine.versions()
    processes = (os.cpu_count() or 1) - (0 if on_cpu else 2)  # minus this one and the driver's
    out = (SHORT if on_cpu else RESULTS) / "gpu_check.json"
    checked(options.cells, max(1, processes), measured, out)
    missed = sum(row["error"] > row["bound"] for row in measured["rows"])
    print(f"{heading(measured)}\n{device.device_kind}\n\n{table(measured['rows'])}\n\nin {out}")
    for row in measured["rows"]:
        if "failure" in row:
            print(*(row[k] for k in Point._fields), row["failure"][:500], sep=", ")
    if missed:
        raise SystemExit(f"{missed} of {len(measured['rows'])} runs exceed their error bound")
    print(f"all {len(measured['rows'])} runs are within their error bounds")


if __name__ == "__main__":
    main()
