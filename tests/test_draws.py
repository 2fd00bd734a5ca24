"""Random numbers of a batch on a mesh: each row draws what it draws on one device."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from laws import close
from meshes import ENDS, INPUTS, compiled_on, in_loops, mesh_of

import jax_dynrnn as rnn


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Noisy(rnn.BasicRNNCell):
    """A cell of a user that adds `noise(key, rows)`, `[rows, 1]`, to its pre-activations."""

    noise: Any = None

    def step(self, params, projected, state, *, key=None):
        noise = self.noise(key, projected.shape[0]).astype(projected.dtype)
        return super().step(params, projected + noise, state)


def in_the_last_axis(key, rows):
    return jax.random.normal(key, (2, rows)).sum(0)[:, None]


def with_a_key_for_each_row(key, rows):
    keys = jax.random.split(key, rows)
    return jax.vmap(lambda key: jax.random.uniform(key, (3,)))(keys).sum(1)[:, None]


def shared(key, rows):
    return jax.random.uniform(key, (1, 3)).sum(1, keepdims=True)


def under_jit_and_cond(key, rows):
    draw = jax.jit(lambda key: jax.random.bernoulli(key, 0.5, (rows, 1)).astype(float))
    return jax.lax.cond(rows > 1, draw, lambda key: 2 * draw(key), key)


def gamma(key, rows):
    return jax.random.gamma(key, 2.0, (rows, 1))


def folded_in_for_each_row(key, rows):
    return jax.vmap(lambda i: jax.random.uniform(jax.random.fold_in(key, i), (1,)))(
        jnp.arange(rows)
    )


def flat(key, rows):
    return jax.random.uniform(key, (2 * rows,)).reshape(2, rows).sum(0)[:, None]


def two_alike(key, rows):
    of_units = jax.random.uniform(jax.random.fold_in(key, 1), (2,)).sum()
    return jax.random.uniform(jax.random.fold_in(key, 0), (rows,))[:, None] + of_units


def with_another_key(key, rows):
    return jax.random.uniform(jax.random.key(3), (rows, 1))


def by_numbers(key, rows):
    return jax.random.key_data(key).astype(float).sum() * jnp.ones((rows, 1)) / 1e10


KNOWN = [in_the_last_axis, with_a_key_for_each_row, shared, under_jit_and_cond]
UNKNOWN = [gamma, folded_in_for_each_row, flat, two_alike, with_another_key, by_numbers]
DRAWS = {
    "dropout": (
        rnn.DropoutWrapper(rnn.GRUCell(4), state_keep_prob=0.5, output_keep_prob=0.5), True
    ),
    "variational": (
        rnn.DropoutWrapper(
            rnn.GRUCell(4), input_keep_prob=0.5, variational_recurrent=True,
        ), True
    ),
    **{f.__name__: (Noisy(4, noise=f), True) for f in KNOWN},
    **{f.__name__: (Noisy(4, noise=f), False) for f in UNKNOWN},
}  # fmt: skip
KEYS = {
    "typed": lambda: jax.random.key(1),
    "of numbers": lambda: jax.random.PRNGKey(1),
    "rbg": lambda: jax.random.key(1, impl="unsafe_rbg"),
}


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("key", KEYS)
def test_draws_are_those_of_one_device(name, key):
    """Each row draws as on one device. If draws cannot be told apart, rows are not divided."""
    (cell, divided), key_name, key = DRAWS[name], key, KEYS[key]()
    params = cell.init(jax.random.key(0), INPUTS.shape)

    def run(params, inputs, lengths):
        return rnn.dynamic_rnn(cell, params, inputs[:, :9], lengths // 8, key=key)

    if name == "by_numbers" and key_name != "typed":
        pytest.skip("key_data of a key of numbers is an error on one device too")
    expected = jax.jit(run)(params, INPUTS, ENDS)
    program, placed = compiled_on(
        mesh_of(AxisType.Auto), run, params, INPUTS, ENDS, specs=(P(), P("data"), P("data"))
    )
    close(program(*placed), expected, 1e-5)
    # `vmap` of this generator over keys draws with the first of them alone.
    divided = divided and not (key_name == "rbg" and name == "with_a_key_for_each_row")
    mesh = rnn.explain(cell, *placed, key=key).mesh
    assert ("each device runs 2 of 8 rows" in mesh) if divided else mesh is None
    assert not divided or not in_loops(program)
