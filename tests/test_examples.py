"""The README's table of examples is up to date, and the notebooks have been run."""

import ast
import doctest
import json
import pathlib
import sys

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"


def test_the_table_in_the_readme_is_that_of_the_results(monkeypatch):
    """If this fails, run `python examples/table.py --write`."""
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.delitem(sys.modules, "table", raising=False)
    import table

    assert table.README.read_text() == table.written()
    assert table.PLACE.search(table.README.read_text())
    stored = {file.stem for file in table.RESULTS.glob("*.json")}
    assert stored and stored <= {file.stem for file in EXAMPLES.glob("*.py")}


def test_the_notebooks_are_stored_with_their_outputs():
    """All cells were run in order, without errors: `python examples/notebooks.py --write`."""
    for path in EXAMPLES.parent.glob("*/*.ipynb"):
        cells = [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
        assert cells and [c["execution_count"] for c in cells] == list(range(1, len(cells) + 1))
        assert not any(out["output_type"] == "error" for c in cells for out in c["outputs"])


def functions(source):
    return {f.name: ast.dump(f) for f in ast.parse(source).body if isinstance(f, ast.FunctionDef)}


def test_the_crf_of_the_examples_is_that_of_the_guide():
    """The example trains with the functions that docs/decoding.md shows and compares."""
    guide = (EXAMPLES.parent / "docs" / "decoding.md").read_text()
    shown = "".join(example.source for example in doctest.DocTestParser().get_examples(guide))
    found, of_guide = functions((EXAMPLES / "crf.py").read_text()), functions(shown)
    assert found and found == {name: of_guide[name] for name in found}
