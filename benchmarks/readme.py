"""The README's figures for CPUs, made from `results/cpu.json`.

python -m benchmarks.readme            # prints them
python -m benchmarks.readme --write    # writes them to the README
"""

from __future__ import annotations

import functools
import json
import re
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .compare import MARGIN, Entry, by_problem, collect, geometric_mean, in_grid, over_flax
from .files import RESULTS
from .report import Entries, figure, ratios
from .timing import PASSES

README = Path(__file__).parents[1] / "README.md"
PLACE = re.compile(r"(<!-- speed -->\n).*?(<!-- /speed -->)", re.DOTALL)

ROWS = {
    "the best of Flax (Linen, NNX), Haiku, Keras on JAX, Equinox": "best JAX peer",
    "TensorFlow's `dynamic_rnn`": "TensorFlow",
    "PyTorch, the fastest of padded and packed, one thread and two": "PyTorch",
}
"""Rows of the table, and the comparisons that they show."""
GROUPS = "all T", "log-normal"


def section(measured: dict[str, Any]) -> str:
    """The table of speed-ups, and sentences on losses, memory and compilation."""
    entries = in_grid(by_problem(measured["rows"]))
    machine = measured["machine"]
    text = " ".join([_losses(entries), _by_cell(entries), _resources(entries)])
    source = f"Measured on {machine['cores']} cores ({machine['processor']}), {machine['date']}."
    return f"{_table(entries)}\n\n{textwrap.fill(f'{text} {source}', 115)}\n"


def _table(entries: Entries) -> str:
    lines = [
        "| speed-up over | all lengths full: forward | training step "
        "| lengths log-normal: forward | training step |",
        "|---|---|---|---|---|",
    ]
    for name, comparison in ROWS.items():
        means = [
            _mean(entries, ratios(what)[comparison], group) for group in GROUPS for what in PASSES
        ]
        lines.append(f"| {name} | {' | '.join(map(figure, means))} |")
    return "\n".join(lines)


def _losses(entries: Entries) -> str:
    forward, training = (
        list(collect(entries, ratios(what)["best JAX peer"]).values()) for what in PASSES
    )
    lost = [sum(ratio < MARGIN for ratio in found) for found in (training, forward)]
    return (
        f"There are exceptions: {lost[0]} of {len(training)} training steps and {lost[1]} of "
        f"{len(forward)} forward passes reach less than {MARGIN:.0%} of the best JAX peer's speed; "
        f"the lowest are {min(training):.0%} and {min(forward):.0%}."
    )


def _by_cell(entries: Entries) -> str:
    parts = []
    for name, kind in (("LSTM", "lstm"), ("reset-after GRU", "gru_after")):
        of_kind = {p: entry for p, entry in entries.items() if p.kind == kind}
        means = [
            [_mean(of_kind, ratios(what)["PyTorch"], group) for what in PASSES] for group in GROUPS
        ]
        full, lognormal = (" and ".join(map(figure, pair)) for pair in means)
        parts.append(f"for the {name} {full} with full lengths, {lognormal} with log-normal ones")
    return f"Over PyTorch the speed-up, forward and in training, is {'; '.join(parts)}."


def _resources(entries: Entries) -> str:
    memory, seconds = (
        _mean(entries, functools.partial(over_flax, what="training", quantity=quantity))
        for quantity in ("memory", "compile")
    )
    slowest = max(entry["ours"]["training"]["compile"] for entry in entries.values())
    return (
        f"On average a training step needs {memory:.0%} of Flax's temporary memory and takes "
        f"{seconds:.1f} times as long to compile, at most {slowest:.1f} s."
    )


def _mean(
    entries: Entries, ratio: Callable[[Entry], float | None], group: str = "all"
) -> float | None:
    return geometric_mean(collect(entries, ratio, group).values())


def written() -> str:
    """The text of the README, with the figures of the committed results."""
    made = section(json.loads((RESULTS / "cpu.json").read_text()))
    return PLACE.sub(lambda found: found[1] + made + found[2], README.read_text())


if __name__ == "__main__":
    if "--write" in sys.argv:
        README.write_text(written())
    else:
        print(PLACE.search(written())[0])
