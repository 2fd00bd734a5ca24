"""The README says of the examples what they measured."""

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
