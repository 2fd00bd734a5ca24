"""A run in JAX, compiled: forward, and with value and gradient of the scalar."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .problems import loss
from .timing import WHAT, Results, seconds


class Compiled:
    """Both programs of a run, and what they cost before they ran.

    Args:
        run: `(weights, inputs, lengths) -> (outputs, states)`.
        weights: what it takes.
        inputs, lengths: of the shapes that are compiled for; the lengths are traced.
        what: which programs.
        place: puts `(weights, inputs, lengths)` where they are to be.

    Attributes:
        cost: `{"compile": seconds, "memory": bytes}` of `"forward"` and `"training"`: of tracing
            and compiling with no caches, and of the temporary buffers.
    """

    def __init__(
        self,
        run: Callable,
        weights: Any,
        inputs: Any,
        lengths: Any,
        what: Sequence[str] = WHAT,
        place: Callable = lambda *arguments: jax.device_put(arguments),
    ):
        self.weights, self.place = weights, place
        self.feed(inputs, lengths)
        self.programs, self.cost = {}, {}
        for name in what:
            program = {"forward": run, "training": training_step(run)}[name]
            self.programs[name], self.cost[name] = _compile(program, self.arguments)

    def feed(self, inputs: Any, lengths: Any) -> None:
        """What the next calls take."""
        self.arguments = self.place(self.weights, inputs, lengths)
        self.weights = self.arguments[0]

    def forward(self) -> Any:
        """`(outputs, states)`, when they are there."""
        return jax.block_until_ready(self.programs["forward"](*self.arguments))

    def training(self) -> Any:
        """`(value, gradients by weights and inputs)`, when they are there."""
        return jax.block_until_ready(self.programs["training"](*self.arguments))

    def seconds(self, what: str) -> float:
        """Of one call in a turn."""
        return seconds(self, what)

    def results(self) -> Results:
        """What it computes, of both programs."""
        outputs, states = self.forward()
        _, (_, gradient) = self.training()
        return Results(*jax.tree.map(np.asarray, (outputs, list(states), gradient)))


def training_step(run: Callable) -> Callable:
    """The scalar of a run and its gradients by weights and inputs."""

    def step(weights, inputs, lengths):
        return jax.value_and_grad(lambda w, x: loss(*run(w, x, lengths), lengths), (0, 1))(
            weights, inputs
        )

    return step


def _compile(program: Callable, arguments: tuple) -> tuple[Any, dict[str, float]]:
    jax.clear_caches()
    start = time.perf_counter()
    compiled = jax.jit(program).lower(*arguments).compile()
    elapsed = time.perf_counter() - start
    memory = compiled.memory_analysis().temp_size_in_bytes
    return compiled, {"compile": round(elapsed, 3), "memory": memory}


def warm_up() -> None:
    """Compiles something: what the first compilation of a process costs is nobody's."""
    step = lambda x, _: (jnp.tanh(x), x)  # noqa: E731
    _compile(jax.grad(lambda x: jax.lax.scan(step, x, None, 3)[0]), (1.0,))
