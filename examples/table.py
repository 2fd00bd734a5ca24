"""The README's table of examples, made of what they kept in `examples/results/`.

python examples/table.py            # prints it
python examples/table.py --write    # puts it into the README
"""

import json
import re
import sys

from packages import REPOSITORY

README, RESULTS = REPOSITORY / "README.md", REPOSITORY / "examples" / "results"
PLACE = re.compile(r"(<!-- examples -->\n).*?(<!-- /examples -->)", re.DOTALL)


def table() -> str:
    """A row for each result, by the name of its example."""
    lines = ["| example | what is measured | here | to reach | seconds |", "|---|---|---|---|---|"]
    for file in sorted(RESULTS.glob("*.json")):
        kept = json.loads(file.read_text())
        name = f"[{kept['task']}](examples/{file.stem}.py)"
        cells = name, kept["measure"], kept["value"], kept["reference"], round(kept["seconds"])
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def written() -> str:
    """The README with the table of the results that there are."""
    return PLACE.sub(lambda found: found[1] + table() + found[2], README.read_text())


if __name__ == "__main__":
    if "--write" in sys.argv:
        README.write_text(written())
    else:
        print(table())
