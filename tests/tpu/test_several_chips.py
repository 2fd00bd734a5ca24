"""Training steps of a batch on several TPUs, compiled by libtpu; nothing runs."""

import jax
import jax.numpy as jnp
import pytest
from chips import compiled, mesh_of, placed
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import jax_dynrnn as rnn
from benchmarks.collectives import collectives_by_place

T, D = 64, 16
ROWS, EVERYWHERE = P(("data", "model")), P()
CELLS = {
    "lstm": rnn.LSTMCell(32),
    "stack": rnn.MultiRNNCell([rnn.CudnnCompatibleGRUCell(32), rnn.LSTMCell(16)]),
    "dropout": rnn.DropoutWrapper(rnn.GRUCell(32), 0.7, state_keep_prob=0.6),
}
BOTH = pytest.mark.parametrize("axis", [AxisType.Auto, AxisType.Explicit])


def program(mesh, cell, engine=None, of_params=EVERYWHERE):
    """A training step in bfloat16, with four rows on each chip."""
    key = jax.random.key(0)

    def step(params, inputs, lengths):
        def loss(params, inputs):
            outputs, state = rnn.dynamic_rnn(
                cell, params, inputs, lengths, key=key, implementation=engine
            )
            return sum(x.astype(jnp.float32).sum() for x in jax.tree.leaves((outputs, state)))

        return jax.value_and_grad(loss, (0, 1))(params, inputs)

    batch = 4 * mesh.size
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), (batch, T, D), jnp.bfloat16))
    return compiled(
        step,
        placed(mesh, params, of_params),
        placed(mesh, jax.ShapeDtypeStruct((batch, T, D), jnp.bfloat16), ROWS),
        placed(mesh, jax.ShapeDtypeStruct((batch,), jnp.int32), ROWS),
    )


@pytest.mark.parametrize(
    "name, engine",
    [("lstm", None), ("stack", None), ("dropout", None), ("lstm", "scan")],
)
@BOTH
def test_no_chip_waits_for_another_inside_of_a_loop(name, engine, axis):
    """Gradients are summed once, after the loops of a training step."""
    places = collectives_by_place(program(mesh_of("v5e:4x4", axis), CELLS[name], engine).as_text())
    assert not places["in loops"]
    assert places["outside"]["all-reduce"] > 0


@BOTH
def test_sharded_params_are_gathered_once(axis):
    """Of params that are sharded over rows, no part is fetched in a loop."""
    mesh = mesh_of("v5e:4x4", axis)
    places = collectives_by_place(program(mesh, CELLS["lstm"], of_params=P("data")).as_text())
    assert not places["in loops"]
    assert 0 < places["outside"]["all-gather"] <= 4


def test_memory_of_a_chip_does_not_depend_on_their_number():
    """With as many rows per chip, 256 chips take the temporary memory of 4 each."""
    few, many = (
        program(mesh_of(topology, AxisType.Auto), CELLS["lstm"])
        for topology in ("v5e:2x2", "v5e:16x16")
    )
    assert not collectives_by_place(many.as_text())["in loops"]
    of_few, of_many = (p.memory_analysis().temp_size_in_bytes for p in (few, many))
    assert 0 < of_many <= 1.05 * of_few
