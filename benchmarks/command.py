"""The command of a small benchmark: measures, stores the results as JSON, and prints them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from typing import Any

from . import machine
from .files import RESULTS, SHORT, write


def run(
    name: str,
    doc: str | None,
    rows: Callable[[bool], Iterator[dict[str, Any]]],
    table: Callable[[dict[str, Any]], str],
) -> None:
    """`python -m benchmarks.NAME [--short | --report]`.

    Args:
        name: of the module, and of its file of results.
        doc: its docstring.
        rows: `rows(short)` yields the rows of results; each is stored when it is made.
        table: the text that is printed for all results.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=doc)
    parser.add_argument("--short", action="store_true", help="tests that everything works")
    parser.add_argument("--report", action="store_true", help="print earlier results")
    options = parser.parse_args()
    out = (SHORT if options.short else RESULTS) / f"{name}.json"
    if options.report and not out.exists():
        parser.error(f"there are no results in {out}: run it without --report")
    if not options.report:
        machine.prepare(options.short)
        measured = {"machine": machine.describe(), "versions": machine.versions(), "rows": []}
        for row in rows(options.short):
            measured["rows"].append(row)
            write(measured, out)
    print(table(json.loads(out.read_text())))
