"""The package as a whole: its exports, imports, examples, and coverage by tests."""

import dataclasses
import doctest
import importlib.metadata
import inspect
import os
import pathlib
import re
import subprocess
import sys

import jax
import pytest
import reference
from cases import CASES
from tensorflow_oracle import CONFIGS

import jax_dynrnn as rnn
from jax_dynrnn import interop, linen, nnx, testing

PUBLIC = [getattr(module, name) for module in (rnn, linen, nnx) for name in module.__all__]


def parts(cell):
    """Maps classes to instances: of a cell and everything inside of it."""
    inside = [getattr(cell, "cell", None), *getattr(cell, "cells", ())]
    mechanisms = getattr(cell, "attention_mechanism", ())
    inside += mechanisms if isinstance(mechanisms, tuple) else [mechanisms]
    found = {type(cell): cell}
    for part in inside:
        found |= {} if part is None else parts(part)
    return found


CONFIGURATIONS = {
    thing: part for case in CASES for thing, part in parts(case.cell).items() if thing in PUBLIC
}
"""One instance of each public class."""


def cells():
    return {
        thing for thing in PUBLIC
        if inspect.isclass(thing) and issubclass(thing, rnn.Cell)
        and thing not in (rnn.Cell, rnn.StagedCell, rnn.MatmulCell)
    }  # fmt: skip


def test_every_cell_is_in_the_list_of_cases():
    """Every public cell occurs in `cases.CASES`, so that the laws run over it."""
    assert cells() <= set(CONFIGURATIONS)


OPTIONAL = {
    "DropoutWrapper": {"input_keep_prob", "output_keep_prob", "state_keep_prob"},
    "Bidirectional": {"cell_bw"},
    "StackedBidirectional": {"cells_bw"},
}


CLASSES = [thing for thing in PUBLIC if inspect.isclass(thing) and not issubclass(thing, tuple)]


@pytest.mark.parametrize("thing", CLASSES, ids=lambda thing: f"{thing.__module__}.{thing.__name__}")
def test_only_sizes_and_inner_cells_are_positional(thing):
    """Constructors take sizes and inner cells by position; `OPTIONAL` lists the exceptions.

    `parent` and `name` are arguments of Flax modules.
    """
    given = list(inspect.signature(thing.__init__).parameters.values())[1:]
    given = [p for p in given if p.kind == p.POSITIONAL_OR_KEYWORD]
    optional = {p.name for p in given if p.default is not p.empty} - {"parent", "name"}
    assert optional == OPTIONAL.get(thing.__name__, set())
    required = {p.annotation for p in given if p.default is p.empty}
    assert required <= {
        "int", "Any", "CellLike", "Shapes", "Sequence[Any]", "Mapping[str, Any]",
        "Mechanism | Sequence[Mechanism]",
    }  # fmt: skip


WRONG = {"flag": 1, "number": "1.0", "function": "tanh"}


def kind(field):
    """The kind of an option, by its default or its name."""
    if re.search("initializer|activation|_fn$|visitor", field.name):
        return "function"
    return {bool: "flag", float: "number"}.get(type(field.default))


@pytest.mark.parametrize("part", CONFIGURATIONS.values(), ids=lambda part: type(part).__name__)
def test_options_are_checked(part):
    """Every class refuses options that are not the bool, number or function that they must be."""
    for field in dataclasses.fields(part):
        if kind(field):
            with pytest.raises(TypeError, match=f"{type(part).__name__}: .*{field.name} to be"):
                dataclasses.replace(part, **{field.name: WRONG[kind(field)]})


ELSEWHERE = {rnn.LSTMBlockCell, rnn.LearnedInitialState}
"""A cell compared with TensorFlow's kernels in test_block_ops.py, and one that TF1 lacks."""


def test_every_cell_has_an_oracle():
    """Every cell is compared with TensorFlow, or with a transcription in NumPy."""
    run_by_tensorflow = set().union(*(parts(config.ours) for config in CONFIGS.values()))
    without = cells() - run_by_tensorflow - ELSEWHERE
    assert [cell.__name__ for cell in without if cell.__name__ not in reference.STEPS] == []


def test_every_fault_can_be_planted():
    """Every function that `make faults` replaces exists in the package."""
    program = "import planted\nfor plant in planted.FAULTS.values(): plant()"
    here = pathlib.Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": f"{here}{os.pathsep}{here.parent}"}
    run = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert not run.returncode, run.stderr


@pytest.mark.parametrize("module", ["flax", "tensorflow", "torch", "optax", "chex"])
def test_the_core_imports_no_framework(module):
    """Importing the package imports neither Flax nor any other framework."""
    program = f"import jax_dynrnn, sys; sys.exit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_version():
    """The package has the version that was installed."""
    assert rnn.__version__ == importlib.metadata.version("jax_dynrnn")


INTEROP = [getattr(interop, name) for name in interop.__all__]
MODULES = [rnn, linen, nnx, testing, *INTEROP]


def documented():
    """Maps modules to the names that `docs/api` lists: as an entry, or as a member of a module."""
    folder = pathlib.Path(__file__).parents[1] / "docs" / "api"
    pages = "".join(page.read_text() for page in folder.glob("*.md"))
    found = {}
    for path, options in re.findall(r"^::: (\S+)((?:\n +.*)*)", pages, re.MULTILINE):
        module, _, name = path.rpartition(".")
        if path in {module.__name__ for module in MODULES}:
            names = re.search(r" members: \[(.*)\]", options)[1].split(", ")
            found.setdefault(path, set()).update(names)
        else:
            found.setdefault(module, set()).add(name)
    return found


def test_exports_are_the_documented_names():
    """`__all__` of each public module has exactly the names in `docs/api`."""
    expected = documented()
    assert expected.keys() == {module.__name__ for module in MODULES}
    for module in MODULES:
        assert sorted(module.__all__) == sorted(expected[module.__name__])


@pytest.mark.parametrize("module", [*MODULES, interop], ids=lambda module: module.__name__)
def test_import_star_imports_all_exports(module):
    """`from module import *` imports exactly `__all__`."""
    namespace = {}
    exec(f"from {module.__name__} import *", namespace)
    assert namespace.keys() - {"__builtins__"} == {*module.__all__}


def sources():
    """Every docstring and page that defines a cell."""
    docs = pathlib.Path(__file__).parents[1].glob("*/*.md")
    texts = {page.name: page.read_text() for page in docs}
    texts |= {thing.__qualname__: inspect.getdoc(thing) for thing in PUBLIC}
    return {name: text for name, text in texts.items() if "def zero_state(" in text}


@pytest.mark.parametrize("name", sources())
def test_cells_in_examples_take_batches_of_any_rank(name):
    """`zero_state` of cells in examples takes an int or a tuple, as `Cell.zero_state` says."""
    examples = doctest.DocTestParser().get_examples(sources()[name])
    namespace = {}
    for example in examples:
        if "import " in example.source or "class " in example.source:
            exec(example.source, namespace)
    written = [x for x in namespace.values() if hasattr(x, "zero_state")]
    assert written

    def kinds(tree):
        return jax.tree.map(lambda x: (x.shape, x.dtype), tree)

    for written_cell in written:
        fields = inspect.signature(written_cell).parameters
        cell = written_cell(*(rnn.GRUCell(4) if name == "cell" else 4 for name in fields))
        assert kinds(cell.zero_state(2)) == kinds(cell.zero_state((2,)))
        assert kinds(cell.zero_state((2, 3))) != kinds(cell.zero_state(()))
