"""Mutation testing: injects faults into the package, and checks that the suite catches each.

python tests/faults.py            all of them, a quarter of an hour
python tests/faults.py mask       the faults whose name contains "mask"

A fault names the test that should catch it, which is run first. If it passes, the other tests that
could catch it are run, and the fault is listed with the one that does.
"""

import os
import pathlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from planted import FAULTS, TESTS, VARIABLE
from tqdm import tqdm

HERE = pathlib.Path(__file__).parent
SUITE = [
    "test_loop.py",
    "test_composition.py",
    "test_dropout.py",
    "test_golden.py",
    "test_blocked.py",
    "test_transcriptions.py",
    "test_transforms.py",
    "test_laws.py",
    "test_draws.py",
    "test_mesh.py",
    "interop/test_weights_torch.py",
    "interop/test_weights_jax.py",
    "cells/test_attention.py",
]


def first_failure(tests, fault=None):
    """The first of the tests that fails with a fault planted, or `None` if all pass."""
    paths = [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    if fault is not None:
        environment[VARIABLE] = fault
    options = ["-x", "-q", "-p", "planted", "-p", "no:cacheprovider"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *(str(HERE / test) for test in tests)],
        cwd=HERE.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    failed = [line for line in run.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if run.returncode == 1 and failed:
        return failed[0].split()[1]
    if run.returncode == 0:
        return None
    raise RuntimeError(run.stdout[-3000:] + run.stderr[-3000:])


def caught_by(name):
    return first_failure([TESTS[name]], name) or first_failure(SUITE, name)


def main(pattern=""):
    names = [name for name in FAULTS if pattern in name]
    used = sorted({TESTS[name] for name in names})
    assert first_failure(used) is None, "these tests must pass without a fault"
    missed = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(caught_by, names)
        for name, test in tqdm(zip(names, results, strict=True), total=len(names), disable=None):
            tqdm.write(f"{name:<58} {test or 'NOT CAUGHT'}")
            missed += [] if test else [name]
    sys.exit(bool(missed))


if __name__ == "__main__":
    main(*sys.argv[1:])
