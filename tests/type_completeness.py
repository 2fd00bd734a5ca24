"""Checks how much of the package's interface has known types, as type checkers of users see it.

python tests/type_completeness.py pyright
"""

import json
import os
import pathlib
import subprocess
import sys
import sysconfig

ROOT = pathlib.Path(__file__).parents[1]
MINIMUM = 0.95


def main(pyright="pyright"):
    # pyright looks for the package and its dependencies on these paths, not in an editable install.
    paths = os.pathsep.join([str(ROOT), sysconfig.get_path("purelib")])
    command = [pyright, "--verifytypes", "jax_dynrnn", "--ignoreexternal", "--outputjson"]
    environment = os.environ | {"PYTHONPATH": paths}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    found = json.loads(run.stdout)["typeCompleteness"]
    score = found["completenessScore"]
    print(f"types known of {score:.1%} of the interface, at least {MINIMUM:.0%} expected")
    if score < MINIMUM:
        unknown = [s["name"] for s in found["symbols"] if s["isExported"] and not s["isTypeKnown"]]
        sys.exit("\n".join(unknown))


if __name__ == "__main__":
    main(*sys.argv[1:])
