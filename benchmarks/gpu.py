"""Microseconds per step on a GPU or TPU: our engines, Flax, and cuDNN in JAX and PyTorch.

    python -m benchmarks.gpu                    # some minutes
    python -m benchmarks.gpu --short            # tests that everything works, on any platform
    python -m benchmarks.gpu --report FILE      # table and pictures of earlier results

XLA's flags are taken from the environment and stored with the figures. The floor is an estimate for
GPUs: the time of a step if the recurrent matrix never leaves the chip and only latency remains.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs memory too

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from tqdm import tqdm  # noqa: E402

from jax_dynrnn.engines.selection import ACCELERATOR_UNROLL as UNROLL  # noqa: E402

from . import gpu_report, machine, peers  # noqa: E402
from .check import BOUND as EXACT  # noqa: E402
from .check import compare, disagreeing  # noqa: E402
from .compiled import Compiled, warm_up  # noqa: E402
from .files import RESULTS, SHORT, write  # noqa: E402
from .grid import TINY, Problem, Size, draw_inputs, draw_lengths  # noqa: E402
from .measure import timed  # noqa: E402
from .peers import cudnn, flax, nnx, ours  # noqa: E402
from .problems import cells_of, params_of  # noqa: E402
from .remote import Process  # noqa: E402
from .timing import PASSES  # noqa: E402

SIZES = (
    Size(64, 512, 128, 128),
    Size(64, 512, 256, 256),
    Size(32, 1024, 512, 512),
    Size(16, 1024, 768, 768),
    Size(128, 256, 1024, 1024),
    Size(16, 4096, 64, 64),
)
KINDS = ("lstm", "gru_after", "gru")
DTYPES = ("float32", "bfloat16", "float16")
LENGTHS = ("full", "lognormal")
UNROLLED = {f"ours: {engine}, unroll {UNROLL}": engine for engine in ("scan", "blocked")}
"""The engines that `implementation=None` may choose, with the `unroll` that it uses."""
GATES = {"lstm": 4, "gru": 3, "gru_after": 3}
CHIP = ((200e3, 0.35), (8 * 200e3, 0.5), (float("inf"), 1.5))
"""Bytes that fit on one, on eight and on all SMs, and microseconds to exchange a state there."""
BOUND = {"float32": 0.03, "bfloat16": 0.25, "float16": 0.03}
"""The largest error, relative to the largest element. It allows for the rounding of TF32 and of 16
bits over all steps, but is less than the error with any other weights. `benchmarks.gpu_check`
checks whether our results are correct."""


def floor(kind: str, size: Size, dtype: str) -> float | None:
    """Microseconds of a forward step if only latency remains; `None` for a TPU."""
    if jax.default_backend() == "tpu":
        return None
    matrix = GATES[kind] * size.units**2 * jnp.dtype(dtype).itemsize
    return next(latency for capacity, latency in CHIP if matrix <= capacity)


def implementations(kind: str, size: Size, dtype: str) -> dict[str, tuple[Any, Any]]:
    """The implementations that run in this process, with weights of one dtype."""

    def cast(tree):
        return jax.tree.map(lambda x: jnp.asarray(x, dtype), tree)

    params, cell = params_of(kind, size), cells_of(kind, size.units)
    runs = ours.build(kind, size, cast(params))  # cast first: only engines for that dtype
    for name, engine in UNROLLED.items():
        if f"ours: {engine}" in runs:
            runs[name] = ours.forward(cell, engine, unroll=UNROLL), params
    for peer in (flax, nnx, cudnn):
        runs |= peer.build(kind, size, params)
    if dtype != "float32":  # JAX's wrapper of cuDNN supports no other dtype
        runs = {name: each for name, each in runs.items() if name not in cudnn.FLOAT32}
    return {name: (forward, cast(weights)) for name, (forward, weights) in runs.items()}


def check_engines(kind: str, size: Size) -> dict[str, float]:
    """Compares each engine in float32 with `scan` at the highest matmul precision.

    Returns:
        The bound that each engine keeps: one that lacks that precision runs with the default one.

    Raises:
        ValueError: the results of an engine differ by more.
    """
    problem, params = Problem(kind, size, "lognormal"), params_of(kind, size)
    data = draw_inputs(problem), draw_lengths(problem)
    bounds, expected = {}, None
    for precision, bound in (("highest", EXACT), (None, BOUND["float32"])):
        with jax.default_matmul_precision(precision):
            runs = ours.build(kind, size, params)
            for name in sorted(runs.keys() - bounds.keys(), key="ours: scan".__ne__):  # it is first
                results = Compiled(*runs[name], *data).results()
                expected = expected or results
                compare(results, expected, data[1], f"{problem}: {name}", bound)
                bounds[name] = bound
    return bounds


def measured_rows(
    kind: str, size: Size, dtype: str, count: int, pytorch: Process | None
) -> list[dict[str, Any]]:
    """The rows of a cell and size, for all kinds of lengths, with one compilation."""
    problems = [Problem(kind, size, lengths) for lengths in LENGTHS]
    data = [(jnp.asarray(draw_inputs(p), dtype), draw_lengths(p)) for p in problems]
    runs, rows = implementations(kind, size, dtype), []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        compiled = pool.map(lambda name: _compiled(name, *runs[name], *data[0]), runs)
        built = {name: each for name, each in zip(runs, compiled, strict=True) if each}
    if pytorch is not None:
        place = pytorch.call("device"), dtype
        built |= pytorch.build(kind, size, params_of(kind, size), True, place)
    for problem, (inputs, lengths) in zip(problems, data, strict=True):
        for name, each in built.items():
            # PyTorch takes NumPy arrays and casts them itself: NumPy has no bfloat16.
            each.feed(draw_inputs(problem) if name not in runs else inputs, lengths)
        failures = disagreeing(built, problem, runs["ours"][0], inputs, lengths, BOUND[dtype])
        for message in failures.values():
            tqdm.write(f"not measured: {message[:1000]}")
        agreeing = {name: each for name, each in built.items() if name not in failures}
        columns = {"dtype": dtype, "floor": floor(kind, size, dtype)}
        rows += [row | columns for row in timed(problem, agreeing, count)]
    return rows


def _compiled(name: str, *arguments: Any) -> Any:
    """A `Compiled`; `None`, after a printed message, if compilation fails, so that others go on."""
    try:
        return Compiled(*arguments)
    except Exception as error:
        tqdm.write(f"not measured: {name}: {type(error).__name__}: {str(error)[:1000]}")
        return None


def run(options: argparse.Namespace, out: Path) -> dict[str, Any]:
    """Measures all cells and sizes, and writes the results after each one."""
    sizes, count = ((TINY,), 2) if options.short else (options.sizes, options.rounds)
    device = {"device": jax.devices()[0].device_kind, "flags": os.environ.get("XLA_FLAGS", "")}
    device["precision"] = str(jax.config.jax_default_matmul_precision)
    measured = {"machine": machine.describe() | device, "versions": machine.versions()}
    measured |= {"rounds": count, "rows": []}
    points = list(itertools.product(sizes, options.cells, options.dtypes))
    with ExitStack() as stack:
        pytorch = None
        if peers.installed("pytorch"):
            pytorch = stack.enter_context(Process("pytorch"))
        warm_up()
        for size, kind, dtype in tqdm(points, unit="cell"):
            measured["rows"] += measured_rows(kind, size, dtype, count, pytorch)
            write(measured, out)
    return measured


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    add = parser.add_argument
    add("--short", action="store_true", help="one tiny size, on any platform")
    add("--report", type=Path, help="make table and pictures from this JSON file; run nothing")
    add("--cells", nargs="+", choices=KINDS, default=KINDS, metavar="KIND")
    add("--sizes", nargs="+", type=Size.read, default=SIZES)
    add("--dtypes", nargs="+", choices=DTYPES, default=DTYPES)
    add("--rounds", type=int, default=7)
    add("--out", type=Path, help="the JSON file; pictures are saved beside it")
    return parser.parse_args(arguments)


def main() -> None:
    options = parsed()
    if options.report:
        out, measured = options.report, json.loads(options.report.read_text())
    elif not options.short and jax.default_backend() == "cpu":
        raise SystemExit("no accelerator: JAX runs on the CPU; --short tests that everything works")
    else:
        out = options.out or (SHORT if options.short else RESULTS) / "gpu.json"
        measured = run(options, out)
    print(gpu_report.table(measured))
    for what in PASSES:
        gpu_report.draw(measured, what).savefig(out.with_name(f"{out.stem}_{what}.png"), dpi=120)
    print(f"\nin {out}, and pictures beside it")


if __name__ == "__main__":
    main()
