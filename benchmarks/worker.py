"""The process of a framework that does not run in ours: it executes commands.

    python -m benchmarks.worker pytorch

reads pickled commands `(name, arguments)` from standard input, and writes `(result, error)`. Its
threads have their default settings: they may spin, because the process is stopped between commands.
"""

from __future__ import annotations

import os
import pickle
import sys
import traceback
from typing import Any

from . import peers
from .timing import Results, seconds


class Worker:
    """The commands: each public method is one."""

    def __init__(self, family: str):
        self.peer = peers.load(family)
        self.built: dict[str, Any] = {}

    def ready(self) -> None:
        """Returns when all imports are done."""

    def device(self) -> str:
        """The device that this framework uses by default: `"cuda"` or `"cpu"`."""
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
    os.dup2(2, 1)  # frameworks print to stdout, which must carry only the pickled results
    host = Worker(sys.argv[1])
    while True:
        try:
            name, arguments = pickle.load(commands)
        except EOFError:  # the client has closed its end
            return
        try:
            answer = getattr(host, name)(*arguments), None
        except Exception:
            answer = None, traceback.format_exc()
        pickle.dump(answer, results)
        results.flush()


if __name__ == "__main__":
    main()
