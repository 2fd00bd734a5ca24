"""Checks that all implementations compute the same results; one that does not is not timed."""

from __future__ import annotations

from typing import Any

import numpy as np

from .compiled import Compiled
from .grid import Problem
from .timing import Results

BOUND = 1e-4
"""The largest error, relative to the largest expected element."""


def check(
    implementations: dict[str, Any], problem: Problem, run: Any, inputs: Any, lengths: Any
) -> None:
    """Compares the results of every implementation with ours.

    Only valid outputs are compared: in the padding Flax returns the cell's output on the padding,
    and Keras repeats the last output. PyTorch, padded, returns the last h of an LSTM and no c. Its
    gradient is compared with that of our loss without c.

    Args:
        implementations: those of a problem, including `"ours"`, with their inputs set.
        problem: for the messages.
        run: our run, as a `Compiled` takes it.
        inputs, lengths: the inputs of all implementations.

    Raises:
        ValueError: the results of one differ; the message says which, where, and by how much.
    """
    for said in disagreeing(implementations, problem, run, inputs, lengths).values():
        raise ValueError(said)


def disagreeing(
    implementations: dict[str, Any],
    problem: Problem,
    run: Any,
    inputs: Any,
    lengths: Any,
    bound: float = BOUND,
) -> dict[str, str]:
    """The message of `check` for each implementation whose results differ."""
    expected, found = {None: implementations["ours"].results()}, {}
    for name, implementation in implementations.items():
        try:
            got = implementation.results()
        except RuntimeError as error:  # raised by the runtime of an accelerator
            found[name] = f"{problem}: {name}: {error}"
            continue
        lacks_c = len(got.states) < len(expected[None].states)
        if lacks_c and "h" not in expected:  # compiled only if some implementation needs it
            h_only = Compiled(_without_c(run), implementations["ours"].weights, inputs, lengths)
            expected["h"] = h_only.results()
        try:
            compare(got, expected["h" if lacks_c else None], lengths, f"{problem}: {name}", bound)
        except ValueError as error:
            found[name] = str(error)
    return found


def compare(
    got: Results, expected: Results, lengths: Any, where: str, bound: float = BOUND
) -> None:
    """Raises a `ValueError` that begins with `where` if the results differ."""
    pairs = {
        "outputs": (_valid(got.outputs, lengths), _valid(expected.outputs, lengths)),
        "gradient with respect to the inputs": (got.gradient, expected.gradient),
    }
    if len(got.states) != len(expected.states):
        raise ValueError(
            f"{where}: expected {len(expected.states)} final states, got {len(got.states)}"
        )
    for i, states in enumerate(zip(got.states, expected.states, strict=True)):
        pairs[f"final state {i}"] = states
    for what, (a, b) in pairs.items():
        if a.shape != b.shape:
            raise ValueError(f"{where}: expected {what} of shape {b.shape}, got {a.shape}")
        a, b = (np.asarray(x, np.float64) for x in (a, b))
        error, most = np.abs(a - b).max(), bound * np.abs(b).max()
        if not error <= most:  # also true for NaN
            raise ValueError(f"{where}: expected {what} as ours within {most:.1e}, got {error:.1e}")


def _valid(outputs: np.ndarray, lengths: np.ndarray | None) -> np.ndarray:
    """The outputs, with zeros in the padding."""
    if lengths is None:
        return outputs
    return np.where((np.arange(outputs.shape[-2]) < lengths[..., None])[..., None], outputs, 0)


def _without_c(run: Any) -> Any:
    """The run of an LSTM with h as its only final state."""

    def run_without_c(*arguments):
        outputs, (_, h) = run(*arguments)
        return outputs, [h]

    return run_without_c
