"""Who is measured, one file each.

`ours` and a JAX peer have `build(kind, size, params) -> {name: (run, weights)}`, which is empty
where there is no such cell; `run(weights, inputs, lengths) -> (outputs, states)` is what its users
write, with `lengths` an array or `None`, `outputs` `[B, T, H]` with anything in the padding, and
`states` a list, c before h and forward before backward. The others have `names(kind, size, given)`,
`given` being whether there are lengths, and `build(name, kind, size, weights)`, which gives an
object like a `benchmarks.compiled.Compiled`.

A name is `family` or `family: variant`; where a family is spoken of, its fastest variant is meant.
"""

from __future__ import annotations

import importlib
import importlib.util

JAX = {"flax": "flax", "nnx": "flax", "haiku": "haiku", "keras": "keras", "equinox": "equinox"}
"""The families that run in this process, and what they import."""
PROCESSES = {"tensorflow": "tensorflow", "pytorch": "torch", "devices": "flax"}
"""Those that run in one of their own."""
FRAMEWORKS = (*JAX, "tensorflow", "pytorch")
"""Those that are other frameworks, on the devices that ours has."""
DEVICES = ", a device per core"
"""At the end of the families of `devices`: ours and Flax's there."""


def family(name: str) -> str:
    """Of the name of an implementation."""
    return name.split(":")[0]


def installed(family: str) -> bool:
    """Whether it can be imported, without doing so."""
    return importlib.util.find_spec((JAX | PROCESSES)[family]) is not None


def load(family: str):
    """The module here of a family."""
    return importlib.import_module(f".{family}", __name__)
