"""Imports point one way: from the parts that a run is made of to what is public."""

import ast
import pathlib

import pytest

import jax_dynrnn

PACKAGE = pathlib.Path(jax_dynrnn.__file__).parent

ORDER = [
    *("_types", "_arguments", "_check_options", "_tools", "_repr", "_memoize", "_protocol"),
    *(
        "_features",
        "_check_cell",
        "_cell",
        "_adapter",
        "_composition",
        "_init",
        "_check_data",
        "sequence",
        "packing",
    ),
    *("pooling", "attention", "cells", "wrappers", "engines", "_rnn", "_bidirectional"),
    *("_stack_bidirectional", "_static", "_raw", "_beam", "decode", "_flax_core"),
    *("linen", "nnx", "_testing", "testing", "__init__", "interop"),
]
"""The modules and folders of the package; each imports only those before it."""

ENGINES = [
    *("types", "devices", "hoist", "loops", "masks", "request", "engine", "exporters", "scan"),
    "selection",
    *("draws", "mesh", "staged", "blocked", "cudnn", "pallas", "__init__"),
]
"""The same of `engines/`."""


def modules():
    """The path of every module by its name, as in `engines.blocked.tiling`."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(name):
    """The modules of the package that a module imports, inside functions and for types too."""
    path = MODULES[name]
    folder = path.relative_to(PACKAGE).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = folder[: len(folder) - node.level + 1]
            base += tuple(node.module.split(".")) if node.module else ()
            for alias in node.names:
                full = ".".join((*base, alias.name))
                found = full if full in MODULES else ".".join(base) or "__init__"
                if found != name:
                    yield found


def test_every_module_has_a_place():
    assert {name.partition(".")[0] for name in MODULES} == {*ORDER}
    inside = {name.split(".")[1] for name in MODULES if name.startswith("engines.")}
    assert inside | {"__init__"} == {*ENGINES}


@pytest.mark.parametrize("name", MODULES)
def test_imports_only_what_comes_before(name):
    top, _, rest = name.partition(".")
    for other in imports(name):
        other_top, _, other_rest = other.partition(".")
        assert ORDER.index(other_top) <= ORDER.index(top), f"{name} imports {other}"
        if top == other_top == "engines" and other_rest:
            places = [
                ENGINES.index((r or "__init__").partition(".")[0]) for r in (rest, other_rest)
            ]
            assert places[1] <= places[0], f"{name} imports {other}"


def test_there_is_no_circle():
    graph = {name: {*imports(name)} for name in MODULES}
    while True:
        used = set().union(*graph.values())
        in_no_circle = {n for n, others in graph.items() if n not in used or not others & {*graph}}
        if not in_no_circle:
            break
        graph = {n: others - in_no_circle for n, others in graph.items() if n not in in_no_circle}
    assert not graph, f"these import each other: {sorted(graph)}"


def test_only_the_layers_and_interop_import_flax():
    """`interop` does so where a framework is used, and not before."""
    for name, path in MODULES.items():
        for node in ast.parse(path.read_text()).body:
            named = isinstance(node, ast.Import) and any("flax" in a.name for a in node.names)
            come_from = isinstance(node, ast.ImportFrom) and "flax" in (node.module or "")
            absolute = named or (come_from and not node.level)
            assert not absolute or name in ("linen", "nnx"), name
