"""The memory of an agent: one update over a rollout with resets, on a CPU.

    python -m benchmarks.agents            # a quarter of an hour
    python -m benchmarks.agents --short    # tests that everything works; figures mean nothing
    python -m benchmarks.agents --report   # the table of earlier results

A GRU (the reset gate after the matmul, as Flax has it) runs over time-major inputs `[T, B, H]`, and
the loss is differentiated by params and inputs. Beside `linen.ScannedRNN` there is the module that
JAX agents write themselves, a `flax.linen.scan` of a reset and a cell, and Flax's own `RNN`, which
has no resets: its figures are those of a run without. In some rows all of it is under `vmap` over
params, inputs and resets of several seeds.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

import jax_dynrnn as rnn
from jax_dynrnn import interop, linen

from . import command
from .report import aligned
from .timing import rounds, seconds

RATES = (0.0, 0.01, 0.03, 0.1)
"""The share of steps before which there is a reset."""
SEEDS = 8


class Case(NamedTuple):
    """A batch, its time steps, the units, and whether several seeds are mapped."""

    batch: int
    time: int
    units: int
    seeds: int = 1
    rates: tuple[float, ...] = RATES
    count: int = 7
    """The number of rounds."""

    def __str__(self) -> str:
        size = f"{self.batch}x{self.time}x{self.units}"
        return size if self.seeds == 1 else f"{size}, vmap over {self.seeds}"


CASES = (
    *(
        Case(batch, time, units)
        for batch in (128, 1024, 4096)
        for time in (16, 128)
        for units in (64, 256)
        if (batch, time, units) != (4096, 128, 256)
    ),
    Case(128, 16, 64, SEEDS, RATES[1:2]),
    Case(128, 128, 64, SEEDS, RATES[1:2]),
    Case(128, 16, 128, SEEDS, RATES[1:2]),
    Case(128, 128, 128, SEEDS, RATES[1:2]),
    Case(4096, 128, 256, rates=RATES[1:2], count=1),
)
TINY = (Case(4, 6, 8, count=1), Case(4, 6, 8, 2, RATES[1:2], 1))


class PlainScan(nn.Module):
    """The module of JAX agents: a reset, and then a step of Flax's cell."""

    @functools.partial(
        nn.scan, variable_broadcast="params", in_axes=0, out_axes=0, split_rngs={"params": False}
    )
    @nn.compact
    def __call__(self, carry, x):
        inputs, resets = x
        carry = jnp.where(resets[:, None], jnp.zeros_like(carry), carry)
        return nn.GRUCell(carry.shape[-1])(carry, inputs)


def implementations(units: int) -> dict[str, tuple[Callable[..., Any], Any]]:
    """`run(variables, inputs, resets) -> outputs` of each, and its variables: the same weights."""
    cell = rnn.CudnnCompatibleGRUCell(units)
    params = cell.init(jax.random.key(0), (1, units))
    theirs = interop.flax.export_params(cell, params)
    ours, plain = linen.ScannedRNN(cell), PlainScan()
    flax = nn.RNN(nn.GRUCell(units), time_major=True)

    def zeros(inputs):
        return jnp.zeros(inputs.shape[1:], inputs.dtype)

    return {
        "ours": (
            lambda variables, x, resets: ours.apply(variables, zeros(x), (x, resets))[1],
            {"params": {"cell": params}},
        ),
        "plain scan": (
            lambda variables, x, resets: plain.apply(variables, zeros(x), (x, resets))[1],
            {"params": {"GRUCell_0": theirs["cell"]}},
        ),
        "flax RNN": (
            lambda variables, x, resets: flax.apply(variables, x, initial_carry=zeros(x)),
            {"params": theirs},
        ),
    }


def update(run: Callable[..., Any]) -> Callable[..., Any]:
    """The loss of a rollout, and its gradients by variables and inputs."""

    def loss(variables, inputs, resets):
        return (run(variables, inputs, resets) ** 2).mean()

    return jax.value_and_grad(loss, (0, 1))


class Timed:
    """A compiled update, with the interface of `timing.seconds`."""

    def __init__(self, run: Callable[..., Any], variables: Any, case: Case, inputs: Any):
        step = update(run)
        if case.seeds > 1:
            step = jax.vmap(step)
            variables = jax.tree.map(lambda x: jnp.stack([x] * case.seeds), variables)
        self.variables, self.inputs, self.resets = variables, inputs, resets_of(case, 0.0)
        self.program = jax.jit(step).lower(variables, inputs, self.resets).compile()

    def training(self) -> Any:
        return jax.block_until_ready(self.program(self.variables, self.inputs, self.resets))

    def seconds(self, what: str) -> float:
        return seconds(self, what)


def resets_of(case: Case, rate: float) -> jax.Array:
    shape = (case.time, case.batch) if case.seeds == 1 else (case.seeds, case.time, case.batch)
    return jnp.asarray(np.random.default_rng(1).random(shape) < rate)


def measured_rows(case: Case) -> list[dict[str, Any]]:
    """The times of a case at every rate of resets, after a check that results agree."""
    shape = resets_of(case, 0.0).shape
    inputs = jax.random.normal(jax.random.key(1), (*shape, case.units))
    programs = {
        name: Timed(run, variables, case, inputs)
        for name, (run, variables) in implementations(case.units).items()
    }
    rows = []
    for rate in case.rates:
        for program in programs.values():
            program.resets = resets_of(case, rate)
        (ours, (_, by_inputs)), (theirs, (_, expected)) = (
            programs[name].training() for name in ("ours", "plain scan")
        )
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
        scale = float(jnp.abs(expected).max())
        assert float(jnp.abs(by_inputs - expected).max()) < 1e-4 * scale
        timers = {name: program.seconds for name, program in programs.items()}
        rows.append({
            **case._asdict(), "rates": None, "rate": rate, "chosen": chosen(case),
            "training": rounds(timers, "training", case.count),
        })  # fmt: skip
    return rows


def chosen(case: Case) -> str | None:
    """The engine that runs ours."""
    cell = rnn.CudnnCompatibleGRUCell(case.units)
    resets = jax.eval_shape(lambda: resets_of(case, 0.0))
    inputs = jax.ShapeDtypeStruct((*resets.shape, case.units), jnp.float32)
    found = []

    def look(params, inputs, resets):
        explained = rnn.explain(cell, params, inputs, resets=resets, time_major=True)
        found.append(explained.chosen)

    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), (1, case.units)))
    if case.seeds > 1:
        look = jax.vmap(look, (None, 0, 0))
    jax.eval_shape(look, params, inputs, resets)
    return found[0]


def ratio(row: dict[str, Any], peer: str) -> float:
    """The time of a peer, in times of ours."""
    return row["training"][peer]["median"] / row["training"]["ours"]["median"]


def table(measured: dict[str, Any]) -> str:
    """Milliseconds of each, the ratios, and their geometric means."""
    names = ("ours", "plain scan", "flax RNN")
    lines = [("size", "resets", "engine", *names, "plain / ours", "flax / ours")]
    for row in measured["rows"]:
        case = Case(*(row[name] for name in ("batch", "time", "units", "seeds")))
        ms = (f"{row['training'][name]['median']:.4g}" for name in names)
        ratios = (f"{ratio(row, name):.2f}" for name in names[1:])
        lines.append((str(case), f"{row['rate']:.0%}", row["chosen"], *ms, *ratios))
    about = measured["machine"]
    means = [
        f"{what}: plain scan {mean([ratio(row, 'plain scan') for row in rows]):.2f} times the time "
        f"of ours (geometric mean of {len(rows)}, least "
        f"{min(ratio(row, 'plain scan') for row in rows):.2f})"
        for what, rows in (
            ("one seed", [row for row in measured["rows"] if row["seeds"] == 1]),
            ("under vmap", [row for row in measured["rows"] if row["seeds"] > 1]),
        )
        if rows
    ]
    head = f"{about['processor']}, {about['cores']} cores, {about['date']}; ms of one update"
    return "\n".join([head, "", aligned(lines), "", *means])


def mean(values: list[float]) -> float:
    return float(np.exp(np.mean(np.log(values))))


def rows(short: bool) -> Iterator[dict[str, Any]]:
    for case in tqdm(TINY if short else CASES):
        yield from measured_rows(case)


if __name__ == "__main__":
    command.run("agents", __doc__, rows, table)
