"""The implementations that are measured, one module per family.

The modules of `ours` and of JAX peers have `build(kind, size, params) -> {name: (run, weights)}`,
which is empty if the family has no such cell. `run(weights, inputs, lengths) -> (outputs, states)`
is what its users would write. `lengths` is an array or `None`, `outputs` are `[B, T, H]` with
arbitrary values in the padding, and `states` is a list, with c before h and forward before
backward. The other modules have `names(kind, size, given)`, where `given` is whether there are
lengths, and `build(name, kind, size, weights)`, which returns an object with the interface of
`benchmarks.compiled.Compiled`.

The name of an implementation is `family` or `family: variant`. Comparisons between families use the
fastest variant of each.
"""

from __future__ import annotations

import importlib
import importlib.util

JAX = {"flax": "flax", "nnx": "flax", "haiku": "haiku", "keras": "keras", "equinox": "equinox"}
"""The families that run in this process, and the package that each needs."""
PROCESSES = {"tensorflow": "tensorflow", "pytorch": "torch", "devices": "flax"}
"""The families that run in their own process."""
FRAMEWORKS = (*JAX, "tensorflow", "pytorch")
"""The families that are other frameworks, on the same devices as ours."""
DEVICES = ", a device per core"
"""The suffix of the families in `devices`: ours and Flax there."""


def family(name: str) -> str:
    """The family of an implementation, from its name."""
    return name.split(":")[0]


def installed(name: str) -> bool:
    """Whether the package that a family needs is installed; does not import it."""
    return importlib.util.find_spec((JAX | PROCESSES)[name]) is not None


def load(name: str):
    """Imports the module of a family."""
    return importlib.import_module(f".{name}", __name__)
