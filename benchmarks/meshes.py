"""An LSTM's training step on 1, 2 and 4 devices of a CPU, and on 2 processes.

    python -m benchmarks.meshes            # ten minutes
    python -m benchmarks.meshes --short    # tests that everything works; figures mean nothing
    python -m benchmarks.meshes --report   # the tables of the committed results

The batch is sharded over the devices. Beside a run under `jax.jit` there is the same run inside of
a `jax.shard_map` written by hand, and Flax's layer under `jax.jit`. The collectives of each program
are counted, inside and outside of its loops.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from tqdm import tqdm

from . import machine
from .collectives import collectives_by_place
from .compiled import training_step
from .files import RESULTS, SHORT, write
from .grid import Problem, Size, draw_inputs, lognormal
from .peers import flax, ours
from .problems import params_of
from .report import aligned
from .timing import rounds

SIZES = (Size(64, 128, 32, 32), Size(64, 128, 64, 128), Size(256, 128, 64, 256))
TINY = (Size(8, 20, 3, 8),)
SETTINGS = ((1, 1), (1, 2), (1, 4), (2, 1))
"""Processes, and devices of each."""
FILE = "meshes.json"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.meshes", description=__doc__)
    parser.add_argument("--short", action="store_true", help="tiny sizes")
    parser.add_argument("--report", action="store_true", help="print the committed tables")
    parser.add_argument("--worker", nargs=4, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return work(options.short, *options.worker)
    out = (SHORT if options.short else RESULTS) / FILE
    if not options.report:
        measured = {"machine": machine.describe(), "versions": machine.versions(), "rows": []}
        for processes, devices in tqdm(SETTINGS[:2] if options.short else SETTINGS):
            measured["rows"] += start(options.short, processes, devices)
            write(measured, out)
    print(table(json.loads(out.read_text())))
    return None


def start(short: bool, processes: int, devices: int) -> list[dict[str, Any]]:
    """The rows that the workers of one setting measure."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [sys.executable, "-m", "benchmarks.meshes", *(["--short"] if short else [])]
    workers = [
        subprocess.Popen(
            [*command, "--worker", *map(str, (processes, i, devices, port))],
            stdout=subprocess.PIPE, text=True, env=os.environ | {"XLA_FLAGS": ""},
        )
        for i in range(processes)
    ]  # fmt: skip
    try:
        first, *_ = [worker.communicate()[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    return json.loads(first.splitlines()[-1])  # JAX's library for collectives prints lines too


def work(short: bool, processes: int, process: int, devices: int, port: int) -> None:
    """Measures all sizes as one process, and prints the rows as JSON."""
    machine.prepare(short)
    jax.config.update("jax_num_cpu_devices", devices)
    if processes > 1:
        jax.distributed.initialize(f"127.0.0.1:{port}", processes, process)
    found = []
    for size in TINY if short else SIZES:
        lengths = lognormal(size.batch, size.time, 0)
        programs = compiled(size, lengths)
        timers = {name: Timed(*program).seconds for name, program in programs.items()}
        # Every process must time the programs in the same order, as they wait for each other.
        for name, training in rounds(timers, "training", 2 if short else 10).items():
            places = collectives_by_place(programs[name][0].as_text())
            found.append({
                "processes": processes, "devices": processes * devices, "size": list(size),
                "implementation": name, "training": training,
                **{place: dict(counts) for place, counts in places.items()},
            })  # fmt: skip
    print(json.dumps(found))


class Timed:
    """Has the interface of `timing.seconds`, with a fixed number of calls on every process."""

    CALLS = 3

    def __init__(self, program: Any, arguments: Any):
        self.program, self.arguments = program, arguments

    def seconds(self, what: str) -> float:
        del what
        start = time.perf_counter()
        for _ in range(self.CALLS):
            jax.block_until_ready(self.program(*self.arguments))
        return (time.perf_counter() - start) / self.CALLS


def compiled(size: Size, lengths: np.ndarray) -> dict[str, tuple[Any, Any]]:
    """The compiled training step of each implementation, and its arguments."""
    mesh = jax.make_mesh((jax.device_count(),), ("rows",), (AxisType.Auto,))
    rows, everywhere = NamedSharding(mesh, P("rows")), NamedSharding(mesh, P())
    params, inputs = params_of("lstm", size), draw_inputs(Problem("lstm", size, "none"))
    of_ours, of_flax = ours.build("lstm", size, params), flax.build("lstm", size, params)
    own = slice(*(size.batch // jax.process_count() * (jax.process_index() + i) for i in (0, 1)))

    def place(x, sharding):
        x = np.asarray(x)
        return jax.make_array_from_process_local_data(sharding, x[own] if sharding is rows else x)

    found = {}
    for name, build in (
        ("ours", of_ours["ours"]),
        ("ours: scan", of_ours["ours: scan"]),
        ("ours, in a shard_map", of_ours["ours"]),
        ("flax: Optimized", of_flax["flax: Optimized"]),
    ):
        run, weights = build
        step = training_step(run)
        if name.endswith("shard_map"):
            step = by_hand(mesh, step)
        arguments = (
            jax.tree.map(lambda x: place(x, everywhere), weights),
            place(inputs, rows),
            place(lengths, rows),
        )
        found[name] = jax.jit(step).lower(*arguments).compile(), arguments
    return found


def by_hand(mesh: Any, step: Any) -> Any:
    """A training step of which each device runs its rows; gradients are summed at the end."""

    def local(weights, inputs, lengths):
        weights = jax.lax.pcast(weights, "rows", to="varying")
        value, (of_weights, of_inputs) = step(weights, inputs, lengths)
        return jax.lax.psum((value, of_weights), "rows"), of_inputs

    def run(weights, inputs, lengths):
        (value, of_weights), of_inputs = jax.shard_map(
            local, mesh=mesh, in_specs=(P(), P("rows"), P("rows")), out_specs=(P(), P("rows"))
        )(weights, inputs, lengths)
        return value, (of_weights, of_inputs)

    return run


def table(measured: dict[str, Any]) -> str:
    """Milliseconds, and the collectives in loops and outside."""
    columns = ("devices", "processes", "size", "implementation", "ms", "in loops", "outside")
    lines = [columns]
    for row in measured["rows"]:
        places = (
            ", ".join(f"{n} {kind}" for kind, n in row[place].items()) or "none"
            for place in ("in loops", "outside")
        )
        lines.append((
            str(row["devices"]), str(row["processes"]), "x".join(map(str, row["size"])),
            row["implementation"], f"{row['training']['median']:.4g}", *places,
        ))  # fmt: skip
    about = measured["machine"]
    return f"{about['processor']}, {about['cores']} cores, {about['date']}\n\n{aligned(lines)}"


if __name__ == "__main__":
    main()
