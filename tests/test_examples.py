"""The README says of the examples what they measured."""

import json
import pathlib
import sys

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"


def test_the_table_in_the_readme_is_that_of_the_results(monkeypatch):
    """`python examples/table.py --write` makes it so."""
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.delitem(sys.modules, "table", raising=False)
    import table

    assert table.README.read_text() == table.written()
    assert table.PLACE.search(table.README.read_text())
    kept = {file.stem for file in table.RESULTS.glob("*.json")}
    assert kept and kept <= {file.stem for file in EXAMPLES.glob("*.py")}


def test_the_notebooks_keep_what_they_printed():
    """`python examples/notebooks.py --write` runs them: every cell, in order, and none failed."""
    for path in EXAMPLES.parent.glob("*/*.ipynb"):
        cells = [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
        assert cells and [c["execution_count"] for c in cells] == list(range(1, len(cells) + 1))
        assert not any(out["output_type"] == "error" for c in cells for out in c["outputs"])
