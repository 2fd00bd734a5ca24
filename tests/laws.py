"""The product that laws run over (cells, engines, dtypes), and how results are compared."""

import contextlib
import dataclasses
import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
from cases import CASES, LENGTHS, B, Case, T

import jax_dynrnn as rnn

ALL = np.ones((B, T), bool)
# Gaps at the start, inside and at the end of rows; resets at valid and invalid steps, and at t = 0.
MASK = np.array([[1, 0, 1, 1, 1], [0, 1, 1, 0, 1], [1, 1, 1, 1, 1], [1, 1, 0, 1, 1]], bool)
RESETS = np.array([[0, 1, 0, 1, 0], [1, 0, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 1, 0, 1]], bool)
FUSION_EMITTERS = "xla_cpu_use_fusion_emitters"
USER_COMPILER_OPTIONS = (
    {FUSION_EMITTERS: True} if FUSION_EMITTERS in os.environ.get("XLA_FLAGS", "") else None
)
"""Compiler options of `jax.jit` that undo the fusion setting of conftest.py, as users compile."""
MARGIN = 1.5
"""In 16-bit dtypes, the largest allowed ratio of an engine's error to the reference's error, both
measured against float64."""
TOLERANCE = {"float64": 1e-12, "float32": 1e-5, "bfloat16": 4 * 2**-8, "float16": 4 * 2**-11}
"""The `tolerance` of `close`, by dtype, the same for every engine.

The values for 16 bits were set from the first runs of all laws. `scan` mostly agreed with the
reference to the last bit; the largest difference was 2.7 times the machine epsilon, in a gradient
of `emit`. A layer norm over few units magnifies roundings more on some machines: such a leaf is
compared with float64 instead, with `MARGIN`.
"""


@dataclasses.dataclass(frozen=True)
class Combination:
    """A cell, an engine and a dtype: one element of the product that laws are tested on."""

    case: Case
    engine: str
    dtype: str
    x64: bool = True
    gradients: bool = True
    """Whether reversed and vmapped runs are differentiated too (forward runs always are)."""

    def __str__(self):
        return f"{self.case.name}-{self.engine}-{self.dtype}" + ("" if self.x64 else "-no_x64")

    @property
    def tolerance(self):
        return TOLERANCE[self.dtype]


def all_combinations(full):
    """Without `full`, every cell with `scan`, and core cells with every engine."""
    if not full:
        return [
            Combination(case, engine, "float64", gradients=case.core)
            for case in CASES
            for engine in (supporting_engines(case) if case.core else ["scan"])
        ]
    both = [(case, engine) for case in CASES for engine in supporting_engines(case)]
    dtypes = ("float64", "float32", "bfloat16", "float16")
    wide = [Combination(case, engine, dtype) for case, engine in both for dtype in dtypes]
    return wide + [Combination(case, engine, "float32", x64=False) for case, engine in both]


def supporting_engines(case):
    """The names of the engines that can run a case on this machine."""
    key = case.key()
    shapes = jax.eval_shape(lambda: (case.params("float64"), case.inputs("float64")))
    reasons = rnn.explain(case.cell, *shapes, LENGTHS, key=key).reasons
    return [name for name, reason in reasons.items() if reason is None]


def close(actual, expected, tolerance, exact=None):
    """Asserts `max|a - b| <= tolerance * (1 + max|b|)`, leaf by leaf.

    `exact`, if given, is a function that returns the results in float64. A leaf that exceeds the
    bound is then compared with those: its error may be `MARGIN` times that of the expected leaf.
    """
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    leaves = jax.tree_util.tree_flatten_with_path(expected)[0]
    for i, (a, (path, b)) in enumerate(zip(jax.tree.leaves(actual), leaves, strict=True)):
        # Gradients with respect to integer leaves have dtype float0, and no elements to compare.
        if getattr(b, "dtype", None) == jax.dtypes.float0:
            continue
        a, b = np.asarray(a), np.asarray(b)
        assert a.shape == b.shape, (jax.tree_util.keystr(path), a.shape, b.shape)
        if a.size == 0:
            continue
        # Differences are computed in float64, as those of 16-bit numbers would be rounded.
        a, b = a.astype(np.float64), b.astype(np.float64)
        error, bound = np.abs(a - b).max(), tolerance * (1 + np.abs(b).max())
        if error > bound and exact is not None:
            true = np.asarray(jax.tree.leaves(exact())[i])
            error, bound = np.abs(a - true).max(), MARGIN * np.abs(b - true).max()
        assert error <= bound, f"{jax.tree_util.keystr(path)}: {error} > {bound}"


def weighted_sum(tree, xp=jnp):
    """A scalar in which every floating-point element of the tree has a weight of its own.

    Different weights make gradients of swapped elements differ. With `xp=np` it is computed in
    NumPy, which saves a compilation where nothing is traced.
    """
    wide = jnp.result_type(float)
    total = xp.zeros((), wide)
    for i, x in enumerate(map(xp.asarray, jax.tree.leaves(tree))):
        if jnp.issubdtype(x.dtype, jnp.floating):
            weights = xp.asarray(np.cos(1.0 + i + np.arange(x.size)).reshape(x.shape), wide)
            total = total + (x.astype(wide) * weights).sum()
    return total


@functools.cache
def compiled(combination, reverse=False, gradients=True):
    """A compiled run of a cell: a function that returns `((outputs, state), gradients)`.

    The gradients are those of a weighted sum of all results, with respect to params, inputs and
    state. A mask and resets are passed even for tests without them, so that one compilation serves
    many tests.
    Without x64, XLA compiles as it does for users: see conftest.py.
    """
    options = None if combination.x64 else USER_COMPILER_OPTIONS

    @functools.partial(jax.jit, compiler_options=options)
    def jitted(params, inputs, state, lengths, mask, resets):
        def run(params, inputs, state):
            return rnn.dynamic_rnn(
                combination.case.cell, params, inputs, lengths, state, mask=mask, resets=resets,
                reverse=reverse, key=combination.case.key(),
                implementation=combination.engine,
            )  # fmt: skip

        return differentiated(run, params, inputs, state, gradients)

    def run(params, inputs, state, lengths=LENGTHS, mask=ALL, resets=~ALL):
        return jitted(params, inputs, state, lengths, mask, resets)

    return run


def differentiated(run, params, inputs, state, gradients=True):
    """`((outputs, state), gradients)` of a run; without `gradients`, `None` in their place."""
    if not gradients:
        return run(params, inputs, state), None

    def loss(*arguments):
        results = run(*arguments)
        return weighted_sum(results), results

    gradient = jax.value_and_grad(loss, (0, 1, 2), has_aux=True, allow_int=True)
    (_, results), found = gradient(params, inputs, state)
    return results, found


@functools.cache
def arguments(combination):
    """The params, inputs and initial state of a combination, in its dtype."""
    case, dtype = combination.case, combination.dtype
    with contextlib.nullcontext() if combination.x64 else jax.enable_x64(False):
        return jax.jit(lambda: (case.params(dtype), case.inputs(dtype), case.state(dtype)))()
