"""The package as a whole: what it exports, documents and imports."""

import inspect
import pathlib
import subprocess
import sys

import pytest
import reference
from cases import CASES
from faults import FAULTS
from tensorflow_oracle import CONFIGS

import jax_dynrnn as rnn
from jax_dynrnn import linen, nnx
from jax_dynrnn.interop import foreign

PUBLIC = [
    *(value for name, value in vars(rnn).items() if name[0] != "_" and callable(value)),
    *(getattr(module, name) for module in (linen, nnx)
      for name in ("RNN", "RNNCell", "Bidirectional", "StackedBidirectional")),
]  # fmt: skip
FOREIGN = [foreign.LinenCell, foreign.NNXCell, foreign.HaikuCell, foreign.EquinoxCell]


@pytest.mark.parametrize(
    "thing", [*PUBLIC, *FOREIGN], ids=lambda thing: f"{thing.__module__}.{thing.__name__}"
)
def test_is_documented_with_an_example(thing):
    """Its docstring has a first line, and an example (which runs as a doctest)."""
    lines = inspect.getdoc(thing).splitlines()
    assert lines[0].endswith((".", ":", "`")) and ">>> " in inspect.getdoc(thing)


def parts(cell):
    """A cell and all cells inside it."""
    inside = [getattr(cell, "cell", None), *getattr(cell, "cells", ())]
    return {type(cell)}.union(*(parts(c) for c in inside if c is not None))


def cells():
    return {
        thing for thing in PUBLIC
        if inspect.isclass(thing) and issubclass(thing, rnn.Cell)
        and thing not in (rnn.Cell, rnn.MatmulCell)
    }  # fmt: skip


def test_every_cell_is_in_the_list_of_cases():
    assert cells() <= set().union(*(parts(case.cell) for case in CASES))


ELSEWHERE = {rnn.LSTMBlockCell, rnn.LearnedInitialState}
"""Compared with TensorFlow's kernels (test_block_ops.py), and what TF1 does not have."""


def test_every_cell_has_an_oracle():
    """TensorFlow runs it, or its equations are written a second time in NumPy."""
    run_by_tensorflow = set().union(*(parts(config.ours) for config in CONFIGS.values()))
    without = cells() - run_by_tensorflow - ELSEWHERE
    assert [cell.__name__ for cell in without if cell.__name__ not in reference.STEPS] == []


def test_every_fault_can_be_planted():
    """`make faults` looks for lines of the package; they move with it."""
    package = pathlib.Path(rnn.__file__).parent
    found = {
        name: (package / file).read_text().count(old) for name, (file, old, _) in FAULTS.items()
    }
    assert set(found.values()) == {1}, found


@pytest.mark.parametrize("module", ["flax", "tensorflow", "torch", "optax", "chex"])
def test_the_core_imports_no_framework(module):
    program = f"import jax_dynrnn, sys; sys.exit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_version():
    assert rnn.__version__ == "0.1.0"
