"""Runs a program as several processes of `jax.distributed`, each with one device."""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time

MAX_SECONDS = 100


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextlib.contextmanager
def started(count, *command):
    """The processes; all are ended when the context is left."""
    coordinator = f"127.0.0.1:{free_port()}"
    environment = os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    with tempfile.TemporaryDirectory() as folder:
        processes = []
        try:
            for i in range(count):
                options = [f"--process={i}", f"--processes={count}", f"--coordinator={coordinator}"]
                with open(f"{folder}/{i}", "w") as errors:
                    processes.append(subprocess.Popen(
                        [sys.executable, *command, *options],
                        env=environment, stdout=subprocess.PIPE, stderr=errors, text=True,
                    ))  # fmt: skip
                processes[-1].errors = f"{folder}/{i}"
            yield processes
        finally:
            for process in processes:
                process.kill()
                process.communicate()


def outputs(count, *command):
    """What each process prints; all must succeed."""
    end = time.monotonic() + MAX_SECONDS
    with started(count, *command) as processes:
        found = []
        for process in processes:
            out, _ = process.communicate(timeout=max(end - time.monotonic(), 1))
            with open(process.errors) as errors:
                assert process.returncode == 0, errors.read()[-3000:]
            # JAX's library for collectives on CPUs prints such lines too.
            found.append("\n".join(x for x in out.splitlines() if not x.startswith("[Gloo]")))
        return found
