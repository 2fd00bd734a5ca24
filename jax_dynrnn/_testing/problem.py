"""A cell with random params and inputs, and its compiled runs.

The laws vary lengths, inputs and states, but not shapes: one compilation serves most of them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._adapter import as_cell
from .._cell import PREPARE
from .._features import feature_shapes
from .._rnn import dynamic_rnn
from .._tools import depends_on_last, fold_in, map_shapes, unboxed
from .._types import DTypeLike, Inputs, Key, Lengths, Params, PyTree, Shapes, State
from .compare import Broken, described

B, T, CUT = 4, 5, 3
"""The number of rows and of steps of every run, and the step near which runs are split."""

MIXED = np.array([T, CUT, 1, 0], np.int32)
"""Lengths that differ, among them 0 and T."""
ALL = np.full(B, T, np.int32)
"""Lengths with which all steps are valid."""

LARGE_ID = 10**6
"""An id outside of any table: what the padding of ids is filled with."""

GRADIENTS = tuple(
    f"gradient with respect to {name}" for name in ("params", "inputs", "initial_state")
)
"""The names of the gradients among the results."""


class Problem:
    """A cell with random params and inputs, drawn from `key`, and its runs.

    Arrays are NumPy's, so that operations on them between runs are not compiled.
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
        """The tolerance of `max|a - b| <= tolerance * (1 + max|b|)`: rounding over a few steps."""
        return {8: 1e-10, 4: 2e-5}.get(self.dtype.itemsize, 16 * float(jnp.finfo(self.dtype).eps))

    def init(self, *leading: int) -> Any:
        """New params, from shapes with the sizes `leading` before the features."""
        shapes = map_shapes(lambda s: (*leading, *s), self.features)
        return unboxed(self.cell.init(self.key, shapes, self.dtype))

    @functools.cached_property
    def params(self) -> Any:
        """The params of `init`, with constant arrays perturbed: biases of 0 and scales of 1.

        Otherwise a missing bias would make no difference.
        """
        try:
            params = jax.jit(lambda: self.init(B, T))()
        except Exception:  # the law `structure` reports an `init` that cannot be traced
            params = self.init(B, T)

        def perturb(x):
            x = np.asarray(x)
            if not x.size or not jnp.issubdtype(x.dtype, jnp.floating) or (x != x.flat[0]).any():
                return x
            return x + (0.1 * self.random.normal(size=x.shape)).astype(x.dtype)

        return jax.tree.map(perturb, params)

    @functools.cached_property
    def takes_ids(self) -> bool:
        """Whether the inputs of the cell are integers: it fails on floats but not on integers."""

        def fails(dtype):
            inputs = map_shapes(lambda s: jax.ShapeDtypeStruct((B, *s), dtype), self.features)
            try:
                jax.eval_shape(self.take_step, self.params, inputs, self.start)
            except Exception:  # the user's code may raise anything; `structure` reports it
                return True
            return False

        return fails(self.dtype) and not fails(jnp.int32)

    def new_inputs(self) -> Any:
        """Random inputs `[B, T, ...]`; ids are 0 or 1, which any table has."""

        def draw(shape):
            if self.takes_ids:
                return self.random.integers(2, size=shape).astype(np.int32)
            return self.random.normal(size=shape).astype(self.dtype)

        return map_shapes(draw, self.shapes)

    @functools.cached_property
    def inputs(self) -> Any:
        return self.new_inputs()

    @functools.cached_property
    def other_inputs(self) -> Any:
        return self.new_inputs()

    def inputs_at(self, t: int) -> Any:
        """The inputs of step `t`, `[B, ...]`."""

        def take(x):
            return x[:, t]

        return jax.tree.map(take, self.inputs)

    @functools.cached_property
    def start(self) -> Any:
        """The start state of a run."""
        start = self.cell.start(self.params, (B,), self.dtype)
        # By way of JAX: a Python number becomes int64 or float64 in NumPy alone.
        return jax.tree.map(lambda s: np.asarray(jnp.asarray(s)), start)

    @functools.cached_property
    def later(self) -> Any:
        """The state after a few steps: some cells are not differentiable at their start state."""
        return self.values(np.full(B, CUT, np.int32), self.other_inputs)["state"]

    def take_step(
        self, params: Params, inputs: Inputs, state: State, key: Key = None, t: int = 0
    ) -> Any:
        """Takes one step as a run does, at step `t` with its `inputs`."""
        cell = self.cell
        params, inputs, state = jax.tree.map(jnp.asarray, (params, inputs, state))
        params = cell.prepare(params, key=fold_in(key, PREPARE), batch_shape=(B,))
        return cell.step(params, cell.project(params, inputs), state, key=fold_in(key, t))

    def values(
        self, lengths: Lengths = ALL, inputs: Inputs = None, state: State = None, key: Key = None
    ):
        """The results of a run by `scan`: `{"outputs": ..., "state": ...}`."""
        inputs = self.inputs if inputs is None else inputs
        state = self.start if state is None else state
        run = self._program(self._run, "scan", self.dtype, key is not None)
        return jax.device_get(run(self.params, inputs, state, lengths, key))

    def gradients(
        self, lengths: Lengths, inputs: Inputs, state: State, *, params: Params = None,
        key: Key = None, engine: str = "scan", dtype: DTypeLike | None = None,
    ) -> Any:  # fmt: skip
        """The results of a run with an engine, with the `loss` and its gradients."""
        run = self._program(self._gradients, engine, dtype or self.dtype, key is not None)
        params = self.params if params is None else params
        try:
            return jax.device_get(run(params, inputs, state, lengths, key))
        except Exception as error:
            self.values(key=key)  # if the cell cannot run at all, that error is the one to report
            raise Broken(f"there is no gradient: {described(error)}", "gradients") from error

    def _program(
        self, f: Callable[..., Any], engine: str, dtype: DTypeLike, keyed: bool
    ) -> Callable[..., Any]:
        """`f` under `jax.jit`, cached: the same object is compiled once for each set of shapes."""
        name = f.__name__, engine, jnp.dtype(dtype), keyed
        if name not in self._programs:
            self._programs[name] = jax.jit(functools.partial(f, engine, dtype))
        return self._programs[name]

    def _run(self, engine: str, dtype: DTypeLike, params, inputs, state, lengths, key) -> Any:
        outputs, final = dynamic_rnn(
            self.given, params, inputs, lengths, state, dtype=dtype, key=key,
            implementation=engine,  # pyright: ignore[reportArgumentType]  # any name in the table
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
    """A loss that depends on every floating element, with a weight of its own.

    The weight depends on the indices of the element alone, not on the shape: the loss of a padded
    run, whose outputs are 0 in the padding, equals that of the truncated run.
    """
    total = jnp.zeros((), jnp.result_type(float))
    for i, x in enumerate(jax.tree.leaves(results)):
        if jnp.issubdtype(x.dtype, jnp.floating):
            indices = np.indices(x.shape)
            factors = np.arange(1, x.ndim + 1).reshape(-1, *(1,) * x.ndim)
            weights = np.cos(1.0 + i + (indices * factors).sum(0))
            total = total + (x.astype(total.dtype) * jnp.asarray(weights, total.dtype)).sum()
    return total


def uses_key(problem: Problem) -> bool:
    """Whether the cell draws: whether the results of a step depend on its key."""
    inputs = problem.inputs_at(0)

    def step(key):
        return problem.take_step(problem.params, inputs, problem.start, key)

    return depends_on_last(step, problem.key)
