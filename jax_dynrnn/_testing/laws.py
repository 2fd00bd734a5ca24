"""The laws: one function for each property that every cell must have.

A law raises `Broken` if it does not hold, and returns why it was skipped, or `None`.
"""

from __future__ import annotations

import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import _rnn
from .._types import DTypeLike, Key, PyTree
from .compare import Broken, assert_close, assert_finite, element_name, leaves_by_path
from .problem import ALL, CUT, GRADIENTS, LARGE_ID, MIXED, B, Problem, T, uses_key


def padding(problem: Problem, key: Key = None) -> None:
    """Compares rows of a batch of mixed lengths with batches in which all rows are that long."""
    mixed = problem.values(MIXED, key=key)
    for row, n in enumerate(MIXED):
        equal = problem.values(np.full(B, n, np.int32), key=key)
        found, expected = _row(mixed, row, n), _row(equal, row, n)
        here = f"where the rows have the lengths {MIXED.tolist()}"
        _compare(problem, found, expected, here, f"where all have length {n}", row)


def _row(results: PyTree, row: int, end: int) -> Any:
    """The results of one row up to step `end`, without those that all rows share."""
    own = slice(row, row + 1)

    # Shared results depend on the lengths of all rows: they are emptied or zeroed.
    def output_of_row(y):
        return y[own, :end] if y.ndim > 1 else y[:0]

    def state_of_row(s):
        return s[own] if s.ndim else np.zeros_like(s)

    outputs = jax.tree.map(output_of_row, results["outputs"])
    return {"outputs": outputs, "state": jax.tree.map(state_of_row, results["state"])}


def _steps(tree: PyTree, begin: int, end: int) -> Any:
    """The steps from `begin` to `end` of arrays `[B, T, ...]`, or `[T]` if the rows share them."""

    def take(x):
        return x[:, begin:end] if x.ndim > 1 else x[begin:end]

    return jax.tree.map(take, tree)


def _compare(problem, actual, expected, here, there, row=0) -> None:
    assert_close(actual, expected, problem.tolerance, here, there, row)


def garbage(problem: Problem) -> None:
    """Compares a run with NaN after the first step to a run of that step alone."""

    def corrupt(x):
        x = x.copy()
        # Integers have no NaN: an id that no table has takes its place.
        x[:, 1:] = np.nan if jnp.issubdtype(x.dtype, jnp.floating) else LARGE_ID
        return x

    lengths, state = np.ones(B, np.int32), problem.later
    padded = problem.gradients(lengths, jax.tree.map(corrupt, problem.inputs), state)
    first = _steps(problem.inputs, 0, 1)
    cut = problem.gradients(lengths, first, state)
    for name in ("outputs", GRADIENTS[1]):
        for path, x in leaves_by_path({name: padded[name]}):
            if x.ndim > 1 and x[:, 1:].any():
                raise Broken(
                    f"{element_name(path)}: not 0 in the padding, where the inputs are NaN"
                )
        padded[name] = _steps(padded[name], 0, 1)
    _compare(problem, padded, cut, "with NaN in the padding", "without padding")


def split(problem: Problem) -> None:
    """Compares a run in two parts, with the state carried over, to one run."""
    first = np.minimum(MIXED, CUT - 1)
    head = problem.values(first)
    # Rolled, not sliced: the shapes stay, and so the compiled program can be used again.
    rest = jax.tree.map(lambda x: np.roll(x, 1 - CUT, axis=1), problem.inputs)
    tail = problem.values(MIXED - first, rest, head["state"])

    def joined(h, t):
        both = [_steps(h, 0, CUT - 1), _steps(t, 0, T - CUT + 1)]
        return np.concatenate(both, min(1, h.ndim - 1))

    outputs = jax.tree.map(joined, head["outputs"], tail["outputs"])
    parts = {"outputs": outputs, "state": tail["state"]}
    here = f"where the run was cut before step {CUT - 1} and went on from the state"
    _compare(problem, parts, problem.values(MIXED), here, "in one run")


def rows(problem: Problem, key: Key = None) -> None:
    """Checks that other inputs in one row, the last or the first, do not change the other rows."""
    before = problem.values(key=key)
    for row in (B - 1, 0):
        others = np.arange(B) != row

        def change(x, other, others=others):
            return np.where(np.expand_dims(others, tuple(range(1, x.ndim))), x, other)

        inputs = jax.tree.map(change, problem.inputs, problem.other_inputs)
        changed = _without_row(problem.values(inputs=inputs, key=key), row)
        here = f"after the inputs of row {row} alone were changed"
        expected = _without_row(before, row)
        _compare(problem, changed, expected, here, "before", row=int(row == 0))


def _without_row(results: PyTree, row: int) -> Any:
    """The results of all rows but one, with those that the rows share."""
    others = np.arange(B) != row

    def output_of_others(y):
        return y[others] if y.ndim > 1 else y

    def state_of_others(s):
        return s[others] if s.ndim else s

    outputs = jax.tree.map(output_of_others, results["outputs"])
    return {"outputs": outputs, "state": jax.tree.map(state_of_others, results["state"])}


def vmap(problem: Problem) -> None:
    """Compares `jax.vmap` of a step over single rows with a step of the batch."""
    inputs = problem.inputs_at(0)
    axes = jax.tree.map(lambda s: 0 if s.ndim else None, problem.start)

    @jax.jit
    def both(params, inputs, state):
        return (
            jax.vmap(problem.cell, (None, 0, axes))(params, inputs, state),
            problem.cell(params, inputs, state),
        )

    mapped, batch = jax.device_get(both(problem.params, inputs, problem.start))

    def results(pair):
        return {"output": pair[0], "state": pair[1]}

    def as_in_batch(m, b):
        # What the rows share has rank 0 in a batch; `vmap` gives it a batch axis.
        return m if b.ndim else m.reshape(-1)[0]

    mapped = jax.tree.map(as_in_batch, results(mapped), results(batch))
    _compare(problem, mapped, results(batch), "with jax.vmap over single rows", "of the batch")


def jit(problem: Problem, key: Key = None) -> None:
    """Compares two steps called from Python with a compiled run, after checking `init`."""
    _check_init_is_pure(problem)
    state, outputs = problem.start, []
    for t in range(2):
        inputs = problem.inputs_at(t)
        output, state = problem.take_step(problem.params, inputs, state, key, t)
        outputs.append(jax.device_get(output))

    def stack(*y):
        return np.stack(y, 1 if y[0].ndim else 0)

    compiled = problem.values(np.full(B, 2, np.int32), key=key)
    compiled["outputs"] = _steps(compiled["outputs"], 0, 2)
    eager = {"outputs": jax.tree.map(stack, *outputs), "state": state}
    _compare(problem, eager, compiled, "step by step, without jit", "compiled")


def _check_init_is_pure(problem: Problem) -> None:
    """Checks that two calls of `init` with the same key return equal params."""
    first, second = ({"params": jax.device_get(problem.init(B, T))} for _ in range(2))
    here, there = "where init is called", "where it is called again with the same key"
    assert_close(first, second, 0, here, there)


def finite(problem: Problem) -> None:
    """Checks that a run from the start state has no NaN and no infinity, nor have its gradients."""
    assert_finite(problem.gradients(ALL, problem.inputs, problem.start))


def gradients(problem: Problem) -> None:
    """Compares gradients with finite differences, in float64 if the cell runs in it."""
    try:
        with jax.enable_x64(True):
            return _check_differences(problem, jnp.dtype("float64"), 1e-6, 1e-6)
    except Broken as broken:
        if broken.law is None:  # a difference was found; otherwise the cell failed in float64
            raise
    # In 32 bits a small step is lost in rounding: the step and the tolerance are larger.
    wide = jnp.promote_types(problem.dtype, jnp.float32)
    return _check_differences(problem, wide, 1e-2, 2e-2)


def _check_differences(problem: Problem, dtype: DTypeLike, step: float, tolerance: float) -> None:
    """Compares the gradient of each array along a random direction with a central difference."""
    given = problem.params, problem.inputs, problem.later
    state = jax.eval_shape(lambda: problem.cell.start(problem.params, (B,), dtype))
    given = _cast(given[0], dtype), _cast(given[1], dtype), _cast_like(given[2], state)
    leaves, treedef = jax.tree.flatten(given)
    names = jax.tree_util.tree_flatten_with_path(given)[0]

    def run(leaves):
        params, inputs, state = treedef.unflatten(leaves)
        return problem.gradients(ALL, inputs, state, params=params, dtype=dtype)

    found = run(leaves)
    derivatives = jax.tree.leaves([found[name] for name in GRADIENTS])
    for i, ((path, x), gradient) in enumerate(zip(names, derivatives, strict=True)):
        if not jnp.issubdtype(x.dtype, jnp.floating) or not x.size:
            continue
        direction = problem.random.normal(size=x.shape).astype(x.dtype)
        move = (step * direction).astype(x.dtype)
        ends = [run([*leaves[:i], moved, *leaves[i + 1 :]]) for moved in (x + move, x - move)]
        measured = float(ends[0]["loss"] - ends[1]["loss"]) / (2 * step)
        predicted = float((gradient * direction).sum())
        # So written, a NaN is a difference.
        if not abs(measured - predicted) <= tolerance * (1 + abs(predicted)):
            where = element_name((jax.tree_util.DictKey(GRADIENTS[path[0].idx]), *path[1:]))
            raise Broken(
                f"{where}: along a random direction {predicted:.8g} by jax.grad, {measured:.8g} "
                f"by the difference of two runs in {dtype}"
            )


def _cast(tree: PyTree, dtype: DTypeLike) -> Any:
    """The tree with its floating leaves cast to `dtype`."""

    def cast(x):
        return x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(cast, tree)


def _cast_like(tree: PyTree, like: PyTree) -> Any:
    """The leaves cast to the dtypes of those of `like`."""

    def cast(x, other):
        return x.astype(other.dtype)

    return jax.tree.map(cast, tree, like)


def engines(problem: Problem) -> str | None:
    """Compares every engine that can run the cell here with `scan`."""
    arguments = problem.given, problem.params, problem.inputs, MIXED, problem.later
    others: dict[str, str] = {}
    reasons: dict[str, str | None] = {}
    for key in (None, problem.key) if uses_key(problem) else (None,):
        reasons = _rnn.explain(*arguments, dtype=problem.dtype, key=key).reasons
        for name in [n for n, reason in reasons.items() if reason is None and n != "scan"]:
            found, expected = [
                problem.gradients(MIXED, problem.inputs, problem.later, key=key, engine=engine)
                for engine in (name, "scan")
            ]
            others[name] = f"by the engine {name}{' with a key' * (key is not None)}"
            _compare(problem, found, expected, others[name], "by scan")
    return None if others else f"only scan can run it here; blocked: {reasons['blocked']}"


def keys(problem: Problem) -> str | None:
    """Repeats the laws `jit`, `padding` and `rows` with a key, for a cell that draws."""
    if not uses_key(problem):
        return "the cell draws no random numbers"
    jit(problem, problem.key)
    padding(problem, problem.key)
    return rows(problem, problem.key)


def pickles(problem: Problem) -> str | None:
    """Compares a step of the cell with a step of its copy by pickle."""
    try:
        copy = pickle.loads(pickle.dumps(problem.given))
    except (pickle.PicklingError, AttributeError) as error:
        if "pickle" not in str(error):  # an error of the cell's own code, not of pickle
            raise
        return f"a function or class of it has no importable name: {error}"
    inputs = problem.inputs_at(0)
    steps = []
    for cell in (copy, problem.given):
        one = Problem(cell, problem.features, problem.key, problem.dtype)
        output, state = jax.jit(one.take_step)(problem.params, inputs, problem.start)
        steps.append({"output": output, "state": state})
    _compare(problem, steps[0], steps[1], "by the copy", "by the cell")
    return None
