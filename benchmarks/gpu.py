"""Microseconds a time step on an accelerator: ours by engine, Flax, cuDNN by JAX and PyTorch.

    python -m benchmarks.gpu                    # some minutes
    python -m benchmarks.gpu --short            # tiny: is it alive, on whatever there is?
    python -m benchmarks.gpu --report FILE      # table and pictures of what was measured before

XLA's flags are those of the environment, and are kept with the figures. The floor is arithmetic:
what a step takes where the recurrent matrix never leaves the chip and latency alone is left.
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

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch wants some memory too

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from tqdm import tqdm  # noqa: E402

from jax_dynrnn.engines.selection import ACCELERATOR_UNROLL as UNROLL  # noqa: E402

from . import gpu_report, machine, peers  # noqa: E402
from .check import disagreeing  # noqa: E402
from .compiled import Compiled, warm_up  # noqa: E402
from .files import RESULTS, SHORT, write  # noqa: E402
from .grid import TINY, Problem, Size, draw_inputs, draw_lengths  # noqa: E402
from .measure import timed  # noqa: E402
from .peers import cudnn, flax, nnx, ours  # noqa: E402
from .problems import cells_of, params_of  # noqa: E402
from .remote import Process  # noqa: E402
from .timing import WHAT  # noqa: E402

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
"""What `implementation=None` may choose, as it would run it."""
GATES = {"lstm": 4, "gru": 3, "gru_after": 3}
CHIP = ((200e3, 0.35), (8 * 200e3, 0.5), (float("inf"), 1.5))
"""Bytes of one, of eight and of all multiprocessors, and microseconds to pass a state around."""
BOUND = {"float32": 0.03, "bfloat16": 0.25, "float16": 0.03}
"""Of an error, relative to the largest number: TF32's and 16 bits' over all steps, and less than
that of any other weights. Whether ours is right is what `benchmarks.gpu_check` says."""


def floor(kind: str, size: Size, dtype: str) -> float:
    """Microseconds of a forward step where latency alone is left."""
    matrix = GATES[kind] * size.units**2 * jnp.dtype(dtype).itemsize
    return next(least for held, least in CHIP if matrix <= held)


def implementations(kind: str, size: Size, dtype: str) -> dict[str, tuple[Any, Any]]:
    """What runs in this process, with weights of one dtype."""
    cast = lambda tree: jax.tree.map(lambda x: jnp.asarray(x, dtype), tree)  # noqa: E731
    params, cell = params_of(kind, size), cells_of(kind, size.units)
    runs = ours.build(kind, size, cast(params))  # engines that take that dtype
    for name, engine in UNROLLED.items():
        if f"ours: {engine}" in runs:
            runs[name] = ours.forward(cell, engine, unroll=UNROLL), params
    for peer in (flax, nnx, cudnn):
        runs |= peer.build(kind, size, params)
    if dtype != "float32":  # which JAX's wrapper of cuDNN has not
        runs = {name: r for name, r in runs.items() if name not in cudnn.FLOAT32}
    return {name: (run, cast(weights)) for name, (run, weights) in runs.items()}


def measured_rows(
    kind: str, size: Size, dtype: str, count: int, pytorch: Process | None
) -> list[dict[str, Any]]:
    """The rows of a cell and size, for all lengths, which one compilation serves."""
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
            each.feed(draw_inputs(problem) if name not in runs else inputs, lengths)
        off = disagreeing(built, problem, runs["ours"][0], inputs, lengths, BOUND[dtype])
        for said in off.values():
            tqdm.write(f"no figure: {said[:1000]}")
        agreeing = {name: each for name, each in built.items() if name not in off}
        about = {"dtype": dtype, "floor": floor(kind, size, dtype)}
        rows += [row | about for row in timed(problem, agreeing, count)]
    return rows


def _compiled(name: str, *run: Any) -> Any:
    """`None`, and a word of why, where a compiler fails: the others go on."""
    try:
        return Compiled(*run)
    except Exception as error:
        tqdm.write(f"no figure: {name}: {type(error).__name__}: {str(error)[:1000]}")
        return None


def run(options: argparse.Namespace, out: Path) -> dict[str, Any]:
    """Measures, and writes what there is after each cell and size."""
    sizes, count = ((TINY,), 2) if options.short else (options.sizes, options.rounds)
    kept = {"device": jax.devices()[0].device_kind, "flags": os.environ.get("XLA_FLAGS", "")}
    kept["precision"] = str(jax.config.jax_default_matmul_precision)
    measured = {"machine": machine.describe() | kept, "versions": machine.versions()}
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
    add("--short", action="store_true", help="one tiny size, on whatever there is")
    add("--report", type=Path, help="of this JSON file; nothing is run")
    add("--cells", nargs="+", choices=KINDS, default=KINDS, metavar="KIND")
    add("--sizes", nargs="+", type=Size.read, default=SIZES)
    add("--dtypes", nargs="+", choices=DTYPES, default=DTYPES)
    add("--rounds", type=int, default=7)
    add("--out", type=Path, help="the JSON file; pictures are put beside it")
    return parser.parse_args(arguments)


def main() -> None:
    options = parsed()
    if options.report:
        out, measured = options.report, json.loads(options.report.read_text())
    elif not options.short and jax.default_backend() == "cpu":
        raise SystemExit("no accelerator: JAX runs on the CPU; --short shows that all are alive")
    else:
        out = options.out or (SHORT if options.short else RESULTS) / "gpu.json"
        measured = run(options, out)
    print(gpu_report.table(measured))
    for what in WHAT:
        gpu_report.draw(measured, what).savefig(out.with_name(f"{out.stem}_{what}.png"), dpi=120)
    print(f"\nin {out}, and pictures beside it")


if __name__ == "__main__":
    main()
