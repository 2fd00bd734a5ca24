"""The machine and the versions behind the figures, and the two cores that all frameworks use."""

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
    """Restricts this process, and those that it starts, to two cores and to the CPU.

    Call it before the first computation: frameworks then create one thread for each core that they
    may use. A short run spends most of its time on compiling, so it turns off LLVM's optimisation.
    """
    jax.config.update("jax_platforms", "cpu")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    if short:
        os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")


def describe() -> dict[str, str | int]:
    """The processor, the number of cores used, the operating system, and the date."""
    return {
        "processor": _processor(),
        "cores": cores(),
        "system": f"{platform.system()}, Python {platform.python_version()}",
        "date": datetime.date.today().isoformat(),
    }


def cores() -> int:
    """The number of cores that this process may use."""
    # Without `sched_getaffinity`, as on macOS, `prepare` cannot restrict the cores.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else CORES


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def versions() -> dict[str, str]:
    """The versions of the installed frameworks, by the name that is imported."""
    owners = importlib.metadata.packages_distributions()
    found = {m: importlib.metadata.version(owners[m][0]) for m in MODULES if m in owners}
    return {"jax_dynrnn": jax_dynrnn.__version__} | found
