"""Loops around a cell, under every transformation: `raw_rnn`, decoders, attention, `tile_batch`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from laws import close, weighted_sum
from meshes import mesh_of

import jax_dynrnn as rnn

B, L, V, U, END = 4, 5, 4, 6, 3
RANDOM = np.random.default_rng(0)
TABLE, DENSE = jnp.asarray(RANDOM.normal(size=(V, 2))), jnp.asarray(RANDOM.normal(size=(U, V)))
MEMORY, VALID = jnp.asarray(RANDOM.normal(size=(B, 3, 2))), np.tri(B, 3, dtype=bool)
GRU = rnn.GRUCell(U)
CELL = rnn.AttentionWrapper(
    GRU, rnn.BahdanauMonotonicAttention(4, memory_size=2), output_attention=False
)
PARAMS = jax.tree.map(lambda x: 3 * x, CELL.init(jax.random.key(0), (B, 2), jnp.float64))
STATE = jnp.asarray(RANDOM.normal(size=(B, U)))
KEY = jax.random.key(5)


def embed(ids):
    # Not TABLE[ids], which JAX does not do with explicitly sharded ids.
    return jax.nn.one_hot(ids, V, dtype=TABLE.dtype) @ TABLE


def attending(params, memory, state):
    params = CELL.attend(params, memory, memory_mask=jnp.asarray(VALID[: len(state)]))
    return params, CELL.start(params, (len(state),), state.dtype)._replace(cell_state=state)


def decoder(decode, **options):
    def run(params, memory, state):
        params, start = attending(params, memory, state)
        found = decode(
            CELL, params, embed, lambda y: y @ DENSE, 0, END, start,
            maximum_iterations=L, **options,
        )  # fmt: skip
        return found

    return run


def raw(params, memory, state):
    """Each row has its own number of steps, and receives its output."""
    params, start = attending(params, memory, state)
    limits = jnp.asarray([2, 5, 0, 3][: len(state)], jnp.int32)

    def loop_fn(time, output, state, loop_state):
        first = output is None
        x = jnp.ones_like(start.cell_state[:, :2]) if first else output[:, :2]
        return time >= limits, x, start if first else state, output, None

    emitted, final, _ = rnn.raw_rnn(CELL, params, loop_fn, maximum_iterations=6)
    return emitted.stack().swapaxes(0, 1), final.cell_state


def sequence(params, memory, state):
    params, start = attending(params, memory, state)
    inputs = jnp.broadcast_to(state[:, None, :2], (len(state), L, 2))
    outputs, final = rnn.dynamic_rnn(CELL, params, inputs, [5, 2, 0, 1][: len(state)], start)
    return outputs, final.cell_state


def tiled(params, memory, state):
    params, start = attending(params, memory, state)
    return rnn.tile_batch(start.cell_state, 3)


def alignments(params, memory, state):
    ids, lengths, _ = decoder(rnn.greedy_decode)(params, memory, state)
    params, start = attending(params, memory, state)
    return rnn.decode_alignments(CELL, params, embed, ids, lengths, 0, start)


LOOPS = {
    "greedy": decoder(rnn.greedy_decode),
    "sample": decoder(rnn.sample_decode, key=KEY),
    "beams": decoder(rnn.beam_search, beam_width=3, length_penalty=0.5),
    "coverage": decoder(rnn.beam_search, beam_width=2, coverage_penalty_weight=0.5),
    "alignments": alignments,
    "raw": raw,
    "sequence": sequence,
    "tiled": tiled,
}
each = pytest.mark.parametrize("name", LOOPS)


def plain(found):
    """Without the state of the cell, in which rank-0 leaves are shared."""
    return [x for x in jax.tree.leaves(found) if x.ndim]


def expected(name):
    return plain(jax.jit(LOOPS[name])(PARAMS, MEMORY, STATE))


@each
def test_vmap(name):
    """`vmap` over memories and states equals a loop."""
    memories, states = jnp.stack([MEMORY, -MEMORY]), jnp.stack([STATE, STATE / 2])
    run = jax.jit(lambda m, s: plain(LOOPS[name](PARAMS, m, s)))
    found = jax.jit(jax.vmap(lambda m, s: plain(LOOPS[name](PARAMS, m, s))))(memories, states)
    for i in range(2):
        close([x[i] for x in found], run(memories[i], states[i]), 1e-12)


DIFFERENTIABLE = ["beams", "coverage", "alignments", "raw", "sequence", "tiled"]


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients(name):
    """Gradients by params, memory and state are those of finite differences."""

    def loss(given):
        return weighted_sum(plain(LOOPS[name](*given)))

    given = PARAMS, MEMORY, STATE
    leaves, structure = jax.tree.flatten(given)
    direction = structure.unflatten([jnp.asarray(RANDOM.normal(size=x.shape)) for x in leaves])
    gradient = jax.jit(jax.grad(loss))(given)
    predicted = sum(
        float((g * d).sum())
        for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True)
    )
    compiled = jax.jit(loss)

    def moved(size):
        return compiled(jax.tree.map(lambda x, d: x + size * d, given, direction))

    measured = (moved(1e-6) - moved(-1e-6)) / 2e-6
    assert abs(measured - predicted) <= 1e-6 * (1 + abs(predicted)) and predicted != 0


@each
@pytest.mark.parametrize("check_vma", [True, False])
def test_shard_map(name, check_vma):
    """In `shard_map` over rows each device has its own."""
    mesh = jax.make_mesh((2,), ("rows",), (AxisType.Auto,), devices=jax.devices()[:2])
    run = LOOPS[name]
    halves = [plain(jax.jit(run)(PARAMS, MEMORY[i : i + 2], STATE[i : i + 2])) for i in (0, 2)]
    mapped = jax.shard_map(
        lambda *given: plain(run(*given)), mesh=mesh, in_specs=(P(), P("rows"), P("rows")),
        out_specs=P("rows"), check_vma=check_vma,
    )  # fmt: skip
    found = jax.jit(mapped)(PARAMS, MEMORY, STATE)
    close(jax.device_get(found), [np.concatenate(x) for x in zip(*halves, strict=True)], 1e-12)


@each
@pytest.mark.parametrize("axis", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
def test_on_a_mesh(name, axis):
    """A batch on a mesh gives what one device gives."""
    mesh = mesh_of(axis, (2,), ("rows",))
    put = functools.partial(
        jax.tree.map, lambda x: jax.device_put(x, NamedSharding(mesh, P("rows")))
    )
    params = jax.device_put(PARAMS, NamedSharding(mesh, P()))
    with jax.set_mesh(mesh):
        found = jax.jit(lambda *given: plain(LOOPS[name](*given)))(params, put(MEMORY), put(STATE))
    close(jax.device_get(found), jax.device_get(expected(name)), 1e-12)


@each
def test_an_empty_batch(name):
    """No rows at all."""
    found = jax.jit(LOOPS[name])(PARAMS, MEMORY[:0], STATE[:0])
    assert all(x.size == 0 for x in plain(found))
