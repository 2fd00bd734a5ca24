"""On a mesh of devices: Flax's layers, decoding, `raw_rnn` and `tile_batch`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from laws import close
from meshes import BOTH, ENDS, INPUTS, compiled_on, in_loops, mesh_of

import jax_dynrnn as rnn
from jax_dynrnn import linen as rnnl
from jax_dynrnn import nnx as rnnx

KERNEL = nn.initializers.lecun_normal()
"""Of a kernel whose second axis is sharded."""


def loss_of(outputs, state):
    return jnp.sin(outputs).sum() + jnp.cos(state.h).sum()


@BOTH
def test_linen_params_are_sharded_by_their_metadata(axis):
    """`get_sharding` of a layer's variables, `init` under `jit`, and a training step."""
    cell = rnn.LSTMCell(8, kernel_initializer=nn.with_partitioning(KERNEL, (None, "model")))
    layer, mesh = rnnl.RNN(cell), mesh_of(axis)

    def init():
        return layer.init(jax.random.key(0), INPUTS, ENDS)

    def step(variables, inputs, lengths):
        return jax.value_and_grad(lambda v: loss_of(*layer.apply(v, inputs, lengths)))(variables)

    expected = nn.unbox(jax.jit(step)(jax.jit(init)(), INPUTS, ENDS))
    with jax.set_mesh(mesh):
        variables = jax.jit(init, out_shardings=nn.get_sharding(jax.eval_shape(init), mesh))()
        kernel = variables["params"]["cell"]["kernel"]
        assert kernel.value.sharding.spec == P(None, "model")
        batch = jax.device_put((INPUTS, ENDS), jax.NamedSharding(mesh, P("data")))
        program = jax.jit(step).lower(variables, *batch).compile()
        found = program(variables, *batch)
    close(nn.unbox(found), expected, 1e-5)
    assert not in_loops(program)
    assert found[1]["params"]["cell"]["kernel"].names == (None, "model")


@BOTH
def test_nnx_params_are_sharded_by_their_metadata(axis):
    """A layer that is created under a mesh has sharded params, and trains."""

    def made(**metadata):
        initializer = nnx.with_partitioning(KERNEL, (None, "model")) if metadata else KERNEL
        cell = rnn.LSTMCell(8, kernel_initializer=initializer)
        return rnnx.RNN(cell, in_features=4, rngs=nnx.Rngs(0))

    @nnx.jit
    def step(layer, inputs, lengths):
        return nnx.value_and_grad(lambda layer: loss_of(*layer(inputs, lengths)))(layer)

    value, gradient = step(made(), INPUTS, ENDS)
    mesh = mesh_of(axis)
    with jax.set_mesh(mesh):
        layer = made(sharded=True)
        assert "model" in str(layer.params["kernel"].get_value().sharding.spec)
        batch = jax.device_put((INPUTS, ENDS), jax.NamedSharding(mesh, P("data")))
        found, of_layer = step(layer, *batch)
    pure = [nnx.to_pure_dict(nnx.state(g)) for g in (of_layer, gradient)]
    close((found, pure[0]), (value, pure[1]), 1e-5)


CELL, IDS = rnn.GRUCell(4), 5
PARAMS = CELL.init(jax.random.key(0), (8, 3))
TABLE = np.random.default_rng(1).normal(size=(IDS, 3)).astype(np.float32)
KERNEL_OF_IDS = 3 * np.random.default_rng(2).normal(size=(4, IDS)).astype(np.float32)
STATE = np.random.default_rng(3).normal(size=(8, 4)).astype(np.float32)


def embed(ids):
    # On explicit axes JAX asks how `TABLE[ids]` should be sharded.
    return jax.nn.one_hot(ids, IDS, dtype="float32") @ TABLE


def greedy(params, state):
    return rnn.greedy_decode(
        CELL, params, embed, lambda h: h @ KERNEL_OF_IDS, 0, 1, state, maximum_iterations=6
    )


def beams(params, state):
    return rnn.beam_search(
        CELL, params, embed, lambda h: h @ KERNEL_OF_IDS, 0, 1, state,
        beam_width=3, length_penalty=0.5, maximum_iterations=6,
    )  # fmt: skip


def tiled(params, state):
    return rnn.dynamic_rnn(
        CELL, params, jnp.ones((24, 5, 3), "float32"), None, rnn.tile_batch(state, 3)
    )


def raw(params, state):
    x = jnp.broadcast_to(jnp.asarray(TABLE[0]), (8, 3))

    def loop_fn(time, output, cell_state, total):
        if output is None:
            return jnp.zeros(8, bool), x, state, jnp.zeros(4, "float32"), jnp.zeros(8, "float32")
        return (
            jnp.arange(8, dtype="int32") < time,
            x * time.astype("float32"),
            cell_state,
            output,
            total + output.sum(1),
        )

    emitted, state, total = rnn.raw_rnn(CELL, params, loop_fn, maximum_iterations=6)
    return emitted.stack(), state, total


@pytest.mark.parametrize("function", [greedy, beams, tiled, raw])
@BOTH
def test_loops_over_sharded_rows(function, axis):
    """Decoding, `raw_rnn` and `tile_batch` have the results of one device."""
    expected = jax.jit(function)(PARAMS, STATE)
    program, placed = compiled_on(
        mesh_of(axis, (4,), ("data",)), function, PARAMS, STATE, specs=(P(), P("data"))
    )
    close(program(*placed), expected, 1e-5)


@pytest.mark.parametrize("function", [greedy, beams])
def test_decoding_of_the_rows_of_each_device(function):
    """Inside of a `jax.shard_map` devices decode their own rows, and do not wait for each other."""
    mesh, rows = mesh_of(AxisType.Auto, (4,), ("data",)), P("data")
    run = jax.shard_map(function, mesh=mesh, in_specs=(P(), rows), out_specs=rows)
    program = jax.jit(run).lower(PARAMS, STATE).compile()
    close(program(PARAMS, STATE), jax.jit(function)(PARAMS, STATE), 1e-5)
    assert not in_loops(program)
