"""Transcriptions of the cells in NumPy, one step at a time: the reference for their equations.

They are written from papers and from the description of TensorFlow 1, independently of the
package, for cells that TensorFlow 2 no longer has. Each module has a family of cells, and a dict

    STEPS = {"NameOfTheCell": step}

of functions `step(cell, params, x, state) -> (output, new_state)`, for a batch, in float64:
`cell` is the configuration, `params` the nested dict, and `state` has the cell's structure.
"""

import importlib
import pkgutil

STEPS = {}
for _module in pkgutil.iter_modules(__path__):
    STEPS |= importlib.import_module(f"{__name__}.{_module.name}").STEPS


def is_transcribed(cell):
    """Whether the cell, and every cell inside of it, has a transcription."""
    inside = [*getattr(cell, "cells", ()), *filter(None, [getattr(cell, "cell", None)])]
    return type(cell).__name__ in STEPS and all(map(is_transcribed, inside))


def step(cell, params, x, state):
    """One step of any transcribed cell; transcriptions of wrappers call it for their cell."""
    return STEPS[type(cell).__name__](cell, params, x, state)
