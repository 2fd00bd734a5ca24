"""Implementations in another process: the client of `benchmarks.worker`."""

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


def _unchanged(cells: Any, params: Any) -> Any:
    del cells
    return params


EXPORT = {
    "tensorflow": interop.tf1.export_params,
    "pytorch": interop.torch.export_params,
    "devices": _unchanged,
}
"""For each family, the function that converts our cells and params to its weights."""
ENVIRONMENT: dict[str, str] = {}
"""Additional environment variables of the processes: none, because users set none."""


class Process:
    """The process of a framework, as a context manager.

    It is stopped while it has no command. So its threads may spin without taking time from other
    implementations, and are as fast as in a process alone when they are measured.
    """

    def __init__(self, family: str):
        self.family = family
        command = [sys.executable, "-m", "benchmarks.worker", family]
        self.log = tempfile.TemporaryFile()  # TensorFlow prints a lot, which would fill a pipe
        self.popen = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log,
            env=os.environ | ENVIRONMENT,
        )  # fmt: skip

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.popen.send_signal(signal.SIGCONT)  # a stopped process would never end
        self.popen.communicate()  # closes its standard input, which ends the worker
        self.log.close()

    def call(self, name: str, *arguments: Any) -> Any:
        """Calls a method of the worker and waits for the result.

        Raises:
            RuntimeError: the call failed in the worker; the message contains the traceback.
        """
        self.popen.send_signal(signal.SIGCONT)
        try:
            pickle.dump((name, arguments), self.popen.stdin)
            self.popen.stdin.flush()
            result, error = pickle.load(self.popen.stdout)
        except (EOFError, BrokenPipeError) as end:
            self.log.seek(0)
            said = self.log.read().decode(errors="replace")[-2000:]
            raise RuntimeError(
                f"{self.family}: its process ended with this output:\n{said}"
            ) from end
        self.popen.send_signal(signal.SIGSTOP)
        if error:
            raise RuntimeError(f"{self.family}: {name} failed in its process:\n{error}")
        return result

    def build(
        self, kind: str, size: Size, params: Any, given: bool, *place: Any
    ) -> dict[str, Remote]:
        """All implementations of a kind of cell, with the given params.

        Args:
            kind, size, params: the cell, its size and our params.
            given: whether there are lengths.
            place: PyTorch's device and dtype.
        """
        built = {}
        for name in self.call("names", kind, size, given):
            weights = EXPORT[self.family](cells_of(kind, size.units), params)
            self.call("build", name, kind, size, weights, *place)
            built[name] = Remote(self, name)
        return built


class Remote:
    """An implementation in another process, with the interface of `compiled.Compiled`."""

    def __init__(self, process: Process, name: str):
        self.process, self.name = process, name

    def feed(self, inputs: Any, lengths: Any) -> None:
        self.process.call("feed", self.name, inputs, lengths)

    def results(self) -> Results:
        return self.process.call("results", self.name)

    def seconds(self, what: str) -> float:
        return self.process.call("seconds", self.name, what)
