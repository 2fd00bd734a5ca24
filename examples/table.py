"""Makes the README's table of examples from the results in `examples/results/`.

python examples/table.py            # prints the table
python examples/table.py --write    # writes it to the README
"""

import json
import re
import sys

from packages import REPOSITORY

README, RESULTS = REPOSITORY / "README.md", REPOSITORY / "examples" / "results"
PLACE = re.compile(r"(<!-- examples -->\n).*?(<!-- /examples -->)", re.DOTALL)


def table() -> str:
    """The table, with a row for each result, sorted by the file name of the example."""
    lines = ["| example | measure | ours | reference | seconds |", "|---|---|---|---|---|"]
    for file in sorted(RESULTS.glob("*.json")):
        result = json.loads(file.read_text())
        name = f"[{result['task']}](examples/{file.stem}.py)"
        cells = name, result["measure"], result["value"], result["reference"]
        cells += (round(result["seconds"]),)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def written() -> str:
    """The text of the README, with the table of the current results."""
    return PLACE.sub(lambda found: found[1] + table() + found[2], README.read_text())


if __name__ == "__main__":
    if "--write" in sys.argv:
        README.write_text(written())
    else:
        print(table())
