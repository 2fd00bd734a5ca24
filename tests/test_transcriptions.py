"""Cells agree with NumPy transcriptions of their equations, in results and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from cases import B, T
from laws import arguments, close, compiled, weighted_sum

FULL = np.full(B, T, np.int32)


def is_transcribed(combination):
    """Whether the cell has a transcription: those draw nothing, and compute in float64."""
    case = combination.case
    in_64_bits = combination.dtype == "float64"
    return reference.is_transcribed(case.cell) and not case.keyed and in_64_bits


pytestmark = pytest.mark.where.with_args(is_transcribed)


def run(case, params, inputs, state):
    """Runs all steps of the transcription, in NumPy."""
    outputs = []
    for t in range(T):
        x = jax.tree.map(lambda x, t=t: x[:, t], inputs)
        output, state = reference.step(case.cell, params, x, state)
        outputs.append(output)
    return jax.tree.map(lambda *y: np.stack(y, 1), *outputs), state


def test_results(combination):
    """Outputs and final state agree with the transcription."""
    given = arguments(combination)
    expected = run(combination.case, *jax.tree.map(np.asarray, given))
    close(compiled(combination)(*given, FULL)[0], expected, 1e-12)


@pytest.mark.where(
    lambda combination: is_transcribed(combination) and combination.case.has_exact_gradient
)
def test_gradients(combination):
    """Gradients agree with finite differences of the transcription, array by array."""
    given = arguments(combination)
    gradients = jax.tree.leaves(compiled(combination)(*given, FULL)[1])
    leaves, structure = jax.tree.flatten(jax.tree.map(np.asarray, given))
    random, step = np.random.default_rng(0), 1e-6

    def loss(i, direction, sign):
        moved = [x + sign * step * direction if n == i else x for n, x in enumerate(leaves)]
        return weighted_sum(run(combination.case, *structure.unflatten(moved)), np)

    for i, x in enumerate(leaves):
        if not jnp.issubdtype(x.dtype, jnp.floating):
            continue
        direction = random.normal(size=x.shape)
        measured = (loss(i, direction, 1) - loss(i, direction, -1)) / (2 * step)
        predicted = float((np.asarray(gradients[i]) * direction).sum())
        assert abs(measured - predicted) <= 1e-7 * (1 + abs(predicted)), i
