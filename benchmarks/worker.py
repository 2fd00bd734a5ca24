"""The process of a framework that does not share ours: it computes when told.

    python -m benchmarks.worker pytorch

reads pickled commands `(name, arguments)` from its standard input, and writes `(result, error)`.
Its threads are as they are by default: they may spin, since it is stopped between two commands.
"""

from __future__ import annotations

import os
import pickle
import sys
import traceback
from typing import Any

from . import peers
from .timing import Results, seconds


class Host:
    """What it is told to do."""

    def __init__(self, family: str):
        self.peer = peers.load(family)
        self.built: dict[str, Any] = {}

    def ready(self) -> None:
        """It is, if it answers."""

    def device(self) -> str:
        """Where the fastest runs are: `"cuda"` or `"cpu"`."""
        return self.peer.device()

    def names(self, kind: str, size: Any, given: bool) -> list[str]:
        return self.peer.names(kind, size, given)

    def build(self, name: str, *arguments: Any) -> None:
        self.built[name] = self.peer.build(name, *arguments)

    def feed(self, name: str, inputs: Any, lengths: Any) -> None:
        self.built[name].feed(inputs, lengths)

    def results(self, name: str) -> Results:
        return self.built[name].results()

    def seconds(self, name: str, what: str) -> float:
        return seconds(self.built[name], what)


def main() -> None:
    commands, results = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a framework prints is no result
    host = Host(sys.argv[1])
    while True:
        try:
            name, arguments = pickle.load(commands)
        except EOFError:
            return
        try:
            answer = getattr(host, name)(*arguments), None
        except Exception:
            answer = None, traceback.format_exc()
        pickle.dump(answer, results)
        results.flush()


if __name__ == "__main__":
    main()
