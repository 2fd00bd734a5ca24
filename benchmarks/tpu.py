"""Estimates of what a step takes on a TPU, made without one.

    python -m benchmarks.tpu                      # all rows, for hours
    python -m benchmarks.tpu --short              # two small rows: tests that everything works
    python -m benchmarks.tpu --report             # the table of the committed results
    python -m benchmarks.tpu --resume --rows 20   # goes on where a run ended, for 20 more rows
    python -m benchmarks.tpu --chips v5e --cells lstm --units 128   # only these rows

Nothing here is measured. libtpu (`make tpu` installs it) compiles each program as for a chip and
writes its schedule, which `schedules.py` adds up. So the cycles are what the compiler plans, plus a
model of the main memory (HBM); the bytes are those that copies from and to it move; memory is the
size of the temporary buffers, by the compiler's account; the seconds to compile are those of all
processors together, which a busy machine changes little. What a chip does differently is not in the
figures, nor is the host. Rows have lengths, and all have `T` steps. The training step is the
gradient of the params.

Columns: the engine that is chosen; Flax's `nn.RNN`, with the better cell where there are two; and
the kernel (`implementation="pallas"`).
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import json
import math
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen
from tqdm import tqdm

import jax_dynrnn as rnn
from jax_dynrnn.engines.blocked.tiling import steps_of_a_block
from jax_dynrnn.engines.blocked.tuning import TPU

from . import machine
from .files import RESULTS, SHORT, write
from .problems import cells_of
from .report import aligned
from .schedules import CHIPS, DUMP, Schedule
from .tpu_compiler import ENVIRONMENT, compiled_on, devices

T = 128
GATES = {"lstm": 4, "gru_after": 3}
KINDS = tuple(GATES)
UNITS = (64, 128, 256, 512, 1024)
BATCHES = (64, 8, 512)
DTYPES = ("bfloat16", "float32")
PASSES = ("forward", "training")
CHOSEN, KERNEL = "chosen", "pallas"
FLAX = {
    "lstm": {"flax: Optimized": linen.OptimizedLSTMCell, "flax: LSTMCell": linen.LSTMCell},
    "gru_after": {"flax: GRUCell": linen.GRUCell},
}
FILE = "tpu_static.json"


class Row(NamedTuple):
    """A row of the table."""

    chip: str
    layout: str
    batch: int
    dtype: str
    kind: str
    units: int
    what: str

    @classmethod
    def read(cls, fields: list[str]) -> Row:
        """A row of fields that are all text."""
        chip, layout, batch, dtype, kind, units, what = fields
        return cls(chip, layout, int(batch), dtype, kind, int(units), what)


def all_rows() -> Iterator[Row]:
    """The rows of the table, the most telling first."""
    first, *others = BATCHES
    settings = itertools.chain(
        itertools.product(("v5e",), ("time-major", "batch-major"), (first,), DTYPES),
        itertools.product(("v6e",), ("time-major",), (first,), DTYPES),
        itertools.product(("v5e",), ("time-major",), others, DTYPES),
    )
    for setting in settings:
        for kind, units, what in itertools.product(KINDS, UNITS, PASSES):
            yield Row(*setting, kind, units, what)


SHORT_ROWS = (
    Row("v5e", "time-major", 8, "bfloat16", "lstm", 128, "forward"),
    Row("v6e", "time-major", 64, "float32", "gru_after", 64, "training"),
)


def program(row: Row, column: str) -> tuple[Callable, tuple[Any, ...]]:
    """The function of a row's column, and the types of its arguments."""
    time_major = row.layout == "time-major"
    shape = (T, row.batch, row.units) if time_major else (row.batch, T, row.units)
    inputs = jax.ShapeDtypeStruct(shape, row.dtype)
    if column in FLAX[row.kind]:
        cell = FLAX[row.kind][column](
            row.units, dtype=row.dtype, param_dtype=row.dtype,
            # The default is orthogonal, for which JAX 0.12 refuses bfloat16.
            recurrent_kernel_init=linen.initializers.lecun_normal(),
        )  # fmt: skip
        layer = linen.RNN(cell, time_major=time_major)
        params = jax.eval_shape(layer.init, jax.random.key(0), inputs)

        def run(params, inputs, lengths):
            return layer.apply(params, inputs, seq_lengths=lengths)

    else:
        cell, engine = cells_of(row.kind, row.units), None if column == CHOSEN else column
        init_shape = (row.batch, T, row.units)
        params = jax.eval_shape(lambda: cell.init(jax.random.key(0), init_shape, row.dtype))

        def run(params, inputs, lengths):
            outputs, _ = rnn.dynamic_rnn(
                cell, params, inputs, lengths, implementation=engine, time_major=time_major
            )
            return outputs

    def loss(*arguments):
        return run(*arguments).astype(jnp.float32).sum()

    types = params, inputs, jax.ShapeDtypeStruct((row.batch,), jnp.int32)
    return (run if row.what == "forward" else jax.grad(loss)), types


def estimate(row: Row, column: str, folder: Path) -> dict[str, Any]:
    """Compiles one program in this process, and adds up what libtpu writes into `folder`."""
    function, types = program(row, column)
    start = time.process_time()
    compiled = compiled_on(f"{row.chip}:2x2", function, *types)
    seconds = time.process_time() - start
    cost = Schedule(compiled.as_text(), folder, CHIPS[row.chip], blocks_of(row)).cost()
    found = {
        "cycles": round(cost.cycles / T),
        "hbm_bytes": round(cost.hbm_bytes / T),
        "memory": compiled.memory_analysis().temp_size_in_bytes,
        "compile": round(seconds, 1),
    }
    if column == CHOSEN:
        params, inputs, lengths = types
        with jax.default_device(devices(f"{row.chip}:2x2")[0]):
            explained = rnn.explain(
                cells_of(row.kind, row.units), params, inputs, lengths,
                time_major=row.layout == "time-major",
            )  # fmt: skip
        found["engine"] = explained.chosen
    return found


def blocks_of(row: Row) -> int:
    """The blocks of `blocked`. Only loops over these end at the longest row: here after all."""
    elements, itemsize = row.units * GATES[row.kind], jnp.dtype(row.dtype).itemsize
    return math.ceil(T / steps_of_a_block(T, row.batch, elements, itemsize, TPU))


def estimated(row: Row, column: str, timeout: int) -> dict[str, Any]:
    """What `estimate` finds in a process of its own, since libtpu may abort; or why it fails.

    It fails after `timeout` seconds of processor time.
    """

    def limit():
        resource.setrlimit(resource.RLIMIT_CPU, (timeout, timeout + 1))

    with tempfile.TemporaryDirectory() as folder:
        flags = {"LIBTPU_INIT_ARGS": DUMP.format(folder=folder), "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, "-m", "benchmarks.tpu", "--worker", folder, column]
        done = subprocess.run(
            [*command, *map(str, row)], capture_output=True, text=True, preexec_fn=limit,
            env=os.environ | ENVIRONMENT | flags,
        )  # fmt: skip
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    if done.returncode == -signal.SIGXCPU:
        return {"reason": f"it was not compiled within {timeout} s of processor time"}
    lines = [line for line in done.stderr.splitlines() if "Error" in line or "failed" in line]
    said = (lines or done.stderr.splitlines() or ["nothing"])[-1]
    return {"reason": f"exit status {done.returncode}: {said[:300]}"}


def run(rows: list[Row], out: Path, resume: bool, timeout: int) -> None:
    """Estimates all columns of rows, and writes the results after each row."""
    made: dict[str, Any] = {"machine": machine.describe(), "versions": versions(), "rows": []}
    if resume and out.exists():
        made["rows"] = json.loads(out.read_text())["rows"]
    entries = {row_of(entry): entry for entry in made["rows"]}
    for row in tqdm(rows, unit="row"):
        entry = entries.setdefault(row, row._asdict())
        for column in (CHOSEN, *FLAX[row.kind], KERNEL):
            if "cycles" not in entry.get(column, {}):
                entry[column] = estimated(row, column, timeout)
        write(made | {"rows": [entries[row] for row in all_rows() if row in entries]}, out)


def row_of(entry: dict[str, Any]) -> Row:
    return Row(*(entry[field] for field in Row._fields))


def versions() -> dict[str, str]:
    names = "jax", "jaxlib", "libtpu", "flax"
    found = {name: importlib.metadata.version(name) for name in names}
    return {"jax_dynrnn": rnn.__version__} | found


def reasons(entry: dict[str, Any]) -> dict[str, str | None]:
    """Why a column has no figures, or `None`."""
    columns = (CHOSEN, *FLAX[entry["kind"]], KERNEL)
    return {column: entry[column].get("reason") for column in columns}


def best_flax(entry: dict[str, Any]) -> dict[str, Any]:
    """The program of Flax that takes the fewest cycles; the first, if there are no figures."""
    columns = [entry[column] for column in FLAX[entry["kind"]]]
    return min(columns, key=lambda found: found.get("cycles", math.inf))


def ratio(entry: dict[str, Any]) -> float | None:
    """Flax's cycles over those of the chosen engine."""
    ours, theirs = entry[CHOSEN].get("cycles"), best_flax(entry).get("cycles")
    return theirs / ours if ours and theirs else None


def table(made: dict[str, Any]) -> str:
    """Cycles and bytes of a step, and memory, of chosen, Flax and kernel; `<` marks a lost row."""
    lines: list[list[str]] = [[*HEADS]]
    notes = []
    for entry in made["rows"]:
        columns = entry[CHOSEN], best_flax(entry), entry[KERNEL]
        over_flax = ratio(entry)
        verdict = "-" if over_flax is None else f"{over_flax:.2f}{' <' if over_flax < 1 else '  '}"
        of_row = [*map(str, row_of(entry)), entry[CHOSEN].get("engine", "-")]
        lines.append([
            *of_row, *(_figure(c, "cycles") for c in columns), verdict,
            *(_figure(c, "hbm_bytes", 1e3) for c in columns),
            *(_figure(c, "memory", 1e6) for c in columns),
        ])  # fmt: skip
        for name, reason in reasons(entry).items():
            notes += [f"{' '.join(of_row[:-1])}, {name}: {reason}"] if reason else []
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    title = f"Estimates from the compiler's schedules, not measured on a TPU; T = {T}; {versions}"
    return "\n".join([title, "", aligned(lines, left=len(Row._fields) + 1), "", *notes])


HEADS = (
    *("chip", "layout", "B", "dtype", "cell", "H", "pass", "engine", "cycles", "Flax", "kernel"),
    *("Flax/chosen", "HBM kB", "Flax", "kernel", "temporary MB", "Flax", "kernel"),
)


def _figure(found: dict[str, Any], key: str, unit: float = 1.0) -> str:
    return f"{found[key] / unit:.{0 if unit == 1 else 1}f}" if key in found else "-"


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tpu", description=__doc__)
    add = parser.add_argument
    add("--short", action="store_true", help="two tiny rows")
    add("--report", action="store_true", help="print the committed table; compile nothing")
    add("--resume", action="store_true", help="keep the rows that the file has figures of")
    add("--rows", type=int, help="at most so many rows")
    add("--chips", nargs="+", choices=CHIPS, default=list(CHIPS))
    add("--cells", nargs="+", choices=KINDS, default=KINDS)
    add("--units", nargs="+", type=int, choices=UNITS, default=UNITS)
    add("--timeout", type=int, default=600, help="processor seconds for a program")
    add("--worker", nargs="+", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = parsed()
    if options.worker:
        folder, column, *fields = options.worker
        print(json.dumps(estimate(Row.read(fields), column, Path(folder))))
        return
    out = (SHORT if options.short else RESULTS) / FILE
    if not options.report:
        rows = list(SHORT_ROWS if options.short else wanted(options))
        if options.resume and out.exists():
            kept = json.loads(out.read_text())["rows"]
            finished = {row_of(entry) for entry in kept if not any(reasons(entry).values())}
            rows = [row for row in rows if row not in finished]
        run(rows[: options.rows], out, options.resume, options.timeout)
    print(table(json.loads(out.read_text())))


def wanted(options: argparse.Namespace) -> Iterator[Row]:
    """The rows that the options leave."""
    for row in all_rows():
        if row.chip in options.chips and row.kind in options.cells and row.units in options.units:
            yield row


if __name__ == "__main__":
    main()
