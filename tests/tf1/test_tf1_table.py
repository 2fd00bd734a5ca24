"""tests/tf_cases.md, which maps TF's tests to ours, is complete and names existing tests."""

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


def test_all_named_tests_exist():
    """Every test that the table names is a function of its file."""
    named = [name.split("::") for name in sorted(NAMED)]
    assert [(path, test) for path, test in named if test not in functions(path)] == []
    assert all(test.startswith("test_") for _, test in named)


def test_every_row_is_filled():
    """A row has three columns, a mark, and a test or a reference to the porting guide."""
    assert len(ROWS) > 150
    for row in ROWS:
        assert len(row) == 3 and row[1] in set("OPGN") and row[2], row
        assert row[1] == "N" or ".py::" in row[2] or "porting-from-tf1.md" in row[2], row


def test_no_test_is_listed_twice():
    """One test is in two of TF's files that have a class RNNTest."""
    names = [row[0] for row in ROWS]
    twice = {name for name in names if names.count(name) > 1}
    assert twice == {"RNNTest.testInvalidSequenceLengthShape"}


def test_every_test_of_this_folder_is_named():
    """Tests in tests/tf1 are ports of TF's tests, so that each must be in the table."""
    paths = [f"tf1/{path.name}" for path in (TESTS / "tf1").glob("test_*.py")]
    paths.remove(f"tf1/{pathlib.Path(__file__).name}")
    tests = {f"{p}::{name}" for p in paths for name in functions(p) if name.startswith("test_")}
    assert tests == {name for name in NAMED if name.startswith("tf1/")}
