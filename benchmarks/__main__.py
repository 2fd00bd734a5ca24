"""The command `python -m benchmarks`: see the docstring of the package."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from tqdm import tqdm

from . import compare, fairness, machine, peers
from .files import RESULTS, SHORT, write
from .grid import SIZES, TINY, Problem, Size, lengths_of
from .measure import Implementations, timed
from .picture import draw
from .report import tables

FAMILIES = (*peers.JAX, *peers.PROCESSES)
SHORT_LENGTHS = {"lstm": "lognormal", "gru": "uniform", "gru_after": "none", "vanilla": "full"}
"""The lengths for each kind in a short run: each of them is used once."""


def main() -> None:
    options = parsed()
    if options.report:
        out = options.report
        measured = json.loads(out.read_text())
    else:
        default = SHORT / "short.json" if options.short else RESULTS / "cpu.json"
        out = options.out or default
        measured = run(options, out)
    print(tables(measured))
    draw(measured, out.with_suffix(".png"))
    print(f"\nin {out}, and a picture beside it")
    if fairness.beyond_bound(measured.get("alone", [])):
        raise SystemExit("a framework is not as fast in the suite as it is alone: see above")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    add = parser.add_argument
    add("--short", action="store_true", help="one tiny size: tests that everything works")
    add("--report", type=Path, help="make tables and picture from this JSON file; run nothing")
    add("--cells", nargs="+", choices=SIZES, metavar="KIND", help=", ".join(SIZES))
    add("--sizes", nargs="+", type=Size.read, metavar="BxTxIxH", help="instead of the grid's")
    add("--peers", nargs="*", choices=FAMILIES, metavar="PEER", help=", ".join(FAMILIES))
    add("--rounds", type=int, help="default: 7, or 3 in a short run")
    add("--resume", action="store_true", help="continue an interrupted run of this machine")
    add("--out", type=Path, help="the JSON file; the picture is saved beside it")
    return parser.parse_args()


def run(options: argparse.Namespace, out: Path) -> dict[str, Any]:
    """Measures all problems, and writes the results after each one."""
    machine.prepare(options.short)
    count = options.rounds or (3 if options.short else 7)
    measured = {"machine": machine.describe(), "versions": machine.versions(), "rounds": count}
    measured["alone"], measured["rows"] = [], before(out, measured) if options.resume else []
    families = FAMILIES if options.peers is None else options.peers
    plan = left(planned(options), measured["rows"])
    total = sum(len(lengths) for _, _, lengths in plan)
    with Implementations(families, 2 if options.short else 1) as field, tqdm(total=total) as bar:
        for family in field.missing:
            bar.write(f"{family}: not installed, no rows")
        check(field, measured, "start", options.short)
        for kind, of, lengths in plan:
            bar.set_description(f"{kind} {of}")
            for problem, implementations in field.checked(kind, of, lengths):
                measured["rows"] += timed(problem, implementations, count)
                write(measured, out)  # so that `--resume` can continue an interrupted run
                bar.update()
        check(field, measured, "end", options.short)
    write(measured, out)
    return measured


def check(field: Implementations, measured: dict[str, Any], when: str, short: bool) -> None:
    """Compares the suite with each framework alone; skipped in a short run, whose figures mean
    nothing."""
    if not short:
        checked = fairness.check(field, measured["rounds"], when)
        measured["alone"] += tqdm(checked, desc=f"each framework alone, {when}", unit="row")


def before(out: Path, now: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of an interrupted run, which must be of the same machine and versions."""
    previous = json.loads(out.read_text())
    pairs = [(previous[name], now[name]) for name in ("versions", "rounds")]
    pairs.append((previous["machine"]["processor"], now["machine"]["processor"]))
    for then, here in pairs:
        if then != here:
            raise SystemExit(f"--resume: {out} is of another run, of {then}; this one has {here}")
    return previous["rows"]


Plan = list[tuple[str, Size, tuple[str, ...]]]
"""Kinds and sizes, each with its lengths."""


def left(plan: Plan, rows: list[dict[str, Any]]) -> Plan:
    """The part of the plan that has no rows yet."""
    done = compare.by_problem(rows)
    rest = [(k, s, tuple(n for n in each if Problem(k, s, n) not in done)) for k, s, each in plan]
    return [(kind, of, lengths) for kind, of, lengths in rest if lengths]


def planned(options: argparse.Namespace) -> Plan:
    """The plan for the command's options."""
    if options.short:
        lengths = {k: SHORT_LENGTHS.get(k, "lognormal") for k in options.cells or SHORT_LENGTHS}
        return [(k, s, (n,)) for k, n in lengths.items() for s in options.sizes or [TINY]]
    kinds = options.cells or SIZES
    return [(k, s, lengths_of(k, s)) for k in kinds for s in options.sizes or SIZES[k]]


if __name__ == "__main__":
    main()
