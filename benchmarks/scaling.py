"""Time and memory of an LSTM's training step against T, B, H and raggedness.

    python -m benchmarks.scaling                # three quarters of an hour
    python -m benchmarks.scaling --short        # tests that everything works; figures mean nothing
    python -m benchmarks.scaling --report FILE  # table and pictures of earlier results

One parameter is varied at a time, about a base point. The limit is the time that the machine needs
for the matmuls of the valid steps only. At the end, sizes that no tile or block divides are
compared with their neighbours.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from tqdm import tqdm

from . import machine, memory, odd_sizes
from .files import RESULTS, SHORT, write
from .grid import MEAN, Size, lognormal
from .measure import training_rows
from .peers import flax, ours
from .problems import params_of
from .scaling_picture import draw, draw_odd_sizes

BASE = Size(32, 256, 64, 128)
AXES = {
    "time": (32, 64, 128, 256, 512, 1024, 2048),
    "batch": (1, 4, 16, 32, 64, 128, 256),
    "units": (32, 64, 128, 256, 512),
    "mean length": (0.1, 0.2, 0.35, 0.5, 0.75, 1.0),
}
"""Mean lengths are fractions of T; on the other axes the mean is `MEAN`."""
LONG = Size(8, 10_000, 32, 64)

TINY = Size(4, 16, 3, 8)
TINY_AXES = {"time": (16, 32), "batch": (4, 8), "units": (8, 16), "mean length": (0.35, 1.0)}
TINY_LONG = Size(2, 300, 3, 8)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument(
        "--short", action="store_true", help="tiny sizes: tests that everything works"
    )
    parser.add_argument(
        "--report", type=Path, help="make table and pictures from this JSON file; run nothing"
    )
    options = parser.parse_args()
    out = options.report or (SHORT if options.short else RESULTS) / "scaling.json"
    measured = json.loads(out.read_text()) if options.report else run(options.short, out)
    print(memory.table(measured))
    draw(measured, out.with_suffix(".png"))
    if odd := measured.get("odd_sizes"):  # absent from files of earlier versions
        print(f"\n{odd_sizes.table(odd)}")
        draw_odd_sizes(odd, out.with_name(f"{out.stem}_odd_sizes.png"))
    print(f"\nin {out}, and its pictures beside it")


def run(short: bool, out: Path) -> dict[str, Any]:
    """Measures all points, and writes the results after each one."""
    machine.prepare(short)
    base, axes, long = (TINY, TINY_AXES, TINY_LONG) if short else (BASE, AXES, LONG)
    count = 3 if short else 7
    measured = {"machine": machine.describe(), "versions": machine.versions(), "rounds": count}
    measured |= {"base": list(base), "gflops": matmul_rate(256 if short else 2048)}
    measured |= {"memory": [], "rows": [], "odd_sizes": []}
    for point in tqdm(list(points(base, axes)), unit="point"):
        measured["rows"] += rows(*point, count, measured["gflops"])
        write(measured, out)
    for row in tqdm(memory.rows(long, count), unit="run", total=memory.RUNS):
        measured["memory"].append(row)
        write(measured, out)
    for row in tqdm(odd_sizes.rows(short, count), unit="run", total=odd_sizes.count(short)):
        measured["odd_sizes"].append(row)
        write(measured, out)
    return measured


def matmul_rate(size: int) -> float:
    """GFLOP/s of a float32 matmul on this machine, the best of 10 tries."""
    x, multiply = jnp.ones((size, size)), jax.jit(jnp.matmul)
    jax.block_until_ready(multiply(x, x))
    best = float("inf")
    for _ in range(10):
        start = time.perf_counter()
        jax.block_until_ready(multiply(x, x))
        best = min(best, time.perf_counter() - start)
    return round(2 * size**3 / best / 1e9, 1)


def points(base: Size, axes: dict[str, tuple]) -> Iterator[tuple[str, float, Size, float]]:
    """`(axis, value, size, mean length)` of every point."""
    for axis, values in axes.items():
        for value in values:
            if axis == "mean length":
                yield axis, value, base, value
            else:
                yield axis, value, base._replace(**{axis: value}), MEAN


def limit(size: Size, steps: int, gflops: float) -> float:
    """Milliseconds of a training step at the rate of large matmuls.

    The backward pass has two matmuls for each one of the forward pass: hence the factor 3.
    """
    _, _, inputs, units = size
    return 3 * 2 * steps * (inputs + units) * 4 * units / gflops / 1e6


def rows(
    axis: str, value: float, size: Size, mean: float, count: int, gflops: float
) -> list[dict[str, Any]]:
    """The rows of a point: ours, our `scan`, and Flax."""
    lengths = lognormal(size.batch, size.time, 0, mean)
    least = float(f"{limit(size, int(lengths.sum()), gflops):.4g}")
    shared = {"axis": axis, "value": value, "size": list(size), "mean": mean, "limit": least}
    params = params_of("lstm", size)
    runs = ours.build("lstm", size, params) | flax.build("lstm", size, params)
    chosen = {name: runs[name] for name in ("ours", "ours: scan", "flax: Optimized")}
    return [shared | row for row in training_rows(chosen, size, lengths, count)]


if __name__ == "__main__":
    main()
