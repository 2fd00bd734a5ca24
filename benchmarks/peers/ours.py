"""Ours: the engine that `implementation=None` chooses, and every engine by its name."""

import jax
import jax.numpy as jnp

import jax_dynrnn as rnn
from jax_dynrnn.engines import ENGINES

from ..grid import MAPPED
from ..problems import cells_of

AXES = {"params": (0, None, None), "inputs": (None, 0, None), "lengths": (None, None, 0)}


def build(kind, size, params):
    """Every engine that can run the cell on inputs with the dtype of `params`."""
    cells, built = cells_of(kind, size.units), {}
    engines = {"ours": None} | {f"ours: {name}": name for name in ENGINES}
    for name, engine in engines.items():
        if isinstance(cells, tuple):
            run = both_directions(cells, engine)
        else:
            run = forward(cells, engine)
        if _supports(cells, params, size, engine):
            built[name] = jax.vmap(run, AXES[MAPPED[kind]]) if kind in MAPPED else run, params
    return built


def forward(cell, engine, **options):
    def run(params, inputs, lengths):
        outputs, state = rnn.dynamic_rnn(
            cell, params, inputs, lengths, implementation=engine, **options
        )
        return outputs, jax.tree.leaves(state)

    return run


def both_directions(cells, engine):
    def run(params, inputs, lengths):
        outputs, states = rnn.bidirectional_dynamic_rnn(
            *cells, params, inputs, lengths, implementation=engine
        )
        return rnn.concatenate(*outputs), jax.tree.leaves(states)

    return run


def _supports(cells, params, size, engine):
    # `explain` needs shapes only, so nothing is computed here.
    inputs = jax.ShapeDtypeStruct(size[:3], jnp.result_type(*jax.tree.leaves(params)))
    lengths = jax.ShapeDtypeStruct(size[:1], "int32")
    directions = [(cells, params, False)]
    if isinstance(cells, tuple):
        directions = [(cells[0], params["fw"], False), (cells[1], params["bw"], True)]
    return all(
        rnn.explain(c, p, inputs, lengths, reverse=reverse, implementation=engine).chosen
        for c, p, reverse in directions
    )
