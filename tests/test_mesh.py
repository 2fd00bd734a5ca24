"""A batch on a mesh of devices: results of one device, and no collective inside of a loop."""

import dataclasses
import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from cases import LENGTHS
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from laws import MASK, RESETS, arguments, close, compiled, differentiated, weighted_sum
from meshes import BOTH, ENDS, INPUTS, compiled_on, in_loops, mesh_of

import jax_dynrnn as rnn
from benchmarks.collectives import collectives_by_place


@pytest.mark.where(lambda c: c.dtype == "float64" and c.x64)
@pytest.mark.everyday(
    lambda c: (
        (c.engine == "blocked" and c.case.name in ("gru", "lstm", "multi"))
        or (c.engine == "scan" and (c.case.keyed or c.case.memory_sizes) and not c.case.variant)
    )
)
@pytest.mark.parametrize("reverse", [False, pytest.param(True, marks=pytest.mark.full)])
@BOTH
def test_rows_of_each_device_have_the_results_of_one_device(combination, axis, reverse):
    """Results, draws and gradients are equal, and nothing is communicated in a loop."""
    case = combination.case
    params, inputs, state = arguments(combination)
    # The longest row comes last, on another device than the first.
    flags = LENGTHS[::-1], MASK[::-1], RESETS[::-1]
    expected = compiled(combination, reverse)(params, inputs, state, *flags)

    def run(params, inputs, state, lengths, mask, resets):
        def one(params, inputs, state):
            return rnn.dynamic_rnn(
                case.cell, params, inputs, lengths, state, mask=mask, resets=resets,
                reverse=reverse, key=case.key(), implementation=combination.engine,
            )  # fmt: skip

        return differentiated(one, params, inputs, state, expected[1] is not None)

    rows = P(("data", "model"))
    of_state = jax.tree.map(lambda s: rows if s.ndim else P(), state)
    program, placed = compiled_on(
        mesh_of(axis), run, params, inputs, state, *flags,
        specs=(P(), rows, of_state, rows, rows, rows),
    )  # fmt: skip
    close(program(*placed), expected, combination.tolerance)
    assert not in_loops(program)
    divided = rnn.explain(case.cell, *placed[:2], key=case.key()).mesh
    assert "each device runs 1 of 4 rows" in divided


CELL = rnn.LSTMCell(8)
PARAMS = CELL.init(jax.random.key(0), INPUTS.shape)


def training_step(params, inputs, lengths, **options):
    def loss(params, inputs):
        results = rnn.dynamic_rnn(CELL, params, inputs, lengths, **options)
        return weighted_sum(results), results

    return jax.value_and_grad(loss, (0, 1), has_aux=True)(params, inputs)


@pytest.mark.parametrize("engine", ["scan", "blocked"])
@pytest.mark.parametrize("remat", [None, 7])
@BOTH
def test_sharded_params_are_gathered_once(engine, remat, axis):
    """With rows and params over one axis (FSDP), no collective is in a loop."""
    step = functools.partial(training_step, remat=remat, implementation=engine)
    expected = jax.jit(step)(PARAMS, INPUTS, ENDS)
    program, placed = compiled_on(
        mesh_of(axis), step, PARAMS, INPUTS, ENDS, specs=(P("data"), P("data"), P("data"))
    )
    close(program(*placed), expected, 1e-5)
    places = collectives_by_place(program.as_text())
    assert not places["in loops"]
    assert 0 < places["outside"]["all-gather"] <= 2 * len(jax.tree.leaves(PARAMS))


@BOTH
def test_params_and_state_over_the_units(axis):
    """With params and state sharded over units (tensor parallel), it runs, and keeps the state's
    sharding."""
    state = CELL.zero_state(8)

    def run(params, inputs, lengths, state):
        return rnn.dynamic_rnn(CELL, params, inputs, lengths, state)

    expected = jax.jit(run)(PARAMS, INPUTS, ENDS, state)
    kernels = jax.tree.map(lambda x: P(*(None,) * (x.ndim - 1), "model"), PARAMS)
    program, placed = compiled_on(
        mesh_of(axis), run, PARAMS, INPUTS, ENDS, state,
        specs=(kernels, P("data"), P("data"), P("data", "model")),
    )  # fmt: skip
    outputs, final = program(*placed)
    close((outputs, final), expected, 1e-5)
    assert not in_loops(program)
    if axis == AxisType.Explicit:
        assert jax.typeof(final.h).sharding.spec == P("data", "model")


@BOTH
def test_a_batch_that_the_mesh_does_not_divide(axis):
    """On explicit axes every device runs all rows; on Auto axes XLA divides them as it likes."""
    step = jax.jit(training_step)
    expected = step(PARAMS, INPUTS[:6], ENDS[:6])
    program, placed = compiled_on(
        mesh_of(axis, (4,), ("rows",)), training_step, PARAMS, INPUTS[:6], ENDS[:6],
        specs=(P(), P(), P()),
    )  # fmt: skip
    close(program(*placed), expected, 1e-5)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class OffsetOfEachRow(rnn.BasicRNNCell):
    """A cell of a user: one of its params has a row for each row of the batch."""

    def init(self, key, input_shape, dtype=jnp.float32):
        params = super().init(key, input_shape, dtype)
        return {**params, "offset": jnp.arange(8, dtype=dtype)[:, None]}

    def step(self, params, projected, state, *, key=None):
        return super().step(params, projected + params["offset"], state, key=key)


@BOTH
def test_a_param_with_a_row_for_each_row_of_the_batch(axis):
    """Devices cannot run their rows by themselves: on explicit axes each runs all of them."""
    cell = OffsetOfEachRow(4)
    params = cell.init(jax.random.key(0), INPUTS.shape)

    def run(params, inputs, lengths):
        return rnn.dynamic_rnn(cell, params, inputs, lengths)

    expected = jax.jit(run)(params, INPUTS, ENDS)
    mesh = mesh_of(axis)
    program, placed = compiled_on(
        mesh, run, params, INPUTS, ENDS, specs=(P(), P("data"), P("data"))
    )
    close(program(*placed), expected, 1e-5)
    mesh = rnn.explain(cell, *placed).mesh
    assert mesh is None if axis == AxisType.Auto else "4 devices runs all 8 rows" in mesh


def test_explain_says_what_each_device_runs():
    """`explain` asks engines about the rows of one device, and names the params to gather."""
    mesh = mesh_of(AxisType.Explicit)
    params, inputs = jax.device_put((PARAMS, INPUTS), NamedSharding(mesh, P("data")))
    explained = rnn.explain(CELL, params, inputs)
    assert "each device runs 4 of 8 rows" in explained.mesh
    assert "['kernel'], ['bias']" in explained.mesh or "['bias'], ['kernel']" in explained.mesh
    assert f"mesh: {explained.mesh}" in str(explained)
    assert explained.chosen == "scan"  # 4 rows of 70 steps are little work
    assert rnn.explain(CELL, PARAMS, INPUTS).chosen == "blocked"
    assert rnn.explain(CELL, PARAMS, INPUTS).mesh is None


@pytest.mark.parametrize(
    "axis, spmd", [(AxisType.Auto, None), (AxisType.Auto, "data"), (AxisType.Explicit, None)]
)
def test_vmap_over_sharded_problems(axis, spmd):
    """`vmap` over sharded problems, with and without `spmd_axis_name`, equals one device."""
    inputs, ends = np.stack([INPUTS, INPUTS[::-1]]), np.stack([ENDS, ENDS[::-1]])

    def run(params, inputs, lengths):
        def one(inputs, lengths):
            return training_step(params, inputs, lengths)

        return jax.vmap(one, spmd_axis_name=spmd)(inputs, lengths)

    expected = jax.jit(jax.vmap(training_step, (None, 0, 0)))(PARAMS, inputs, ends)
    program, placed = compiled_on(
        mesh_of(axis), run, PARAMS, inputs, ends, specs=(P(), P("data"), P("data"))
    )
    close(program(*placed), expected, 1e-5)
    assert not in_loops(program)


@pytest.mark.parametrize("engine", ["scan", "blocked"])
def test_export_for_several_devices(engine):
    """A training step on a mesh is exported, read back, and runs."""
    mesh = mesh_of(AxisType.Auto, (4,), ("rows",))
    rows, everywhere = NamedSharding(mesh, P("rows")), NamedSharding(mesh, P())
    placed = jax.device_put(PARAMS, everywhere), *jax.device_put((INPUTS, ENDS), rows)
    step = jax.jit(functools.partial(training_step, implementation=engine))
    exported = jax.export.export(step)(*placed)
    assert exported.nr_devices == 4 and "sdy.manual_computation" in exported.mlir_module()
    found = jax.jit(jax.export.deserialize(exported.serialize()).call)(*placed)
    close(found, jax.jit(training_step)(PARAMS, INPUTS, ENDS), 1e-5)


def test_the_persistent_cache_has_programs_on_a_mesh(tmp_path):
    """A training step on a mesh is compiled once, and then read from the persistent cache."""
    config = {
        "jax_compilation_cache_dir": str(tmp_path),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in config}
    files = []
    try:
        compilation_cache.reset_cache()
        for name, value in config.items():
            jax.config.update(name, value)
        for _ in range(2):
            jax.clear_caches()
            step = functools.partial(training_step, implementation="blocked")
            compiled_on(
                mesh_of(AxisType.Auto), step, PARAMS, INPUTS, ENDS,
                specs=(P(), P("data"), P("data")),
            )  # fmt: skip
            files.append({path.name for path in tmp_path.iterdir() if "-cache" in path.name})
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
    assert files[0] and files[0] == files[1]


def test_collectives_are_found_where_they_are():
    """A collective in a scan is in a loop; one beside it is outside."""
    mesh = mesh_of(AxisType.Auto, (4,), ("rows",))

    def local(x):
        def step(total, _):
            return jax.lax.psum(total, "rows") * 0.1 + x, None

        total, _ = jax.lax.scan(step, x, None, length=3)
        return jax.lax.all_gather(total, "rows", tiled=True)

    run = jax.shard_map(local, mesh=mesh, in_specs=P("rows"), out_specs=P("rows"))
    places = collectives_by_place(jax.jit(run).lower(jnp.ones(8)).compile().as_text())
    assert places == {"in loops": {"all-reduce": 1}, "outside": {"all-gather": 1}}


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Constrained(rnn.BasicRNNCell):
    """A cell of a user that constrains the sharding of its state."""

    def step(self, params, projected, state, *, key=None):
        output, state = super().step(params, projected, state)
        return output, jax.lax.with_sharding_constraint(state, P("data"))


def test_a_cell_with_sharding_constraints_is_not_divided():
    """It runs as XLA divides it, with the results of one device."""
    cell, mesh = Constrained(4), mesh_of(AxisType.Auto)
    params = cell.init(jax.random.key(0), INPUTS.shape)

    def run(params, inputs, lengths):
        return rnn.dynamic_rnn(cell, params, inputs, lengths)

    expected = jax.jit(functools.partial(rnn.dynamic_rnn, rnn.BasicRNNCell(4)))(
        params, INPUTS, ENDS
    )
    with jax.set_mesh(mesh):
        close(jax.jit(run)(params, INPUTS, ENDS), expected, 1e-5)
        assert rnn.explain(cell, params, INPUTS, ENDS).mesh is None


def test_a_tuple_as_the_initial_state_on_explicit_axes():
    """An LSTM's state may be given as a plain tuple."""
    state = tuple(jax.random.normal(jax.random.key(i), (8, 8), "float32") for i in range(2))

    def run(params, inputs, lengths, state):
        return rnn.dynamic_rnn(CELL, params, inputs, lengths, state)

    expected = jax.jit(run)(PARAMS, INPUTS, ENDS, state)
    program, placed = compiled_on(
        mesh_of(AxisType.Explicit), run, PARAMS, INPUTS, ENDS, state,
        specs=(P(), P("data"), P("data"), P("data")),
    )  # fmt: skip
    close(program(*placed), expected, 1e-5)
