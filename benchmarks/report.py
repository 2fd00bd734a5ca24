"""Tables of the results, for the terminal."""

from __future__ import annotations

import functools
from typing import Any

from . import compare, fairness
from .compare import COMPARISONS, GROUPS, MARGIN, Entry, collect, geometric_mean
from .grid import SIZES, WITHOUT_PEERS, Problem
from .timing import PASSES

Entries = dict[Problem, Entry]


def tables(measured: dict[str, Any]) -> str:
    """A table for each kind of cell and pass, and the means."""
    entries = compare.by_problem(measured["rows"])
    parts = [heading(measured)]
    for kind in SIZES:
        of_kind = {p: entry for p, entry in entries.items() if p.kind == kind}
        parts += [_table(kind, what, of_kind) for what in PASSES if of_kind]
    grid = compare.in_grid(entries)
    parts += _means(grid) if grid else []
    return "\n\n".join(parts + _alone(measured.get("alone", [])))


def _alone(rows: list[dict[str, Any]]) -> list[str]:
    """Compares the suite's times of other frameworks with those in their own processes."""
    if not rows:
        return []
    ratios = [row["suite"] / row["alone"] for row in rows]
    mean, off = geometric_mean(ratios), fairness.beyond_bound(rows)
    lines = [f"other frameworks: {mean:.2f} of their time alone, the mean of {len(rows)} pairs"]
    lines += [f"over {fairness.BOUND:.0%}: {fairness.sentence(row)}" for row in off]
    return ["\n".join(lines)]


def heading(measured: dict[str, Any]) -> str:
    """One line with the machine, the date and the versions."""
    machine = measured["machine"]
    names = ", ".join(f"{name} {version}" for name, version in measured["versions"].items())
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['system']}, "
        f"{machine['date']}, medians of {measured['rounds']} rounds; {names}"
    )


def _table(kind: str, what: str, entries: Entries) -> str:
    names = list(dict.fromkeys(name for entry in entries.values() for name in entry))
    rival = ("ours: scan",) if kind in WITHOUT_PEERS else ("best JAX",)
    heads = [("size", ""), ("lengths", "")]
    heads += [(name.split(": ")[0], (name.split(": ") + [""])[1]) for name in names]
    heads += [("spread", "of ours"), ("speed-up", rival[0])]
    lines = [[head[i] for head in heads] for i in (0, 1)]
    for problem, entry in entries.items():
        times = [_time(entry.get(name), what) for name in names]
        lines.append([str(problem.size), problem.lengths, *times, *_verdict(entry, what, kind)])
    return f"{kind}, {_named(what)}, ms\n{aligned(lines)}"


def _time(row: Any, what: str) -> str:
    if row is None:
        return "-"
    median = row[what]["median"]
    return f"{median:.3g}" if median < 1000 else f"{median:.0f}"


def _verdict(entry: Entry, what: str, kind: str) -> list[str]:
    """Our interquartile range relative to the median, and the speed-up; `<` marks a lost row."""
    ours = entry["ours"][what]
    low, high = ours["quartiles"]
    if kind in WITHOUT_PEERS:
        ratio = compare.over_scan(entry, what)
    else:
        ratio = compare.speed_up(entry, what, COMPARISONS["best JAX peer"])
    mark = " <" if ratio is not None and ratio < MARGIN else "  "
    return [f"{100 * (high - low) / ours['median']:.0f} %", figure(ratio) + mark]


def _means(entries: Entries) -> list[str]:
    lines = [["geometric means of the speed-up", "", *GROUPS]]
    for what in PASSES:
        for name, ratio in ratios(what).items():
            means = [geometric_mean(collect(entries, ratio, g).values()) for g in GROUPS]
            lines.append([_named(what), name, *map(figure, means)])
    return [aligned(lines, left=2), "\n".join(_sentences(entries))]


def ratios(what: str) -> dict[str, Any]:
    """The functions that compute the speed-up of an entry, by the name of the comparison."""
    ratios: dict[str, Any] = {
        name: functools.partial(compare.speed_up, what=what, comparison=comparison)
        for name, comparison in COMPARISONS.items()
    }
    return ratios | {"our scan": functools.partial(compare.over_scan, what=what)}


def _sentences(entries: Entries) -> list[str]:
    """Sentences on the lowest speed-ups, the lost rows, memory, and compile time."""
    lines = []
    for what in PASSES:
        for name, ratio in ratios(what).items():
            found = collect(entries, ratio)
            lost = sum(value < MARGIN for value in found.values())
            if found:
                worst = min(found, key=found.__getitem__)
                lines.append(
                    f"{_named(what)}: lowest speed-up over {name} {found[worst]:.2f} ({worst}), "
                    f"below {MARGIN} in {lost} of {len(found)} rows"
                )
    for quantity, unit in (("memory", "temporary memory"), ("compile", "time to compile")):
        ratio = functools.partial(compare.over_flax, what="training", quantity=quantity)
        found = collect(entries, ratio)
        if found:
            mean, worst = geometric_mean(found.values()), max(found, key=found.__getitem__)
            lines.append(
                f"training step: {unit} {mean:.2f} of Flax's, at most {found[worst]:.2f} ({worst})"
            )
    slowest = max(entry["ours"]["training"]["compile"] for entry in entries.values())
    return [*lines, f"training step: ours compiles in at most {slowest:.1f} s"]


def _named(what: str) -> str:
    return {"forward": "forward", "training": "training step"}[what]


def figure(ratio: float | None) -> str:
    """A ratio as the tables have it; `-` if there is none."""
    return "-" if ratio is None else f"{ratio:.2f}"


def aligned(lines: list[list[str]], left: int = 2) -> str:
    """Aligns columns, the first `left` of them to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
