"""A staged cell in parts: what a fast engine computes for many steps at once, and what it does not.

The `weights` of the parts are invariants of the loop, made of the params once: the slices
of kernels that are multiplied, and vectors. `n` is a number of rows in the shapes below.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.core
import jax.numpy as jnp

from .._cell import Cell, run_stages
from ._hoist import hoist
from ._sums import Sum, sums
from .call import Call, spread, varying


@dataclasses.dataclass(frozen=True)
class Weights:
    """Invariants of the loop."""

    project: list[jax.Array]
    """What `Cell.project` wants of the params."""
    kernels: list[jax.Array]
    """What is multiplied between the stages."""
    between: list[jax.Array]
    """What the arithmetic between the matmuls wants."""


jax.tree_util.register_dataclass(Weights, ["project", "kernels", "between"], [])


class Parts(Cell):
    """A cell whose params are `Weights`; made for one structure of params."""

    def __init__(self, cell: Any, params: Any):
        self.cell = cell
        self.params = jax.tree.map(jax.typeof, params)
        self._hoisted: dict[Any, Any] = {}

    def weights(self, params: Any, inputs: Any, state: Any) -> Weights:
        """The invariants; `inputs` and `state` are examples of any number of rows."""
        project, _ = hoist(self.cell.project, params, inputs)
        projected = jax.eval_shape(self.cell.project, params, inputs)
        recurred = self.recurred(projected, state)
        between, _ = hoist(self._between, params, projected, state, recurred)
        return Weights(project(params), self._kernels(params, projected, state), between(params))

    def project(self, weights: Weights, inputs: Any) -> Any:
        """`[n, D]` -> the projected inputs."""
        return self._rest(self.cell.project, inputs)(weights.project, inputs)

    def project_steps(self, weights: Weights, inputs: Any) -> Any:
        """`[n, m, D]` -> the projected inputs of all, as one matmul."""
        shape = jax.tree.leaves(inputs)[0].shape[:2]
        projected = self.project(weights, jax.tree.map(flat, inputs))
        return jax.tree.map(lambda p: p.reshape(*shape, *p.shape[1:]), projected)

    def between(
        self, weights: list[jax.Array], projected: Any, state: Any, recurred: list[jax.Array]
    ) -> tuple[list[jax.Array], Any, Any]:
        """All arithmetic, given the results of all matmuls -> `(multiplied, output, new_state)`.

        Of `multiplied`, what the kernels multiply, number i depends on the results before i.
        """
        given = projected, state, recurred
        return self._rest(self._between, *given)(weights, *given)

    def _rest(self, f: Callable, *arguments: Any) -> Callable:
        """What `hoist` leaves of `f`, which is traced once."""
        leaves, structure = jax.tree.flatten(arguments)
        key = f, structure, tuple(map(_type, leaves))
        if key not in self._hoisted:
            self._hoisted[key] = hoist(f, self.params, *arguments)[1]
        return self._hoisted[key]

    def step(self, weights: Weights, projected: Any, state: Any, *, key: Any = None) -> Any:
        """One step, for an engine that knows nothing of parts."""
        output, new, _ = self.steps(weights, projected, state)
        del key
        return output, new

    def steps(self, weights: Weights, projected: Any, state: Any) -> tuple[Any, Any, list]:
        """One step -> `(output, new_state, recurred)`."""
        recurred: list[jax.Array] = []
        zeros = self.recurred(projected, state)
        given = [jnp.zeros(z.shape, z.dtype) for z in zeros]
        for i, kernel in enumerate(weights.kernels):
            multiplied, _, _ = self.between(weights.between, projected, state, given)
            given[i] = multiplied[i] @ kernel
            recurred.append(given[i])
        _, output, new = self.between(weights.between, projected, state, given)
        return output, new, recurred

    def sums(self, projected: Any, state: Any, recurred: list) -> tuple[Sum, ...]:
        """Where a step adds a matmul's result to the projected inputs, and does no more."""
        given = (self.params, projected, state, recurred)
        jaxpr = jax.make_jaxpr(self._between)(*given).jaxpr
        variables = iter(jaxpr.invars)
        _, own, _, theirs = [
            list(itertools.islice(variables, len(jax.tree.leaves(part)))) for part in given
        ]
        return sums(jaxpr, own, theirs)

    def _between(self, params: Any, projected: Any, state: Any, recurred: list) -> Any:
        multiplied: list[jax.Array] = []

        def multiply(i, x, kernel):
            multiplied.append(x)
            return recurred[i]

        output, new = run_stages(self.cell.stages(params, projected, state), multiply)
        return multiplied, output, new

    def recurred(self, projected: Any, state: Any) -> list[jax.Array]:
        """The results of all matmuls, by shape and dtype."""

        def run(params, projected, state):
            results: list[jax.Array] = []

            def multiply(i, x, kernel):
                results.append(x @ kernel)
                return results[-1]

            run_stages(self.cell.stages(params, projected, state), multiply)
            return results

        return jax.eval_shape(run, self.params, projected, state)

    def _kernels(self, params: Any, projected: Any, state: Any) -> list[jax.Array]:
        kernels: list[jax.Array] = []
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (projected, state))

        def multiply(i, x, kernel):
            kernels.append(kernel)
            return x @ kernel

        run_stages(self.cell.stages(params, *zeros), multiply)
        return kernels


def flat(x: jax.Array) -> jax.Array:
    """`[n, m, ...]` -> `[n * m, ...]`."""
    return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])


def _type(x: Any) -> Any:
    return x if isinstance(x, jax.ShapeDtypeStruct) else jax.typeof(x)


def closes_over(call: Call) -> bool:
    """Whether a step uses arrays that are no arguments of it, in a way that passes do not allow.

    Of what is being traced only plain JAX has a derivative. For several devices the passes are
    partitioned by a function that takes no constants.
    """

    def step(params, inputs, state):
        return call.cell.step(params, call.cell.project(params, inputs), state)

    closed = jax.make_jaxpr(step)(call.params, *_one_row(call))
    if closed.consts and jax.device_count() > 1:
        return True
    return any(isinstance(x, jax.core.Tracer) for x in closed.consts)


def in_parts(call: Call) -> tuple[Parts, Call]:
    """The call with a cell of `Weights`, all arrays varying over the same mesh axes."""
    axes = varying(call)
    call = jax.tree.map(lambda x: spread(x, axes), dataclasses.replace(call, key=None))
    parts = Parts(call.cell, call.params)
    weights = parts.weights(call.params, *_one_row(call))
    return parts, dataclasses.replace(call, cell=parts, params=weights)


def _one_row(call: Call) -> tuple[Any, Any]:
    """Inputs of one step, and a state."""
    inputs = jax.tree.map(lambda x: x[:1, 0], call.inputs)
    return inputs, jax.tree.map(lambda s: s[:1], call.initial_state)
