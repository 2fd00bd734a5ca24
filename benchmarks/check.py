"""That all compute the same thing: no figure is taken of one that does not."""

from __future__ import annotations

from typing import Any

import numpy as np

from .compiled import Compiled
from .grid import Problem
from .timing import Results

BOUND = 1e-4
"""Of an error, relative to the largest number that was expected."""


def check(
    implementations: dict[str, Any], problem: Problem, run: Any, inputs: Any, lengths: Any
) -> None:
    """Holds every implementation to ours.

    Only valid outputs are compared: in the padding Flax has what the cell makes of it, and Keras
    repeats the last output. Of an implementation that has the last h of an LSTM and no c (PyTorch,
    padded), the gradient is compared with that of our scalar without c.

    Args:
        implementations: those of a problem, `"ours"` among them, fed.
        problem: for the messages.
        run: of ours, as a `Compiled` takes it.
        inputs, lengths: what they were fed with.

    Raises:
        ValueError: one of them computes something else; the message says which, what, how much.
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
    """What `check` would say, of each implementation that computes something else."""
    expected, found = {None: implementations["ours"].results()}, {}
    for name, implementation in implementations.items():
        try:
            got = implementation.results()
        except RuntimeError as error:  # of an accelerator
            found[name] = f"{problem}: {name}: {error}"
            continue
        lacks = len(got.states) < len(expected[None].states)
        if lacks and "h" not in expected:
            alone = Compiled(_without_c(run), implementations["ours"].weights, inputs, lengths)
            expected["h"] = alone.results()
        try:
            compare(got, expected["h" if lacks else None], lengths, f"{problem}: {name}", bound)
        except ValueError as error:
            found[name] = str(error)
    return found


def compare(
    got: Results, expected: Results, lengths: Any, where: str, bound: float = BOUND
) -> None:
    """Raises a `ValueError` that begins with `where` if the results differ."""
    pairs = {
        "outputs": (_valid(got.outputs, lengths), _valid(expected.outputs, lengths)),
        "gradient by the inputs": (got.gradient, expected.gradient),
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
        if not error <= most:
            raise ValueError(f"{where}: expected {what} as ours within {most:.1e}, got {error:.1e}")


def _valid(outputs: np.ndarray, lengths: np.ndarray | None) -> np.ndarray:
    """The outputs with 0 in the padding."""
    if lengths is None:
        return outputs
    return np.where((np.arange(outputs.shape[-2]) < lengths[..., None])[..., None], outputs, 0)


def _without_c(run: Any) -> Any:
    def h_alone(*arguments):
        outputs, (_, h) = run(*arguments)
        return outputs, [h]

    return h_alone
