"""The process of a framework that does not share ours: it computes when told, and sleeps else.

    python -m benchmarks.worker pytorch

reads pickled commands `(name, arguments)` from its standard input, and writes `(result, error)`.
"""

from __future__ import annotations

import os

# Before the framework comes: no thread spins while another process is measured.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("KMP_BLOCKTIME", "0")

import pickle  # noqa: E402
import sys  # noqa: E402
import traceback  # noqa: E402
from typing import Any  # noqa: E402

from . import peers  # noqa: E402
from .timing import Results, seconds  # noqa: E402


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

    def names(self, kind: str, given: bool) -> list[str]:
        return self.peer.names(kind, given)

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
