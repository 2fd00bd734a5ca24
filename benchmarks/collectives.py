"""Where a compiled program communicates: inside or outside of its loops."""

from __future__ import annotations

import re
from collections import Counter

KINDS = (
    *("all-gather", "all-reduce", "all-to-all", "reduce-scatter"),
    *("collective-permute", "collective-broadcast", "ragged-all-to-all"),
)
"""The collectives of XLA."""

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) .*\{$", re.MULTILINE)
_LOOP_PART = re.compile(r"(?:body|condition)=%?([\w.-]+)")
_NAME = re.compile(r"[\w.-]+")
_COLLECTIVE = re.compile(rf" ({'|'.join(KINDS)})(?:-start)?\(")


def collectives_by_place(text: str) -> dict[str, Counter[str]]:
    """The collectives of a program, `compiled.as_text()`, by kind: in loops, and outside."""
    bodies = computations(text)
    in_loops: set[str] = set()
    reached = [name for body in bodies.values() for name in _LOOP_PART.findall(body)]
    while reached:
        if (name := reached.pop()) in in_loops or name not in bodies:
            continue
        in_loops.add(name)
        reached += {*_NAME.findall(bodies[name])} & bodies.keys()
    found = {"in loops": Counter(), "outside": Counter()}
    for name, body in bodies.items():
        found["in loops" if name in in_loops else "outside"].update(_COLLECTIVE.findall(body))
    return found


def computations(text: str) -> dict[str, str]:
    """The text of each computation by its name."""
    starts = [*_COMPUTATION.finditer(text)]
    ends = [match.start() for match in starts[1:]] + [len(text)]
    return {
        match.group(1): text[match.end() : end] for match, end in zip(starts, ends, strict=True)
    }
