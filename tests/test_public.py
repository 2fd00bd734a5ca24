"""The package as a whole: what it exports, documents and imports."""

import inspect
import subprocess
import sys

import pytest
from cases import CASES

import jax_dynrnn as rnn
from jax_dynrnn import linen, nnx

PUBLIC = [
    *(value for name, value in vars(rnn).items() if name[0] != "_" and callable(value)),
    *(getattr(module, name) for module in (linen, nnx)
      for name in ("RNN", "Bidirectional", "StackedBidirectional")),
]  # fmt: skip


@pytest.mark.parametrize("thing", PUBLIC, ids=lambda thing: f"{thing.__module__}.{thing.__name__}")
def test_is_documented_with_an_example(thing):
    """Its docstring has a first line, and an example (which runs as a doctest)."""
    lines = inspect.getdoc(thing).splitlines()
    assert lines[0].endswith((".", ":", "`")) and ">>> " in inspect.getdoc(thing)


def parts(cell):
    """A cell and all cells inside it."""
    inside = [getattr(cell, "cell", None), *getattr(cell, "cells", ())]
    return {type(cell)}.union(*(parts(c) for c in inside if c is not None))


def test_every_cell_is_in_the_list_of_cases():
    cells = {
        thing for thing in PUBLIC
        if inspect.isclass(thing) and issubclass(thing, rnn.Cell)
        and thing not in (rnn.Cell, rnn.MatmulCell)
    }  # fmt: skip
    assert cells <= set().union(*(parts(case.cell) for case in CASES))


@pytest.mark.parametrize("module", ["flax", "tensorflow", "torch", "optax", "chex"])
def test_the_core_imports_no_framework(module):
    program = f"import jax_dynrnn, sys; sys.exit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_version():
    assert rnn.__version__ == "0.1.0"
