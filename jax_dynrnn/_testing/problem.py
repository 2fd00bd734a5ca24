"""A cell with arguments to run it on, and its compiled runs.

A law changes lengths, inputs or states, not shapes: one compilation serves most of them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._cell import PREPARE, as_cell, feature_shapes
from .._rnn import dynamic_rnn
from .._tools import depends_on_last, fold_in, map_shapes, unboxed
from .._types import DTypeLike, Inputs, Key, Lengths, Params, PyTree, Shapes, State
from .compare import Broken, described

B, T, CUT = 4, 5, 3
"""The rows and steps of every run; where runs are cut."""

MIXED = np.array([T, CUT, 1, 0], np.int32)
ALL = np.full(B, T, np.int32)

LARGE_ID = 10**6

GRADIENTS = tuple(
    f"gradient with respect to {name}" for name in ("params", "inputs", "initial_state")
)
"""The names of the gradients among the results."""


class Problem:
    """A cell, random params and inputs, and its runs. The seed is `key`.

    Arrays are NumPy's: what is done with them between runs is not compiled.
    """

    def __init__(self, cell: Any, input_shape: Shapes, key: jax.Array, dtype: DTypeLike):
        self.given = cell
        self.cell = as_cell(cell)
        self.key = key
        self.dtype = jnp.dtype(dtype)
        self.features = feature_shapes(self.cell, input_shape)
        self.shapes = map_shapes(lambda s: (B, T, *s), self.features)
        self.random = np.random.default_rng(int(jax.random.bits(key, dtype="uint32")))
        self._programs: dict[tuple[Any, ...], Callable[..., Any]] = {}

    @property
    def tolerance(self) -> float:
        """Of `max|a - b| <= tolerance * (1 + max|b|)`: some roundings of a few steps."""
        return {8: 1e-10, 4: 2e-5}.get(self.dtype.itemsize, 16 * float(jnp.finfo(self.dtype).eps))

    def init(self, *leading: int) -> Any:
        """What the cell makes, of shapes with `leading` sizes before the features."""
        shapes = map_shapes(lambda s: (*leading, *s), self.features)
        return unboxed(self.cell.init(self.key, shapes, self.dtype))

    @functools.cached_property
    def params(self) -> Any:
        """Those that the cell makes. Biases of zeros and scales of ones are moved a little."""
        try:
            params = jax.jit(lambda: self.init(B, T))()
        except Exception:  # structure says that it cannot be traced
            params = self.init(B, T)

        def move(x):
            x = np.asarray(x)
            if not jnp.issubdtype(x.dtype, jnp.floating) or (x != x.flat[0]).any():
                return x
            return x + (0.1 * self.random.normal(size=x.shape)).astype(x.dtype)

        return jax.tree.map(lambda x: move(x) if jnp.size(x) else np.asarray(x), params)

    @functools.cached_property
    def takes_ids(self) -> bool:
        """Whether the cell takes integers: it fails on floats, and does not on them."""

        def fails(dtype):
            one = map_shapes(lambda s: jax.ShapeDtypeStruct((B, *s), dtype), self.features)
            try:
                jax.eval_shape(self.take_step, self.params, one, self.start)
            except Exception:  # of the code of a user: structure says what is wrong
                return True
            return False

        return fails(self.dtype) and not fails(jnp.int32)

    def new_inputs(self) -> Any:
        """Random inputs `[B, T, ...]`; ids are 0 or 1."""

        def leaf(shape):
            if self.takes_ids:
                return self.random.integers(2, size=shape).astype(np.int32)
            return self.random.normal(size=shape).astype(self.dtype)

        return map_shapes(leaf, self.shapes)

    @functools.cached_property
    def inputs(self) -> Any:
        return self.new_inputs()

    @functools.cached_property
    def other_inputs(self) -> Any:
        return self.new_inputs()

    @functools.cached_property
    def start(self) -> Any:
        """Where a run begins."""
        start = self.cell.start(self.params, (B,), self.dtype)
        return jax.tree.map(lambda s: np.asarray(jnp.asarray(s)), start)  # in the dtypes of JAX

    @functools.cached_property
    def later(self) -> Any:
        """A state that a run comes to, for derivatives: at its start some have none."""
        return self.values(np.full(B, CUT, np.int32), self.other_inputs)["state"]

    def take_step(
        self, params: Params, inputs: Inputs, state: State, key: Key = None, t: int = 0
    ) -> Any:
        """One step as a run takes it: `inputs` are those of step `t`."""
        cell = self.cell
        params, inputs, state = jax.tree.map(jnp.asarray, (params, inputs, state))
        params = cell.prepare(params, key=fold_in(key, PREPARE), batch_shape=(B,))
        return cell.step(params, cell.project(params, inputs), state, key=fold_in(key, t))

    def values(
        self, lengths: Lengths = ALL, inputs: Inputs = None, state: State = None, key: Key = None
    ):
        """`{"outputs": ..., "state": ...}` of a run by `scan`."""
        inputs = self.inputs if inputs is None else inputs
        state = self.start if state is None else state
        run = self._program(self._run, "scan", self.dtype, key is not None)
        return jax.device_get(run(self.params, inputs, state, lengths, key))

    def gradients(
        self, lengths: Lengths, inputs: Inputs, state: State, *, params: Params = None,
        key: Key = None, engine: str = "scan", dtype: DTypeLike | None = None,
    ) -> Any:  # fmt: skip
        """As `values`, with `loss` and the gradients of it."""
        run = self._program(self._gradients, engine, dtype or self.dtype, key is not None)
        params = self.params if params is None else params
        try:
            return jax.device_get(run(params, inputs, state, lengths, key))
        except Exception as error:
            self.values(key=key)  # what cannot be run breaks another law
            raise Broken(f"there is no gradient: {described(error)}", "gradients") from error

    def _program(
        self, f: Callable[..., Any], engine: str, dtype: DTypeLike, keyed: bool
    ) -> Callable[..., Any]:
        """`f` under jit, which compiles it once for each set of shapes."""
        name = f.__name__, engine, jnp.dtype(dtype), keyed
        if name not in self._programs:
            self._programs[name] = jax.jit(functools.partial(f, engine, dtype))
        return self._programs[name]

    def _run(self, engine: str, dtype: DTypeLike, params, inputs, state, lengths, key) -> Any:
        outputs, final = dynamic_rnn(
            self.given, params, inputs, lengths, state, dtype=dtype, key=key,
            implementation=engine,
        )  # fmt: skip
        return {"outputs": outputs, "state": final}

    def _gradients(self, engine: str, dtype: DTypeLike, params, inputs, state, lengths, key) -> Any:
        def loss(params, inputs, state):
            results = self._run(engine, dtype, params, inputs, state, lengths, key)
            return weighted_sum(results), results

        gradient = jax.value_and_grad(loss, (0, 1, 2), has_aux=True, allow_int=True)
        (total, results), found = gradient(params, inputs, state)
        return results | {"loss": total} | dict(zip(GRADIENTS, found, strict=True))


def weighted_sum(results: PyTree) -> jax.Array:
    """A scalar that depends on every floating element, each in its own way.

    The weight of an element does not depend on how many others there are: sums over truncated and
    over padded results, where those are 0, are equal.
    """
    total = jnp.zeros((), jnp.result_type(float))
    for i, x in enumerate(jax.tree.leaves(results)):
        if jnp.issubdtype(x.dtype, jnp.floating):
            places = np.indices(x.shape)
            factors = np.arange(1, x.ndim + 1).reshape(-1, *(1,) * x.ndim)
            weights = np.cos(1.0 + i + (places * factors).sum(0))
            total = total + (x.astype(total.dtype) * jnp.asarray(weights, total.dtype)).sum()
    return total


def uses_key(problem: Problem) -> bool:
    """Whether a step draws: whether its results depend on the key that it is given."""
    one = jax.tree.map(lambda x: x[:, 0], problem.inputs)

    def step(key):
        return problem.take_step(problem.params, one, problem.start, key)

    return depends_on_last(step, problem.key)
