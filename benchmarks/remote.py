"""Implementations in a process of their own: the near side of `benchmarks.worker`."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
from typing import Any

from jax_dynrnn import interop

from .grid import Size
from .problems import cells_of
from .timing import Results

EXPORT = {
    "tensorflow": interop.tf1.export_params,
    "pytorch": interop.torch.export_params,
    "devices": lambda cells, params: params,
}
"""The weights that a framework takes, of our cells and params."""
ENVIRONMENT: dict[str, str] = {}
"""Variables that a process has and ours has not: none, users set none."""


class Process:
    """The process of a framework, to be used in a `with` statement.

    It is stopped while it is not asked for anything: its threads may spin without taking time from
    what is measured elsewhere, and are as fast as they are alone when it is their turn.
    """

    def __init__(self, family: str):
        self.family = family
        command = [sys.executable, "-m", "benchmarks.worker", family]
        self.log = tempfile.TemporaryFile()  # TensorFlow says much
        self.popen = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log,
            env=os.environ | ENVIRONMENT,
        )  # fmt: skip

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.popen.send_signal(signal.SIGCONT)
        self.popen.communicate()  # closes its input, at which it ends
        self.log.close()

    def call(self, name: str, *arguments: Any) -> Any:
        """Has it done there, and waits for the result.

        Raises:
            RuntimeError: it failed there; the message has the traceback.
        """
        self.popen.send_signal(signal.SIGCONT)
        try:
            pickle.dump((name, arguments), self.popen.stdin)
            self.popen.stdin.flush()
            result, error = pickle.load(self.popen.stdout)
        except (EOFError, BrokenPipeError) as end:
            self.log.seek(0)
            said = self.log.read().decode(errors="replace")[-2000:]
            raise RuntimeError(f"{self.family}: its process has ended; it said:\n{said}") from end
        self.popen.send_signal(signal.SIGSTOP)
        if error:
            raise RuntimeError(f"{self.family}: {name} failed in its process:\n{error}")
        return result

    def build(
        self, kind: str, size: Size, params: Any, given: bool, *place: Any
    ) -> dict[str, Remote]:
        """All implementations of a kind of cell, with weights of these params.

        `given`: whether they are to have lengths. `place`: PyTorch's device and dtype.
        """
        built = {}
        for name in self.call("names", kind, size, given):
            weights = EXPORT[self.family](cells_of(kind, size.units), params)
            self.call("build", name, kind, size, weights, *place)
            built[name] = Remote(self, name)
        return built


class Remote:
    """One implementation there, as `benchmarks.compiled.Compiled` is one here."""

    def __init__(self, process: Process, name: str):
        self.process, self.name = process, name

    def feed(self, inputs: Any, lengths: Any) -> None:
        self.process.call("feed", self.name, inputs, lengths)

    def results(self) -> Results:
        return self.process.call("results", self.name)

    def seconds(self, what: str) -> float:
        return self.process.call("seconds", self.name, what)
