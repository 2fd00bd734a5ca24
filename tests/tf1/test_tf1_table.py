"""tests/tf_cases.md says where each of TF's tests is: what it names must exist."""

import ast
import functools
import pathlib
import re

TESTS = pathlib.Path(__file__).parent.parent
ROWS = [
    [cell.strip() for cell in line.strip("|\n").split("|")]
    for line in (TESTS / "tf_cases.md").read_text().splitlines()
    if re.match(r"\| (\w+\.)?_?(test|Benchmark)\w+", line)
]
NAMED = {name for row in ROWS for name in re.findall(r"`([^`]+\.py::[^`]+)`", row[-1])}


@functools.cache
def functions(path):
    tree = ast.parse((TESTS / path).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_all_exist():
    named = [name.split("::") for name in sorted(NAMED)]
    assert [(path, test) for path, test in named if test not in functions(path)] == []
    assert all(test.startswith("test_") for _, test in named)


def test_every_row_is_filled():
    """With three columns, one mark, and a test or what the port guide says instead."""
    assert len(ROWS) > 150
    for row in ROWS:
        assert len(row) == 3 and row[1] in set("OPGN") and row[2], row
        assert row[1] == "N" or ".py::" in row[2] or "porting-from-tf1.md" in row[2], row


def test_nothing_is_named_twice():
    """Not even in both of TF's files that have an RNNTest: they differ in the rest."""
    names = [row[0] for row in ROWS]
    twice = {name for name in names if names.count(name) > 1}
    assert twice == {"RNNTest.testInvalidSequenceLengthShape"}


def test_every_test_of_this_folder_is_named():
    """They are TF's; what is not TF's is elsewhere."""
    paths = [f"tf1/{path.name}" for path in (TESTS / "tf1").glob("test_*.py")]
    paths.remove(f"tf1/{pathlib.Path(__file__).name}")
    tests = {f"{p}::{name}" for p in paths for name in functions(p) if name.startswith("test_")}
    assert tests == {name for name in NAMED if name.startswith("tf1/")}
