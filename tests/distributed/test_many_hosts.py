"""Several processes of `jax.distributed` on this machine: `make distributed` runs these tests."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess

import numpy as np
import pytest
from processes import MAX_SECONDS, outputs, started

pytestmark = pytest.mark.skipif(
    "JAX_DYNRNN_DISTRIBUTED" not in os.environ,
    reason="starts processes, each of which compiles: `make distributed` runs it",
)
HERE = pathlib.Path(__file__).parent
EXAMPLE = str(HERE.parents[1] / "examples" / "many_hosts.py")


@pytest.fixture(scope="module")
def found():
    """What one process finds, and each of two."""
    (alone,) = outputs(1, "-m", "tests.distributed.worker")
    return [json.loads(out) for out in (alone, *outputs(2, "-m", "tests.distributed.worker"))]


def test_two_processes_have_the_results_of_one(found):
    """Losses and gradients are equal on all processes, and nothing is communicated in loops."""
    alone, *both = found
    names = [name for name in alone if name != "paddings"]
    assert len(names) == 10
    for name in names:
        loss, size, _ = alone[name]
        for process in both:
            np.testing.assert_allclose(process[name][:2], [loss, size], rtol=1e-5, err_msg=name)
            assert process[name][2] == {}, name


def test_processes_agree_on_the_number_of_steps(found):
    """All take the largest; a process without rows gets rows of length 0."""
    alone, *both = (process["paddings"] for process in found)
    assert alone["other lengths"] == [[2, 5, 3], [2, 5], 0]
    for i, process in enumerate(both):
        assert process["other lengths"] == [[2, 15, 3], [2, 5 + 10 * i], i]
        assert process["buckets"] == [[2, 16, 3], [2, 5 + 10 * i], i]
        assert process["no rows"] == [[2, 15, 3], [2, 15] if i else [0, 0], i]
        assert process["after errors"] == process["other lengths"]


def test_every_process_raises_if_one_has_to(found):
    """The error names what each process has."""
    _, first, second = (process["paddings"] for process in found)
    for name in ("length", "other features", "other rows", "other dtype"):
        assert first[name] == second[name]
        assert "process 0: " in first[name] and "process 1: " in first[name], first[name]
    assert "rows of at most 8 steps, got one of 15" in second["too long"]
    assert "process 1: an error of its own" in first["too long"]


def losses(text):
    """The loss of each step, which the example prints exactly."""
    return {int(step): float.fromhex(x) for step, x in map(str.split, text.splitlines())}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    return losses(outputs(2, EXAMPLE, f"--checkpoints={folder}")[0])


def test_the_loss_of_two_processes_is_that_of_one(uninterrupted, tmp_path):
    alone = losses(outputs(1, EXAMPLE, f"--checkpoints={tmp_path}")[0])
    assert len(alone) == 30 and alone[29] < alone[0]
    np.testing.assert_allclose([*alone.values()], [*uninterrupted.values()], rtol=1e-4)


def test_a_killed_run_goes_on_where_it_was_saved(uninterrupted, tmp_path):
    """After a process was killed the others are ended, and the restarted run is equal bit for bit;
    on one and on four processes to rounding."""
    with started(2, EXAMPLE, f"--checkpoints={tmp_path}", "--crash-at=12") as (first, last):
        assert last.wait(timeout=MAX_SECONDS) == -signal.SIGKILL
        # The other process either fails or waits forever, so the test ends it, as a launcher must.
        with contextlib.suppress(subprocess.TimeoutExpired):
            first.wait(timeout=3)
    saved = {int(path.name) for path in tmp_path.iterdir() if path.name.isdigit()}
    assert 10 in saved and max(saved) <= 12
    copies = [shutil.copytree(tmp_path, tmp_path.parent / f"on_{n}") for n in (1, 4)]
    again = losses(outputs(2, EXAMPLE, f"--checkpoints={tmp_path}")[0])
    assert again == {step: x for step, x in uninterrupted.items() if step >= 10}
    for count, copy in zip((1, 4), copies, strict=True):
        other = losses(outputs(count, EXAMPLE, f"--checkpoints={copy}", "--steps=15")[0])
        expected = [uninterrupted[step] for step in other]
        assert len(other) == 5
        np.testing.assert_allclose([*other.values()], expected, rtol=1e-4)
