"""The equations of the cells once more, in NumPy, one step at a time.

They are written from papers and from the description of TensorFlow 1, apart from the cells,
for what TensorFlow 2 no longer has. One module for each family; each has a dict

    STEPS = {"NameOfTheCell": step}

of functions `step(cell, params, x, state) -> (output, new_state)`, for a batch, in float64:
`cell` gives the configuration, `params` is the nested dict, `state` has the cell's structure.
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
    """One step of any cell that has a transcription: what wrappers call for their cell."""
    return STEPS[type(cell).__name__](cell, params, x, state)
