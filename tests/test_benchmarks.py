"""The benchmarks: every peer computes what ours does, and reported figures are right."""

import itertools
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from benchmarks import (
    compare,
    fairness,
    gpu_check,
    gpu_report,
    gpu_runs,
    grid,
    odd_sizes,
    peers,
    readme,
    report,
    scaling,
    timing,
)
from benchmarks.check import compare as compare_results

HERE = Path(__file__).parent
FAMILIES = {"flax", "nnx", "haiku", "keras", "equinox", "tensorflow", "pytorch", "devices"}

# Runs in a process of its own: frameworks are measured with the default settings of JAX.
CHECK = """
import json, sys
from benchmarks import machine
from benchmarks.grid import TINY
from benchmarks.measure import Implementations
machine.prepare(short=True)
agreed = []
with Implementations(sys.argv[1].split(","), 2) as field:
    for problem, implementations in field.checked("lstm", TINY, ("lognormal",)):
        agreed += implementations
print(json.dumps(agreed))
"""


def printed(script, *arguments):
    """Runs a script in a subprocess and parses what it prints as JSON."""
    environment = {name: x for name, x in os.environ.items() if name != "XLA_FLAGS"}
    command = [sys.executable, "-c", script, *arguments]
    result = subprocess.run(
        command, capture_output=True, text=True, cwd=HERE.parent, env=environment
    )
    assert not result.returncode, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def agreed():
    """The families of peers that were compared with ours and agreed."""
    present = ",".join(sorted(f for f in FAMILIES if peers.installed(f)))
    found = {peers.family(name) for name in printed(CHECK, present)}
    return found | (
        {"devices"} if {f"{x}{peers.DEVICES}" for x in ("ours", "flax")} <= found else set()
    )


@pytest.mark.full  # the short run of the benchmarks, which CI makes, compares them too
@pytest.mark.xdist_group("peers")
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_peer_computes_the_same_results(agreed, load_oracle, family):
    """Each framework that is installed was compared with ours, and agreed."""
    if not peers.installed(family):
        load_oracle((peers.JAX | peers.PROCESSES)[family])
    assert family in agreed


# Few steps: if other processes run, threads that spin lose some milliseconds in each step.
SLOWED = """
import json
from benchmarks import fairness, machine, remote
from benchmarks.grid import Problem, Size
from benchmarks.measure import Implementations
machine.prepare(short=False)
remote.ENVIRONMENT["OMP_WAIT_POLICY"] = "passive"
with Implementations(["pytorch"], 2) as field:
    problem = Problem("lstm", Size(16, 16, 32, 64), "full")
    print(json.dumps([*fairness.check(field, 3, "end", [problem])]))
"""


@pytest.mark.full
@pytest.mark.xdist_group("peers")
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core alone has no threads that wait")
def test_a_framework_slowed_by_the_suite_is_found(load_oracle):
    """`fairness.check` finds that PyTorch is slower with OMP_WAIT_POLICY=passive."""
    load_oracle("torch")
    rows = printed(SLOWED)
    assert {row["implementation"] for row in rows} == {
        f"pytorch: {run}{threads}" for run in ("padded", "packed") for threads in ("", ", 1 thread")
    }
    assert {row["implementation"] for row in fairness.beyond_bound(rows)} & {
        "pytorch: padded",
        "pytorch: packed",
    }


def test_a_peer_slower_in_the_suite_fails_the_run(stored, tmp_path, monkeypatch, capsys):
    """A peer that differs by over 15 % from its time alone fails the run, with a message."""
    from benchmarks import __main__ as command

    row = {"when": "end", "kind": "lstm", "size": [4, 12, 3, 8], "lengths": "full"}
    row |= {"implementation": "pytorch: padded", "what": "training", "alone": 8.0}
    near, far = row | {"suite": 8.9}, row | {"suite": 125.0}
    assert fairness.beyond_bound([near, far, row | {"suite": 6.0}]) == [far, row | {"suite": 6.0}]
    file = tmp_path / "cpu.json"
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--report", str(file)])
    file.write_text(json.dumps(stored | {"alone": [near]}))
    command.main()
    assert "other frameworks: 1.11 of their time alone" in capsys.readouterr().out
    file.write_text(json.dumps(stored | {"alone": [near, far]}))
    with pytest.raises(SystemExit, match="not as fast in the suite"):
        command.main()
    said = "lstm 4x12x3x8 full, training: 125 ms in the suite at its end, 8 ms alone"
    assert f"over 15%: pytorch: padded, {said}" in capsys.readouterr().out


def results(lengths, **changed):
    """Results of two rows of three steps; `padding` fills the outputs behind `lengths`."""
    random = np.random.default_rng(0)
    outputs = random.normal(size=(2, 3, 4))
    outputs[np.arange(3) >= lengths[:, None]] = changed.pop("padding", 0.0)
    states, gradient = [random.normal(size=(2, 4))], random.normal(size=(2, 3, 2))
    fields = {"outputs": outputs, "states": states, "gradient": gradient}
    return timing.Results(**fields | changed)


def test_padding_is_not_compared():
    """Outputs behind `lengths` are ignored, and compared if there are no lengths."""
    lengths = np.array([3, 1])
    compare_results(results(lengths, padding=np.nan), results(lengths), lengths, "here")
    with pytest.raises(ValueError, match="here: expected outputs as ours within .*, got nan"):
        compare_results(results(lengths, padding=np.nan), results(lengths), None, "here")


@pytest.mark.parametrize("field", timing.Results._fields)
def test_a_result_that_differs_is_an_error(field):
    """Outputs, states or gradients that differ by 0.1 % are an error."""
    lengths = np.array([3, 1])
    expected = results(lengths)
    value = getattr(expected, field)
    wrong = [value[0] * 1.001] if field == "states" else value * 1.001
    what = {
        "outputs": "outputs",
        "states": "final state 0",
        "gradient": "gradient with respect to the inputs",
    }
    with pytest.raises(ValueError, match=f"here: expected {what[field]} as ours within"):
        compare_results(results(lengths, **{field: wrong}), expected, lengths, "here")


def test_missing_final_states_are_an_error():
    lengths = np.array([3, 1])
    with pytest.raises(ValueError, match="here: expected 1 final states, got 0"):
        compare_results(results(lengths, states=[]), results(lengths), lengths, "here")


def test_drawn_lengths():
    """Lengths of the benchmark problems have the ranges and means of their distribution."""
    problems = [
        grid.Problem("lstm", size, lengths)
        for size in grid.GRID
        for lengths in grid.lengths_of("lstm", size)
    ]
    drawn = {p: grid.draw_lengths(p) for p in problems}
    for (_, size, lengths), values in drawn.items():
        if lengths == "none":
            assert values is None
            continue
        assert values.shape == (size.batch,) and values.dtype == np.int32
        assert values.max() == size.time and values.min() >= 1
        if lengths == "full":
            assert values.min() == size.time
        elif lengths == "uniform":
            assert values.min() >= size.time / 4
        else:
            assert abs(values.mean() / size.time - 0.35) < 0.01
    assert {p.lengths for p in problems if p.size.batch == 1} == {"none", "full"}


def test_rounds():
    """In each round every implementation runs once, in varying order; the first is discarded."""
    taken = []

    def timer(name):
        def seconds(what):
            assert what == "forward"
            taken.append(name)
            return len(taken) if name == "slow" else 1e-3

        return seconds

    names = ["fast", "slow", "third"]
    found = timing.rounds({name: timer(name) for name in names}, "forward", 7)
    orders = [tuple(taken[i : i + 3]) for i in range(0, 24, 3)]
    assert len(taken) == 24 and all(sorted(order) == names for order in orders)
    assert len(set(orders)) > 2
    slow = [1e3 * (i + 1) for i, name in enumerate(taken) if name == "slow"][1:]
    assert found["slow"]["median"] == np.median(slow)
    assert found["slow"]["quartiles"] == list(np.quantile(slow, (0.25, 0.75)))
    assert found["fast"] == {"median": 1.0, "quartiles": [1.0, 1.0]}


def test_seconds(monkeypatch):
    """It averages calls over 30 ms after a first call; a longer first call is the result."""
    clock, calls = [0.0], []
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])

    def call(takes):
        def run():
            calls.append(takes)
            clock[0] += takes if len(calls) > 1 or takes >= 30e-3 else 2 * takes

        return run

    for takes, number in ((8e-3, 1 + 4), (1.0, 1)):
        calls.clear()
        mean = timing.seconds(types.SimpleNamespace(training=call(takes)), "training")
        assert len(calls) == number and np.isclose(mean, takes)


def test_limit():
    """The limit is the time of 3 × 2 (I + H) 4 H operations a step, at 100e9 per second."""
    size = grid.Size(2, 5, 30, 10)
    assert np.isclose(scaling.limit(size, 7, 100), 3 * 7 * (2 * 40 * 40) / 100e9 * 1e3)
    varied = list(scaling.points(size, {"time": (5, 9), "mean length": (1.0,)}))
    assert varied == [
        ("time", 5, size, 0.35),
        ("time", 9, grid.Size(2, 9, 30, 10), 0.35),
        ("mean length", 1.0, size, 1.0),
    ]


def test_worst_of_sizes_that_tiles_do_not_divide():
    """`odd_sizes.worst` finds the size that costs most relative to a larger one nearby."""
    assert odd_sizes.worst({10: 4.0, 60: 2.0, 61: 1.6, 130: 0.1}) == (2.0, 10, 60)
    rows = [
        {"axis": "time", "value": n, "lengths": "full", "remat": None, "memory": memory}
        for n, memory in ((127, 3e6), (128, 2e6))
    ]
    line = odd_sizes.table(rows).splitlines()[-1]
    assert line.split() == ["time", "full", "None", "memory", "1.50", "127", "128"]


def test_sizes_that_are_compared_are_timed_together():
    """All timed sizes within `odd_sizes.MAX_DISTANCE` of each other are in one group."""
    _, groups = odd_sizes._plans(short=False)
    for (axis, sizes), (next_axis, next_sizes) in itertools.pairwise(groups):
        assert axis != next_axis or next_sizes[0] - sizes[-1] > odd_sizes.MAX_DISTANCE
    assert sum(len(sizes) for _, sizes in groups) >= 30


@pytest.fixture(scope="module")
def stored():
    return json.loads((HERE / "benchmarks.json").read_text())


def test_ratios(stored):
    """Ratios use the fastest variant of a family, and are `None` for a missing family."""
    lstm, ragged, gru, _ = compare.by_problem(stored["rows"]).values()
    jax_peers = compare.COMPARISONS["best JAX peer"]
    assert compare.speed_up(lstm, "training", jax_peers) == 30 / 20
    assert compare.speed_up(lstm, "training", compare.COMPARISONS["PyTorch"]) == 8 / 20
    assert compare.speed_up(ragged, "training", compare.COMPARISONS["PyTorch"]) is None
    spread = {compare.SHARDED: {"training": {"median": 16.0}}} | lstm
    assert (
        compare.speed_up(spread, "training", compare.Comparison(("pytorch",), compare.SHARDED))
        == 8 / 16
    )
    assert compare.over_scan(ragged, "forward") == 10 / 20
    assert compare.over_flax(lstm, "training", "memory") == 100 / 400
    assert compare.over_flax(gru, "training", "memory") is None
    assert np.isclose(compare.geometric_mean([0.5, 8.0]), 2)


def test_tables(stored):
    """The tables of stored results have the right rows, losses and summaries."""
    text = report.tables(stored)
    lines = {tuple(line.split()) for line in text.splitlines()}
    full = "4x12x3x8 full 20 40 40 30 50 60 10 8 20 % 1.50"
    assert tuple(full.split()) in lines
    lost = "4x12x3x8 lognormal 20 10 10 - 40 30 - - 20 % 0.50 <"
    assert tuple(lost.split()) in lines
    assert tuple("16x128x32x64 full 10 8 20 % 0.80 <".split()) in lines  # against our scan
    assert tuple("forward best JAX peer 1.00 1.00 2.00 0.50 0.50".split()) in lines
    assert tuple("training step PyTorch 0.40 - 0.40 - -".split()) in lines
    least = (
        "lowest speed-up over best JAX peer 0.50 (lstm 4x12x3x8 lognormal), below 0.95 in 1 of 3"
    )
    assert f"forward: {least} rows" in text
    assert "temporary memory 0.50 of Flax's, at most 1.00 (lstm 4x12x3x8 lognormal)" in text
    assert "time to compile 2.45 of Flax's, at most 3.00 (lstm 4x12x3x8 lognormal)" in text


def test_report(stored, tmp_path):
    """`--report` makes tables and a picture from a file, without running anything."""
    file = tmp_path / "cpu.json"
    file.write_text(json.dumps(stored))
    command = [sys.executable, "-m", "benchmarks", "--report", str(file)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=HERE.parent)
    assert not result.returncode, result.stderr
    assert report.tables(stored) in result.stdout
    assert (tmp_path / "cpu.png").read_bytes().startswith(b"\x89PNG")


def test_the_accelerator_check_finds_wrong_engines(monkeypatch):
    """It finds gradients off by 0.1 % in float32, and an engine that raises; right ones pass."""
    import jax

    from jax_dynrnn import engines

    @jax.custom_jvp
    def off(x):
        return x

    off.defjvp(lambda x, dx: (x[0], 1.001 * dx[0]))
    scan = type(engines.ENGINES["scan"])

    class Wrong(scan):
        def run(self, run):
            return jax.tree.map(off, super().run(run))

    class Fails(scan):
        def run(self, run):
            raise NotImplementedError("no such instruction")

    monkeypatch.setitem(gpu_runs.ENGINES, "wrong", Wrong())
    monkeypatch.setitem(gpu_runs.ENGINES, "fails", Fails())
    rows = gpu_runs.random_rows("vanilla", "resets, reverse", ("float32",))
    assert {row["engine"]: row["error"] <= row["bound"] for row in rows} == {
        "scan": True, "blocked": True, "wrong": False, "fails": False
    }  # fmt: skip
    assert gpu_check.table(rows).count("FAILED") == 2
    failed = {row["engine"]: (row["error"], row["failure"]) for row in rows if "failure" in row}
    assert failed == {"fails": (np.inf, "NotImplementedError: no such instruction")}
    assert gpu_runs.error([np.array([np.nan])], [np.array([0.0])]) == np.inf


def test_figures_in_the_readme_were_measured():
    """The README's part on CPUs is made from the committed results."""
    assert readme.written() == readme.README.read_text()
    assert readme.PLACE.search(readme.README.read_text())


def test_the_part_of_the_readme(stored):
    """Means, lost rows, memory and compile time of stored results."""
    made = readme.section(stored)
    assert "Equinox | 2.00 | 1.50 | 0.50 | 6.00 |" in made
    assert "two | 0.50 | 0.40 | - | - |" in made
    words = " ".join(made.split())
    assert "0 of 3 training steps and 1 of 3 forward passes" in words
    assert "the lowest are 95% and 50%" in words
    assert "for the LSTM 0.50 and 0.40 with full lengths, - and - with" in words
    assert "needs 50% of Flax's" in words and "takes 2.4 times as long" in words


def test_the_table_of_an_accelerator():
    """A row has microseconds per step, the multiple of the floor, and the fastest peer's ratio."""
    times = {"ours": 2.0, "flax: A": 8.0, "flax: B": 6.0, "pytorch: padded": 1.0}
    rows = [
        {"kind": "lstm", "size": [4, 100, 3, 8], "lengths": "full", "dtype": "float32"}
        | {"implementation": name, "floor": 0.5}
        | {what: {"median": factor * ms} for what, factor in (("forward", 1), ("training", 3))}
        for name, ms in times.items()
    ]
    machine = {"processor": "p", "cores": 2, "system": "s", "date": "d"}
    machine |= {"device": "a GPU", "flags": "", "precision": "None"}
    table = gpu_report.table({"machine": machine, "versions": {}, "rounds": 7, "rows": rows})
    ours = next(line.split() for line in table.splitlines() if " ours " in line)
    assert ours[5:] == ["20.00", "40.0", "3.00", "0.50", "60.00", "3.00", "0.50"]


def test_the_cudnn_peer_has_our_weights(monkeypatch):
    """JAX's cuDNN LSTM computes our results; its reference in plain JAX replaces the GPU's call."""
    import jax
    from jax.experimental import rnn as cudnn
    from test_cudnn import reference

    from benchmarks.peers import cudnn as peer
    from benchmarks.peers import ours
    from benchmarks.problems import params_of

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    problem = grid.Problem("lstm", grid.TINY, "lognormal")
    params = params_of("lstm", grid.TINY)
    ((run, weights),) = peer.build("lstm", grid.TINY, params).values()
    monkeypatch.undo()
    monkeypatch.setattr(cudnn, "lstm", reference)
    expected, ours_params = ours.build("lstm", grid.TINY, params)["ours"]
    data = grid.draw_inputs(problem), grid.draw_lengths(problem)
    (y, states), (y_ours, states_ours) = run(weights, *data), expected(ours_params, *data)
    valid = (np.arange(grid.TINY.time) < data[1][:, None])[..., None]
    assert np.allclose(np.where(valid, y, 0), y_ours, atol=1e-6)
    assert all(np.allclose(a, b, atol=1e-6) for a, b in zip(states, states_ours, strict=True))


def test_an_interrupted_run_is_resumed(tmp_path):
    """Only problems without rows are run; another machine or other versions are refused."""
    from benchmarks import __main__ as command

    size, tiny = grid.GRID[0], grid.TINY
    row = {"kind": "lstm", "size": list(size), "lengths": "full", "implementation": "ours"}
    plan = [("lstm", size, ("none", "full")), ("lstm", tiny, ("full",)), ("gru", size, ("full",))]
    assert command.left(plan, [row]) == [("lstm", size, ("none",)), *plan[1:]]
    assert command.left(plan, [row | {"lengths": n} for n in ("none", "full")]) == plan[1:]

    now = {"machine": {"processor": "a"}, "versions": {"jax": "1"}, "rounds": 7}
    out = tmp_path / "cpu.json"
    out.write_text(json.dumps(now | {"rows": [row]}))
    assert command.before(out, now) == [row]
    for other in {"machine": {"processor": "b"}}, {"versions": {"jax": "2"}}, {"rounds": 3}:
        with pytest.raises(SystemExit, match="another run"):
            command.before(out, now | other)
