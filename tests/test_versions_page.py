"""The table of tolerances in docs/versions.md has the bounds that the tests use."""

import pathlib
import re

import laws
import pytest
import test_cudnn
import test_golden
import test_pallas_gpu
import test_pallas_tpu
import test_tensorflow

from benchmarks import gpu_runs

PAGE = (pathlib.Path(__file__).parents[1] / "docs" / "versions.md").read_text()
HEAD = "| engine | dtype | compared with | tolerance | test |"


def number(text):
    """The value of `4 * 2**-8`, as the page writes bounds."""
    return eval(text, {"__builtins__": {}})


def tolerances():
    """Maps each file in the column "test" to its bounds by dtype; empty cells repeat the last."""
    found, test = {}, None
    table = PAGE.partition(HEAD)[2].partition("\n\n")[0].splitlines()[2:]
    for row in table:
        _, _, dtype, _, bound, link, _ = (cell.strip() for cell in row.split("|"))
        test = re.match(r"\[(\w+)\]", link)[1] if link else test
        found.setdefault(test, {})[dtype] = number(bound.strip("`"))
    return found


@pytest.mark.parametrize(
    ("name", "used"),
    [
        ("laws", laws.TOLERANCE),
        ("test_golden", test_golden.TOLERANCE),
        ("test_tensorflow", test_tensorflow.TOLERANCE),
        ("test_cudnn", {"float32": test_cudnn.TOLERANCE}),
        ("test_pallas_gpu", test_pallas_gpu.TOLERANCE),
        ("test_pallas_tpu", test_pallas_tpu.TOLERANCE),
    ],
)
def test_tolerances(name, used):
    """The page states the bounds of each file, for every dtype that it tests."""
    assert tolerances()[name] == used


def test_tolerances_on_accelerators():
    """The page states the bounds of the check on accelerators, and the margin in 16 bits."""
    assert tolerances()["gpu_runs"] == gpu_runs.BOUND
    assert f"{laws.MARGIN} times the error of `scan`" in PAGE
