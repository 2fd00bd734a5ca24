"""The laws: what holds for every cell that runs by `dynamic_rnn`.

A law returns why it was skipped, or `None`, and raises `Broken` where it does not hold.
"""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import _rnn
from .compare import Broken, assert_close, assert_finite, leaves_by_path, place
from .pickling import unimportable
from .problem import ALL, CUT, GRADIENTS, LARGE_ID, MIXED, B, Problem, T, uses_key
from .structure import structure


@dataclasses.dataclass(frozen=True)
class Law:
    """What is checked, and what to say where it does not hold."""

    check: Callable[[Problem], str | None]
    statement: str
    mend: str


def padding(problem: Problem, key: Any = None) -> None:
    """Rows of different length, against a batch in which all rows are that long."""
    mixed = problem.values(MIXED, key=key)
    for row, n in enumerate(MIXED):
        equal = problem.values(np.full(B, n, np.int32), key=key)
        found, expected = _row(mixed, row, n), _row(equal, row, n)
        here = f"where the rows have the lengths {MIXED.tolist()}"
        _compare(problem, found, expected, here, f"where all have length {n}", row)


def _row(results: Any, row: int, steps: int) -> Any:
    """One row of the first steps; leaves of rank 0 belong to all rows."""
    cut = {"outputs": lambda y: y[row : row + 1, :steps], "state": lambda s: s[row : row + 1]}
    return {
        name: jax.tree.map(lambda x, f=f: f(x) if x.ndim else np.zeros_like(x), results[name])
        for name, f in cut.items()
    }


def _compare(problem, actual, expected, here, there, row=0) -> None:
    assert_close(actual, expected, problem.tolerance, here, there, row)


def garbage(problem: Problem) -> None:
    """NaN after the first step, against that step alone: values and gradients."""

    def spoil(x):
        x = x.copy()
        x[:, 1:] = np.nan if jnp.issubdtype(x.dtype, jnp.floating) else LARGE_ID
        return x

    lengths, state = np.ones(B, np.int32), problem.later
    padded = problem.gradients(lengths, jax.tree.map(spoil, problem.inputs), state)
    first = jax.tree.map(lambda x: x[:, :1], problem.inputs)
    cut = problem.gradients(lengths, first, state)
    for name in ("outputs", GRADIENTS[1]):
        for path, x in leaves_by_path({name: padded[name]}):
            if x[:, 1:].any():
                raise Broken(f"{place(path)}: not 0 in the padding, where the inputs are NaN")
        padded[name] = jax.tree.map(lambda x: x[:, :1], padded[name])
    _compare(problem, padded, cut, "with NaN in the padding", "without padding")


def split(problem: Problem) -> None:
    """A run in two parts, the state carried from the first to the second."""
    first = np.minimum(MIXED, CUT - 1)
    head = problem.values(first)
    rest = jax.tree.map(lambda x: np.roll(x, 1 - CUT, axis=1), problem.inputs)
    tail = problem.values(MIXED - first, rest, head["state"])

    def joined(h, t):
        return np.concatenate([h[:, : CUT - 1], t[:, : T - CUT + 1]], 1)

    outputs = jax.tree.map(joined, head["outputs"], tail["outputs"])
    parts = {"outputs": outputs, "state": tail["state"]}
    here = f"where the run was cut before step {CUT - 1} and went on from the state"
    _compare(problem, parts, problem.values(MIXED), here, "in one run")


def rows(problem: Problem, key: Any = None) -> None:
    """Other inputs in the last row: all other rows stay as they are."""

    def last(x, other):
        return np.concatenate([x[:-1], other[-1:]])

    def without(results):
        return jax.tree.map(lambda x: x[:-1] if x.ndim else x, results)

    other = jax.tree.map(last, problem.inputs, problem.other_inputs)
    changed, before = problem.values(inputs=other, key=key), problem.values(key=key)
    here = f"after the inputs of row {B - 1} alone were changed"
    _compare(problem, without(changed), without(before), here, "before")


def vmap(problem: Problem) -> None:
    """A step of a batch, against the mapped step of one row; both compiled."""
    inputs = jax.tree.map(lambda x: x[:, 0], problem.inputs)
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

    mapped = jax.tree.map(
        lambda m, b: m if b.ndim else m.reshape(-1)[0], results(mapped), results(batch)
    )
    _compare(problem, mapped, results(batch), "with jax.vmap over single rows", "of the batch")


def jit(problem: Problem, key: Any = None) -> None:
    """Two steps called from Python, against those of a compiled run."""
    state, outputs = problem.start, []
    for t in range(2):
        inputs = jax.tree.map(lambda x, t=t: x[:, t], problem.inputs)
        output, state = problem.take_step(problem.params, inputs, state, key, t)
        outputs.append(jax.device_get(output))
    stacked = jax.tree.map(lambda *y: np.stack(y, 1 if y[0].ndim else 0), *outputs)
    compiled = problem.values(np.full(B, 2, np.int32), key=key)
    compiled["outputs"] = jax.tree.map(
        lambda y: y[:, :2] if y.ndim > 1 else y[:2], compiled["outputs"]
    )
    eager = {"outputs": stacked, "state": state}
    _compare(problem, eager, compiled, "step by step, without jit", "compiled")


def finite(problem: Problem) -> None:
    """No NaN and no infinity, from the cell's own start."""
    assert_finite(problem.gradients(ALL, problem.inputs, problem.start))


def gradients(problem: Problem) -> None:
    """Each array's gradient along a random direction, against a difference of two runs."""
    try:
        with jax.enable_x64(True):
            return _differences(problem, jnp.dtype("float64"), 1e-6, 1e-6)
    except Broken as broken:
        if broken.law is None:  # a difference; else it does not run in float64
            raise
    wide = jnp.promote_types(problem.dtype, jnp.float32)
    return _differences(problem, wide, 1e-2, 2e-2)


def _differences(problem: Problem, dtype: Any, step: float, tolerance: float) -> None:
    given = problem.params, problem.inputs, problem.later
    state = jax.eval_shape(lambda: problem.cell.start(problem.params, (B,), dtype))
    given = _cast(given[0], dtype), _cast(given[1], dtype), _as(given[2], state)
    leaves, structure = jax.tree.flatten(given)
    names = jax.tree_util.tree_flatten_with_path(given)[0]

    def run(leaves):
        params, inputs, state = structure.unflatten(leaves)
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
        if not abs(measured - predicted) <= tolerance * (1 + abs(predicted)):
            where = place((jax.tree_util.DictKey(GRADIENTS[path[0].idx]), *path[1:]))
            raise Broken(
                f"{where}: along a random direction {predicted:.8g} by jax.grad, {measured:.8g} "
                f"by the difference of two runs in {dtype}"
            )


def _cast(tree: Any, dtype: Any) -> Any:
    """The floating leaves in `dtype`."""
    return jax.tree.map(
        lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree
    )


def _as(tree: Any, like: Any) -> Any:
    """The leaves in the dtypes that those of `like` have."""
    return jax.tree.map(lambda x, other: x.astype(other.dtype), tree, like)


def engines(problem: Problem) -> str | None:
    """Every other engine that can run the cell here, against `scan`."""
    arguments = problem.given, problem.params, problem.inputs, MIXED, problem.later
    others: dict[str, str] = {}
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
    """Draws come from the key alone: eager is compiled, and rows and padding change nothing."""
    if not uses_key(problem):
        return "the cell draws no random numbers"
    jit(problem, problem.key)
    padding(problem, problem.key)
    return rows(problem, problem.key)


def pickles(problem: Problem) -> str | None:
    """A copy by pickle takes the same step."""
    if (reason := unimportable(problem.given)) is not None:
        return reason
    copy = pickle.loads(pickle.dumps(problem.given))
    inputs = jax.tree.map(lambda x: x[:, 0], problem.inputs)
    steps = []
    for cell in (copy, problem.given):
        one = Problem(cell, problem.features, problem.key, problem.dtype)
        output, state = jax.jit(one.take_step)(problem.params, inputs, problem.start)
        steps.append({"output": output, "state": state})
    _compare(problem, *steps, "by the copy", "by the cell")
    return None


LAWS = {
    "structure": Law(
        structure,
        "init, zero_state and a step return the structure, shapes and dtypes of the protocol",
        "init reads only the features of its shape. zero_state takes (), an int or a tuple, and "
        "puts it in front of every leaf. A step returns (output, new_state), the state as it got "
        "it and the batch first.",
    ),
    "padding": Law(
        padding,
        "a row of a padded batch is what it is alone",
        "Compute each row from its own inputs and state; no mean, maximum or norm over the batch.",
    ),
    "garbage": Law(
        garbage,
        "what the padding holds reaches no value and no gradient",
        "A padded step is computed on the row's first valid inputs and its final state, and "
        "thrown away. Where its derivative is not finite the gradients become NaN: keep "
        "sqrt, log, norms and quotients away from 0 (jnp.where on their argument too).",
    ),
    "split": Law(
        split,
        "a run in two parts is one run",
        "Keep all that a step remembers in the state; nothing in attributes of the cell, in "
        "globals or on the host.",
    ),
    "rows": Law(
        rows,
        "no row depends on another one",
        "Compute each row from its own inputs and state; no mean, maximum, norm or sort over the "
        "batch (the first axis).",
    ),
    "vmap": Law(
        vmap,
        "jax.vmap of one row is the batch",
        "Count axes from the end (axis=-1, x[..., :n]): one row has no batch axis. "
        "Keep rows apart.",
    ),
    "jit": Law(
        jit,
        "a compiled step is the step called from Python",
        "Compute with jax.numpy alone. Python and NumPy code runs once, while JAX traces: no "
        "np.random, no counters, no float(x), no `if` on values.",
    ),
    "finite": Law(
        finite,
        "from the start of a run all values and gradients are finite",
        "Look for sqrt, log, a norm or a quotient at the start state (zeros): move its argument "
        "away from 0, by jnp.where before the function, not after.",
    ),
    "gradients": Law(
        gradients,
        "the gradient is the derivative",
        "Look at custom_jvp, custom_vjp, stop_gradient, and functions that are rounded; leave "
        "the law out (laws=) where the gradient differs on purpose.",
    ),
    "engines": Law(
        engines,
        "every engine that can run the cell computes what scan does",
        "Say the step once: a MatmulCell has all of it in project, hidden, recurrent_kernel and "
        "pointwise, and overrides step only to draw.",
    ),
    "keys": Law(
        keys,
        "what is drawn depends on the key and the row's place in the batch alone",
        "Draw with jax.random from the key that the step gets, a number for each row; no "
        "np.random, no permutation of rows.",
    ),
    "pickle": Law(
        pickles,
        "a cell is saved and sent to other processes by pickle",
        "Keep numbers, strings, importable functions and cells in the attributes; no locks, "
        "files or generators.",
    ),
}
"""In the order in which they are checked."""
