"""Both directions as one run, where an engine makes one launch of all that `vmap` maps over."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from . import engines
from ._memoize import is_configuration
from ._rnn import dynamic_rnn, explain
from .sequence import reverse_sequence


def possible(
    cells: tuple[Any, Any], params: Any, states: tuple[Any, Any], inputs: Any, options: dict
) -> bool:
    """Whether the directions differ by params and states alone, and an engine can do it.

    It must have been asked for by its name: that this is faster is not measured.
    """
    name = options["implementation"]
    if name is None or not getattr(engines.ENGINES.get(name), "one_launch", False):
        return False
    if any(options[flags] is not None for flags in ("mask", "resets", "key")):
        return False
    if cells[0] is not cells[1] and not (
        all(map(is_configuration, cells)) and cells[0] == cells[1]
    ):
        return False
    if not _alike(params["fw"], params["bw"]) or not _alike(*states):
        return False
    call = cells[0], params["fw"], inputs
    return explain(*call, initial_state=states[0], **options).chosen == name


def run(
    cell: Any, params: Any, states: tuple[Any, Any], inputs: Any, options: dict
) -> tuple[Any, Any]:
    """As `bidirectional_dynamic_rnn`: what goes backward is turned round before and after."""
    time_major, lengths = options["time_major"], options["sequence_length"]

    def turned(tree):
        if lengths is not None:
            return reverse_sequence(tree, lengths, time_major=time_major)
        return jax.tree.map(lambda x: jnp.flip(x, 0 if time_major else 1), tree)

    def one(params, state, inputs):
        return dynamic_rnn(cell, params, inputs, initial_state=state, **options)

    both = (params["fw"], states[0], inputs), (params["bw"], states[1], turned(inputs))
    outputs, final = jax.vmap(one)(*jax.tree.map(lambda *x: jnp.stack(x), *both))
    direction = lambda tree, i: jax.tree.map(lambda x: x[i], tree)  # noqa: E731
    backward = turned(direction(outputs, 1))
    return (direction(outputs, 0), backward), (direction(final, 0), direction(final, 1))


def _alike(fw: Any, bw: Any) -> bool:
    kinds = lambda tree: jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), tree)  # noqa: E731
    return kinds(fw) == kinds(bw)
