"""The machine and the versions that figures belong to, and the two cores that all share."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
from pathlib import Path

import jax

import jax_dynrnn

CORES = 2
MODULES = ("jax", "jaxlib", "flax", "haiku", "keras", "equinox", "tensorflow", "torch", "numpy")


def prepare(short: bool) -> None:
    """For this process and those that it starts: two cores, and the CPU alone.

    Frameworks read this at their first computation: their pools have a thread for each core that
    they may use. A short run compiles much and runs little: without LLVM's optimisation.
    """
    jax.config.update("jax_platforms", "cpu")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    if short:
        os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")


def describe() -> dict[str, str | int]:
    """Its processor, the cores used, its system, and the date."""
    return {
        "processor": _processor(),
        "cores": cores(),
        "system": f"{platform.system()}, Python {platform.python_version()}",
        "date": datetime.date.today().isoformat(),
    }


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else CORES


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def versions() -> dict[str, str]:
    """Of every framework that is installed, by the name under which it is imported."""
    owners = importlib.metadata.packages_distributions()
    found = {m: importlib.metadata.version(owners[m][0]) for m in MODULES if m in owners}
    return {"jax_dynrnn": jax_dynrnn.__version__} | found
