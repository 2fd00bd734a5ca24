"""What the laws run over: cells by engines by dtypes, and how results are compared."""

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
MASK = np.array([[1, 0, 1, 1, 1], [0, 1, 1, 0, 1], [1, 1, 1, 1, 1], [1, 1, 0, 1, 1]], bool)
RESETS = np.array([[0, 1, 0, 1, 0], [1, 0, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 1, 0, 1]], bool)
EMITTERS = "xla_cpu_use_fusion_emitters"
AS_USERS = {EMITTERS: True} if EMITTERS in os.environ.get("XLA_FLAGS", "") else None
"""For `jax.jit`: what is fused is compiled as users have it, whatever conftest.py says."""
MARGIN = 1.5
"""In 16 bit a run may be this much further from the one in float64 than the reference is."""


@dataclasses.dataclass(frozen=True)
class Law:
    """One point of the product that the laws run over."""

    case: Case
    engine: str
    dtype: str
    x64: bool = True
    gradients: bool = True
    """Whether reversed and vmapped runs are differentiated too."""

    def __str__(self):
        return f"{self.case.name}-{self.engine}-{self.dtype}" + ("" if self.x64 else "-no_x64")

    @property
    def tolerance(self):
        """Of `max|a - b| <= tolerance * (1 + max|b|)`, engines and references alike.

        In 16 bit set from first runs of all laws: mostly `scan` agreed with the reference to
        the last bit; the largest difference seen was 2.7 roundings, in a gradient of `emit`. A
        norm of few units magnifies roundings more, on some machines: there `MARGIN` decides.
        """
        return {"float64": 1e-12, "float32": 1e-5, "bfloat16": 4 * 2**-8, "float16": 4 * 2**-11}[
            self.dtype
        ]


def every_law(full):
    """Everyday: every cell with `scan`, core cells with every engine; else the product."""
    if not full:
        return [
            Law(case, engine, "float64", gradients=case.core)
            for case in CASES
            for engine in (able(case) if case.core else ["scan"])
        ]
    both = [(case, engine) for case in CASES for engine in able(case)]
    dtypes = ("float64", "float32", "bfloat16", "float16")
    wide = [Law(case, engine, dtype) for case, engine in both for dtype in dtypes]
    return wide + [Law(case, engine, "float32", x64=False) for case, engine in both]


def able(case):
    """The engines that can run a case."""
    key = case.key()
    shapes = jax.eval_shape(lambda: (case.params("float64"), case.inputs("float64")))
    reasons = rnn.explain(case.cell, *shapes, LENGTHS, key=key).reasons
    return [name for name, reason in reasons.items() if reason is None]


def close(actual, expected, tolerance, exact=None):
    """Asserts `max|a - b| <= tolerance * (1 + max|b|)`, leaf by leaf.

    Where `exact`, a function, gives what both round, a leaf that is further from the expected one
    is compared with that instead: it may be off by `MARGIN` times what the expected one is off.
    """
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    leaves = jax.tree_util.tree_flatten_with_path(expected)[0]
    for i, (a, (path, b)) in enumerate(zip(jax.tree.leaves(actual), leaves, strict=True)):
        if getattr(b, "dtype", None) == jax.dtypes.float0:
            continue
        a, b = np.asarray(a), np.asarray(b)
        assert a.shape == b.shape, (jax.tree_util.keystr(path), a.shape, b.shape)
        if a.size == 0:
            continue
        a, b = a.astype(np.float64), b.astype(np.float64)
        error, bound = np.abs(a - b).max(), tolerance * (1 + np.abs(b).max())
        if error > bound and exact is not None:
            true = np.asarray(jax.tree.leaves(exact())[i])
            error, bound = np.abs(a - true).max(), MARGIN * np.abs(b - true).max()
        assert error <= bound, f"{jax.tree_util.keystr(path)}: {error} > {bound}"


def weighted_sum(tree, xp=jnp):
    """A scalar that depends on every floating number in the tree, each in its own way.

    With `xp=np` in NumPy: what is not traced is not compiled.
    """
    wide = jnp.result_type(float)
    total = xp.zeros((), wide)
    for i, x in enumerate(map(xp.asarray, jax.tree.leaves(tree))):
        if jnp.issubdtype(x.dtype, jnp.floating):
            weights = xp.asarray(np.cos(1.0 + i + np.arange(x.size)).reshape(x.shape), wide)
            total = total + (x.astype(wide) * weights).sum()
    return total


@functools.cache
def compiled(law, reverse=False, gradients=True):
    """A compiled run of a law's cell: `-> ((outputs, state), gradients)`.

    The gradients are of a weighted sum of all results, by params, inputs and state. One
    compilation serves many laws: steps are always masked, and resets there, if all False. Without
    x64 XLA compiles as it does for users: see conftest.py.
    """
    options = None if law.x64 else AS_USERS

    @functools.partial(jax.jit, compiler_options=options)
    def jitted(params, inputs, state, lengths, mask, resets):
        def run(params, inputs, state):
            return rnn.dynamic_rnn(
                law.case.cell, params, inputs, lengths, state, mask=mask, resets=resets,
                reverse=reverse, key=law.case.key(),
                implementation=law.engine,
            )  # fmt: skip

        return differentiated(run, params, inputs, state, gradients)

    def run(params, inputs, state, lengths=LENGTHS, mask=ALL, resets=~ALL):
        return jitted(params, inputs, state, lengths, mask, resets)

    return run


def differentiated(run, params, inputs, state, gradients=True):
    """`((outputs, state), gradients)` of a run; without them `None` in their place."""
    if not gradients:
        return run(params, inputs, state), None

    def loss(*arguments):
        results = run(*arguments)
        return weighted_sum(results), results

    gradient = jax.value_and_grad(loss, (0, 1, 2), has_aux=True, allow_int=True)
    (_, results), found = gradient(params, inputs, state)
    return results, found


@functools.cache
def arguments(law):
    """Params, inputs and initial state of a law."""
    case, dtype = law.case, law.dtype
    with contextlib.nullcontext() if law.x64 else jax.enable_x64(False):
        return jax.jit(lambda: (case.params(dtype), case.inputs(dtype), case.state(dtype)))()
