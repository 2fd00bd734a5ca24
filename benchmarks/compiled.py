"""A compiled run in JAX: the forward pass, and a training step (loss and gradients)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .problems import loss
from .timing import PASSES, Results, seconds


def _put_on_device(*arguments: Any) -> Any:
    return jax.device_put(arguments)


class Compiled:
    """Both programs of a run, compiled, with their compile time and memory.

    Args:
        run: `(weights, inputs, lengths) -> (outputs, states)`.
        weights: the weights that `run` takes.
        inputs, lengths: arrays with the shapes to compile for; the lengths are traced.
        what: the programs to compile.
        place: a function that puts `(weights, inputs, lengths)` on devices.

    Attributes:
        cost: `{"compile": seconds, "memory": bytes}` for `"forward"` and `"training"`: the time to
            trace and compile without caches, and the size of the temporary buffers.
    """

    def __init__(
        self,
        run: Callable,
        weights: Any,
        inputs: Any,
        lengths: Any,
        what: Sequence[str] = PASSES,
        place: Callable = _put_on_device,
    ):
        self.weights, self.place = weights, place
        self.feed(inputs, lengths)
        self.programs, self.cost = {}, {}
        for name in what:
            program = {"forward": run, "training": training_step(run)}[name]
            self.programs[name], self.cost[name] = _compile(program, self.arguments)

    def feed(self, inputs: Any, lengths: Any) -> None:
        """Sets the inputs of the next calls."""
        self.arguments = self.place(self.weights, inputs, lengths)
        self.weights = self.arguments[0]

    def forward(self) -> Any:
        """`(outputs, states)`; waits until they are computed."""
        return jax.block_until_ready(self.programs["forward"](*self.arguments))

    def training(self) -> Any:
        """`(loss, gradients of weights and inputs)`; waits until they are computed."""
        return jax.block_until_ready(self.programs["training"](*self.arguments))

    def seconds(self, what: str) -> float:
        """The time of one call: see `timing.seconds`."""
        return seconds(self, what)

    def results(self) -> Results:
        """The results of both programs."""
        outputs, states = self.forward()
        _, (_, gradient) = self.training()
        return Results(*jax.tree.map(np.asarray, (outputs, list(states), gradient)))


def training_step(run: Callable) -> Callable:
    """A function that computes the loss of a run and its gradients of weights and inputs."""

    def step(weights, inputs, lengths):
        def loss_of_run(weights, inputs):
            return loss(*run(weights, inputs, lengths), lengths)

        return jax.value_and_grad(loss_of_run, (0, 1))(weights, inputs)

    return step


def _compile(program: Callable, arguments: tuple) -> tuple[Any, dict[str, float]]:
    jax.clear_caches()  # compile times must not profit from what was traced before
    start = time.perf_counter()
    compiled = jax.jit(program).lower(*arguments).compile()
    elapsed = time.perf_counter() - start
    memory = compiled.memory_analysis().temp_size_in_bytes
    return compiled, {"compile": round(elapsed, 3), "memory": memory}


def warm_up() -> None:
    """Compiles a small program, so that no implementation pays for the first compilation."""

    def step(x, _):
        return jnp.tanh(x), x

    def run(x):
        return jax.lax.scan(step, x, None, 3)[0]

    _compile(jax.grad(run), (1.0,))
