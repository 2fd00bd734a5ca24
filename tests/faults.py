"""Mutation testing: injects faults into the package, and checks that the suite catches each.

python tests/faults.py            all of them, some minutes
python tests/faults.py mask       the faults whose name contains "mask"
"""

import os
import pathlib
import subprocess
import sys

from planted import FAULTS, VARIABLE
from tqdm import tqdm

TESTS = pathlib.Path(__file__).parent
SUITE = [
    "tests/test_loop.py",
    "tests/test_dropout.py",
    "tests/test_golden.py",
    "tests/test_composition.py",
    "tests/test_blocked.py",
    "tests/test_laws.py",
    "tests/test_transforms.py",
    "tests/test_transcriptions.py",
    "tests/interop/test_weights_torch.py",
]


def caught_by(fault=None):
    """The first test that fails with a fault planted, or `None` if all pass."""
    paths = [str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    if fault is not None:
        environment[VARIABLE] = fault
    options = ["-x", "-q", "-p", "planted", "-p", "no:cacheprovider"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *SUITE],
        cwd=TESTS.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    failed = [line for line in run.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if run.returncode == 1 and failed:
        return failed[0].split()[1]
    return None if run.returncode == 0 else sys.exit(run.stdout[-3000:] + run.stderr[-3000:])


def main(pattern=""):
    if not pattern:
        assert caught_by() is None, "the suite must pass without a fault"
    missed = []
    for name in tqdm([name for name in FAULTS if pattern in name], disable=None):
        test = caught_by(name)
        tqdm.write(f"{name:<58} {test or 'NOT CAUGHT'}")
        missed += [] if test else [name]
    sys.exit(bool(missed))


if __name__ == "__main__":
    main(*sys.argv[1:])
