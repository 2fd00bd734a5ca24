"""Is every engine right on this accelerator?

    python -m benchmarks.gpu_check          # a few minutes; ends with an error on any miss
    python -m benchmarks.gpu_check --cpu    # the engines of the CPU, in the same way

Random runs, forward and gradients, against `scan` in float64 on the CPU of the same process, and
TensorFlow's stored results, in float32. In 16 bit the bound is 1.5 times what `scan` is off there
in the same dtype, and one rounding; in float32, multiplied as `"highest"` says, 1e-5. `pallas` runs
float32 at lower precision only: it is held to four roundings of TF32.
Several processes share the accelerator: most of the time goes into tracing and compiling, and XLA
does not search for the fastest of equal matmuls.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # all processes want memory
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_gpu_autotune_level=0"

import jax  # noqa: E402
from tqdm import tqdm  # noqa: E402

from . import gpu_golden, machine  # noqa: E402
from .files import RESULTS, SHORT, write  # noqa: E402
from .gpu_runs import CELLS, OPTIONS, Point, points, random_rows  # noqa: E402
from .report import aligned, heading  # noqa: E402


def checked(cells: list[str], processes: int, measured: dict[str, Any], out: Path) -> None:
    """Adds all rows, and writes what there is after each unit of work.

    What most engines run is begun with, so that no process is left with it alone.
    """
    context, begin = multiprocessing.get_context("spawn"), configure
    units = list(itertools.product(cells, OPTIONS))
    units.sort(key=lambda unit: len(points(*unit)), reverse=True)
    work = [(random_rows, *unit) for unit in units]
    work += [(gpu_golden.rows, name) for name in gpu_golden.names()]
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
