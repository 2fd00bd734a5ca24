"""`blocked` agrees with `scan`. Tiles and blocks are small, so that each run has many of them."""

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest
import toys
from laws import close, weighted_sum

import jax_dynrnn as rnn
from jax_dynrnn import _rnn, engines
from jax_dynrnn.engines.blocked import Blocked, tiling
from jax_dynrnn.engines.blocked import engine as blocked_engine
from jax_dynrnn.engines.blocked.tuning import CPU, GPU, TPU, RowTuning
from jax_dynrnn.engines.hoist import hoist
from jax_dynrnn.engines.staged.parts import innermost


def random():
    """A generator of its own for each test, so that no data depends on the tests before."""
    return np.random.default_rng(0)


def runs(cell, batch, time, remat=None, lengths=True, **options):
    """`(gradients, results)` for random arguments, by `blocked` and by `scan`."""
    generator = random()
    inputs = generator.normal(size=(batch, time, 3))
    params = cell.init(jax.random.key(0), inputs.shape, jnp.float64)
    ends = generator.integers(0, time + 1, batch)

    def run(engine):
        def loss(params, inputs, ends):
            results = rnn.dynamic_rnn(
                cell, params, inputs, ends if lengths else None, remat=remat,
                implementation=engine, **options,
            )  # fmt: skip
            return weighted_sum(results), results

        return jax.jit(jax.grad(loss, (0, 1), has_aux=True))(params, inputs, ends)

    return run("blocked"), run("scan")


SMALL_TILES = RowTuning(rows_by_kernel_bytes=((float("inf"), 4),), min_elements=0, full_elements=0)
SMALL = dataclasses.replace(CPU, row_tuning=SMALL_TILES, block_elements=64)
TUNINGS = {
    "cpu": dataclasses.replace(SMALL, recompute_flops=0),
    "recompute": dataclasses.replace(SMALL, recompute_flops=float("inf")),
    "gpu": dataclasses.replace(GPU, max_block_steps=4),
    "tpu": dataclasses.replace(TPU, max_block_steps=4),
}
"""Tunings with small tiles and blocks, so that there are many, on a CPU and an accelerator.

With `recompute` the backward pass recomputes the matmuls of a block."""


@pytest.fixture(params=[*TUNINGS])
def small_tiles(request, monkeypatch):
    """The engine `blocked` with one of `TUNINGS`."""
    monkeypatch.setitem(engines.ENGINES, "blocked", Blocked(cpu=TUNINGS[request.param]))


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize(
    "remat",
    [None, 3, "sqrt", "offload", *(pytest.param(k, marks=pytest.mark.full) for k in (1, 4, 30))],
)
def test_many_blocks(remat):
    """Many tiles of rows, and blocks that do not divide the number of steps."""
    close(*runs(rnn.LSTMCell(4, use_peepholes=True), 10, 23, remat), 1e-12)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("remat", [None, 3])
@pytest.mark.parametrize("lengths, reverse", [(True, False), (True, True), (False, True)])
@pytest.mark.parametrize("batch, time", [pytest.param(7, 13, marks=pytest.mark.full), (14, 22)])
def test_sizes_that_tiles_do_not_divide(batch, time, lengths, reverse, remat):
    """For primes and twice primes, the last tile and block overlap those before them."""
    flags = {"resets": random().random((batch, time)) < 0.2}
    close(*runs(rnn.GRUCell(4), batch, time, remat, lengths, reverse=reverse, **flags), 1e-12)


@pytest.mark.where(
    lambda combination: combination.engine == "blocked" and combination.dtype == "float64"
)
@pytest.mark.parametrize("small_tiles", ["recompute"], indirect=True)
def test_recomputed_matmuls(small_tiles, combination):
    """With matmuls recomputed in the backward pass, every supported cell agrees with `scan`."""
    recomputed, scan = (
        laws.compiled.__wrapped__(dataclasses.replace(combination, engine=engine))(
            *laws.arguments(combination)
        )
        for engine in ("blocked", "scan")
    )
    close(recomputed, scan, combination.tolerance)


@pytest.mark.parametrize("reverse", [False, True])
def test_matmuls_recomputed_on_a_tpu(monkeypatch, reverse):
    """As for a run of many rows, with flags repeated for each unit and steps counted in a carry."""
    tuning = dataclasses.replace(TPU, max_block_steps=4, recompute_bytes=0)
    monkeypatch.setitem(engines.ENGINES, "blocked", Blocked(cpu=tuning))
    resets = random().random((10, 23)) < 0.2
    close(*runs(rnn.CudnnCompatibleGRUCell(4), 10, 23, reverse=reverse, resets=resets), 1e-12)


@pytest.mark.parametrize("small_tiles", ["gpu", "tpu"], indirect=True)
@pytest.mark.parametrize("unroll", [3, 16])
def test_many_steps_in_one_iteration(small_tiles, unroll):
    """`unroll` below the steps of a block, without dividing them, and above."""
    close(*runs(rnn.GRUCell(4), 10, 23, unroll=unroll, reverse=True), 1e-12)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("lengths, reverse", [(True, True), (False, False)])
def test_many_blocks_with_mask_and_resets(lengths, reverse):
    """A mask and resets in many blocks, forward and reversed, batch-major and time-major."""
    mask, resets = random().random((2, 20, 6)) < np.array([0.7, 0.2]).reshape(2, 1, 1)
    for time_major in (False, True):
        flags = {"mask": mask, "resets": resets}
        if time_major:  # the same flags as 6 rows of 20 steps; else 20 rows of 6
            both = runs_time_major(flags, reverse, lengths)
        else:
            both = runs(rnn.GRUCell(4), 20, 6, lengths=lengths, reverse=reverse, **flags)
        close(*both, 1e-12)


@pytest.mark.parametrize("options", [{}, {"remat": "sqrt"}, {"reverse": True}])
def test_more_than_2_to_the_31_steps_in_all(options):
    """4.9e9 steps of all rows together can be traced: their number is never an int32."""
    cell, size = rnn.GRUCell(2), 70_000
    shape = jax.ShapeDtypeStruct
    inputs = shape((size, size, 1), "float32"), shape((size,), "int32"), shape((size, size), bool)

    def loss(params, inputs, lengths, mask):
        outputs, _ = rnn.dynamic_rnn(
            cell, params, inputs, lengths, mask=mask, implementation="blocked", **options
        )
        return outputs.sum()

    # Without x64 indices are int32. The run is only traced: its arrays would not fit into memory.
    with jax.enable_x64(False):
        params = jax.eval_shape(lambda: cell.init(jax.random.key(0), (1,)))
        for arguments in ((*inputs[:2], None), inputs):
            gradients = jax.eval_shape(jax.grad(loss), params, *arguments)
            assert jax.tree.map(lambda x: x.shape, gradients) == jax.tree.map(
                lambda x: x.shape, params
            )


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("lengths", [[1, 0, 3, 9], [9, 8, 9, 9], None])
def test_forward_alone(lengths):
    """Forward passes with much, little and no padding; each compiles a different program."""
    close(forward("blocked", 4, lengths), forward("scan", 4, lengths), 1e-12)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lengths", [[0], [5], [9], None])
def test_one_row_forward_alone(monkeypatch, lengths, reverse):
    """A forward pass over one row projects its inputs block by block, and never runs `scan`."""
    rows = dataclasses.replace(SMALL_TILES, projection_bytes=0)
    tuning = dataclasses.replace(SMALL, row_tuning=rows)
    monkeypatch.setitem(engines.ENGINES, "blocked", Blocked(cpu=tuning))
    expected = forward("scan", 1, lengths, reverse=reverse)
    monkeypatch.setattr(blocked_engine, "run_scan", None)  # `blocked` must not fall back on it
    close(forward("blocked", 1, lengths, reverse=reverse), expected, 1e-12)


@pytest.mark.parametrize("limit", ["max_forward_bytes", "max_forward_rows"])
def test_forward_of_large_steps_on_a_tpu(monkeypatch, limit):
    """`blocked` has `scan` run them, and leaves the padding of the inputs as it is."""
    tuning = dataclasses.replace(TPU, **{limit: 0})
    monkeypatch.setitem(engines.ENGINES, "blocked", Blocked(cpu=tuning))
    monkeypatch.setattr(blocked_engine, "forward", None)  # no block is run
    close(forward("blocked", 4, [1, 0, 3, 9]), forward("scan", 4, [1, 0, 3, 9]), 1e-12)


def forward(engine, batch, lengths, **options):
    """The results of a forward pass with one engine, over inputs with NaN in the padding."""
    cell, inputs = rnn.LSTMCell(4), np.random.default_rng(1).normal(size=(batch, 9, 3))
    for row, length in zip(inputs, lengths or [], strict=lengths is not None):
        row[length:] = np.nan
    params = cell.init(jax.random.key(0), np.shape(inputs), jnp.float64)

    def run(*x):
        return rnn.dynamic_rnn(cell, *x, implementation=engine, **options)

    return jax.jit(run)(params, inputs, lengths and jnp.asarray(lengths))


def runs_time_major(flags, reverse, lengths):
    cell, inputs = rnn.CudnnCompatibleGRUCell(4), random().normal(size=(20, 6, 3))
    params = cell.init(jax.random.key(0), inputs.shape, jnp.float64)
    ends = random().integers(0, 21, 6) if lengths else None

    def run(engine):
        def loss(params, inputs):
            return weighted_sum(
                rnn.dynamic_rnn(
                    cell, params, inputs, ends, reverse=reverse, time_major=True,
                    implementation=engine, **flags,
                )
            )  # fmt: skip

        return jax.jit(jax.value_and_grad(loss, (0, 1)))(params, inputs)

    return run("blocked"), run("scan")


@pytest.mark.parametrize("target", [8, 16, 48])
@pytest.mark.parametrize("least, most", [CPU.row_tuning.rows_range, CPU.block_range])
def test_sizes_of_tiles_and_blocks(target, least, most):
    """`part_size` finds a divisor near the target size, or else the fewest overlapping parts."""
    for n in range(1, 2100):
        size = tiling.part_size(n, target, (least, most))
        assert min(n, least * target) <= size <= most * target and size <= n
        if n % size:
            assert not any(
                n % d == 0 for d in range(int(np.ceil(least * target)), int(most * target) + 1)
            )
            assert -(-n // size) == -(-n // int(most * target))


@pytest.mark.parametrize("remat", [None, pytest.param("sqrt", marks=pytest.mark.full)])
@pytest.mark.parametrize("lengths", [True, False])
@pytest.mark.parametrize(
    "axis, sizes",
    [
        (1, (64, 65, 70)),
        (1, (127, 128, 137)),
        (0, (63, 65)),
        (0, (509, 512)),
        pytest.param(1, (4096, 4098, 4099, 4112), marks=pytest.mark.full),
        pytest.param(1, (10_000, 10_007, 10_032), marks=pytest.mark.full),
    ],
)
def test_memory_of_sizes_that_tiles_do_not_divide(axis, sizes, lengths, remat):
    """A size, prime or not, needs at most 1.3 times the memory of any larger one."""
    cell = rnn.LSTMCell(64)

    def memory(size):
        batch, time = (size, 20) if axis == 0 else (16, size)
        inputs = jax.ShapeDtypeStruct((batch, time, 32), jnp.float32)
        params = jax.eval_shape(lambda: cell.init(jax.random.key(0), inputs.shape))
        ends = jax.ShapeDtypeStruct((batch,), jnp.int32) if lengths else None

        def loss(params, inputs, ends):
            options = {"remat": remat, "implementation": "blocked"}
            return weighted_sum(rnn.dynamic_rnn(cell, params, inputs, ends, **options))

        lowered = jax.jit(jax.grad(loss, (0, 1))).lower(params, inputs, ends)
        return lowered.compile().memory_analysis().temp_size_in_bytes

    taken = [memory(size) for size in sizes]
    assert max(a / b for a, b in itertools.combinations(taken, 2)) < 1.3


def test_memory_of_forward_and_backward_passes():
    """A forward pass saves no residuals, and a gradient only the states of each step.

    A forward pass needs time-major inputs, and outputs in both layouts.
    """
    cell, x = rnn.LSTMCell(32), np.ones((32, 1024, 32), np.float32)
    params = cell.init(jax.random.key(0), x.shape)

    def run(p, x):
        return rnn.dynamic_rnn(cell, p, x, implementation="blocked")[0].sum()

    def memory(f):
        return jax.jit(f).lower(params, x).compile().memory_analysis()

    outputs = inputs = 32 * 1024 * 32 * 4
    assert memory(run).temp_size_in_bytes < inputs + 2 * outputs + 2**17
    # A gradient saves c and h of each step. The gates, which are 4 times h, are recomputed.
    assert 4 * outputs < memory(jax.grad(run)).temp_size_in_bytes < 5 * outputs


def residual_elements(cell, *shape, remat=None):
    """How many elements `jax.vjp` saves for the backward pass."""
    params, x = cell.init(jax.random.key(0), shape), np.ones(shape, np.float32)

    def run(p, x):
        return rnn.dynamic_rnn(cell, p, x, remat=remat, implementation="blocked")[0]

    _, pull = jax.eval_shape(lambda p, x: jax.vjp(run, p, x), params, x)
    return sum(r.size for r in jax.tree.leaves(pull))


@pytest.mark.parametrize(
    ("cell", "states", "sums"),
    [(rnn.LSTMCell(8), 2, 4), (rnn.GRUCell(8), 1, 3), (rnn.CudnnCompatibleGRUCell(8), 1, 3 + 1)],
    ids=["lstm", "gru", "gru_after"],
)
def test_residuals(cell, states, sums, monkeypatch):
    """The residuals of a step are its inputs, its state, and the gates unless recomputed.

    If a gate only adds its two products, their sum is saved; else the recurrent product is too.
    """
    for flops, elements in ((CPU.recompute_flops, states), (0, states + sums)):
        tuning = dataclasses.replace(CPU, recompute_flops=flops)
        monkeypatch.setitem(engines.ENGINES, "blocked", Blocked(cpu=tuning))
        # 100 further steps of 2 rows and 8 units.
        more = residual_elements(cell, 2, 200, 8) - residual_elements(cell, 2, 100, 8)
        assert more == 100 * 2 * 8 * (elements + 1 + 1), "plus inputs and outputs"


@pytest.mark.parametrize("remat", [None, 10])
def test_only_large_residuals_are_recomputed(remat, monkeypatch):
    """From `recompute_bytes` on, an LSTM's gates are not saved; with `remat` they never are."""
    cell, of_a_step = rnn.LSTMCell(8), 2 * 8
    saved_bytes = 4 * of_a_step * (2 + 4)

    def elements(steps):
        tuning = dataclasses.replace(CPU, recompute_bytes=steps * saved_bytes)
        monkeypatch.setitem(engines.ENGINES, "blocked", Blocked(cpu=tuning))
        return residual_elements(cell, 2, 200, 8, remat=remat)

    assert elements(201) - elements(200) == (0 if remat else 200 * of_a_step * 4)


@toys.config
class Root(rnn.MatmulCell):
    """Its derivative at 0 is infinite; unwritten buffers contain 0."""

    units: int = 4

    def init(self, key, input_shape, dtype=jnp.float32):
        def normal(i, n):
            return jax.random.normal(jax.random.fold_in(key, i), (n, self.units), dtype)

        return {"w": normal(0, input_shape[-1]), "r": normal(1, self.units)}

    def zero_state(self, batch_shape=(), dtype=jnp.float32):
        return jnp.ones((*toys.batch_of(batch_shape), self.units), dtype)

    def project(self, params, inputs):
        return inputs @ params["w"]

    def recurrent_kernel(self, params):
        return params["r"]

    def hidden(self, state):
        return state

    def pointwise(self, params, projected, recurred, state):
        new = jnp.sqrt(0.1 * state + (projected + recurred) ** 2)
        return new, new


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("remat", [None, 4])
def test_skipped_steps_do_not_make_gradients_nan(remat):
    """Unwritten residuals of skipped steps do not make gradients NaN."""
    close(*runs(Root(), 10, 23, remat), 1e-12)


@toys.config
class Unusual(rnn.MatmulCell):
    """A cell with an integer input leaf, a vector param, and a product that is not just added."""

    units: int = 4
    scale: Any = dataclasses.field(default=2.0, kw_only=True)

    def init(self, key, input_shape, dtype=jnp.float32):
        def normal(i, *shape):
            return jax.random.normal(jax.random.fold_in(key, i), shape, dtype)

        size, units = input_shape["x"][-1], self.units
        return {"w": normal(0, size, units), "r": normal(1, units, units), "v": normal(2, units)}

    def zero_state(self, batch_shape=(), dtype=jnp.float32):
        return jnp.zeros((*toys.batch_of(batch_shape), self.units), dtype)

    def project(self, params, inputs):
        return {"x": inputs["x"] @ params["w"], "ids": inputs["ids"]}

    def hidden(self, state):
        return jnp.sin(state)

    def recurrent_kernel(self, params):
        return params["r"] / jnp.linalg.norm(params["r"])

    def pointwise(self, params, projected, recurred, state):
        v = jnp.expand_dims(params["v"], tuple(range(recurred.ndim - 1)))
        sign = jnp.where(projected["ids"] > 2, 1.0, -1.0).astype(recurred.dtype)
        new = jnp.tanh(projected["x"] * recurred + v * sign) * self.scale
        return {"y": new, "twice": 2 * new}, new


def test_a_user_defined_cell():
    """A user's `MatmulCell` with integer inputs and a normalised kernel runs on `blocked`."""
    cell = Unusual()
    generator = random()
    inputs = {
        "x": generator.normal(size=(6, 9, 3)),
        "ids": generator.integers(5, size=(6, 9, 1)),
    }
    params = cell.init(jax.random.key(0), {"x": (3,), "ids": (1,)}, jnp.float64)

    def run(engine):
        def loss(params, x):
            return weighted_sum(
                rnn.dynamic_rnn(
                    cell, params, inputs | {"x": x}, [9, 4, 0, 7, 1, 9], implementation=engine
                )
            )

        return jax.jit(jax.value_and_grad(loss, (0, 1)))(params, inputs["x"])

    close(run("blocked"), run("scan"), 1e-12)


@toys.config
class Counting(Root):
    """Has an integer or rank-0 leaf in its state, output or params, as `kind` says."""

    kind: str = "count"

    def init(self, key, input_shape, dtype=jnp.float32):
        params = super().init(key, input_shape, dtype)
        return params | {"order": jnp.arange(self.units)[::-1]} if self.kind == "order" else params

    def zero_state(self, batch_shape=(), dtype=jnp.float32):
        rows, h = toys.batch_of(batch_shape), super().zero_state(batch_shape, dtype)
        more = {"count": jnp.zeros(rows, jnp.int32), "scalar": jnp.zeros((), dtype)}
        return {"h": h} | {k: x for k, x in more.items() if k == self.kind}

    def project(self, params, inputs):
        projected = super().project(params, inputs)
        return projected[..., params["order"]] if self.kind == "order" else projected

    def hidden(self, state):
        return state["h"]

    def pointwise(self, params, projected, recurred, state):
        _, h = super().pointwise(params, projected, recurred, state["h"])
        output = {"h": h} | ({"sign": jnp.sign(h).astype(jnp.int32)} if self.kind == "sign" else {})
        return output, {k: x + 1 for k, x in state.items()} | {"h": h}


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("count", "the state of Counting has int32, which has no gradient"),
        ("scalar", "the state of Counting has an array without rows"),
        ("sign", "the output of Counting has int32"),
        ("order", "the params of Counting has int"),
    ],
)
def test_arrays_without_gradient_or_rows(kind, reason):
    """Integer leaves and state leaves without rows are refused by `blocked` and run by `scan`."""
    cell, inputs = Counting(4, kind), jnp.ones((64, 20, 3))
    params = cell.init(jax.random.key(0), inputs.shape, jnp.float64)
    explained = rnn.explain(cell, params, inputs)
    assert explained.chosen == "scan" and reason in explained.reasons["blocked"]
    gradient = jax.grad(lambda x: rnn.dynamic_rnn(cell, params, x)[0]["h"].sum())(inputs)
    assert np.isfinite(gradient).all() and gradient.any()


def assert_equals_scan(run, *arguments):
    """Compares `run(engine, ...)` of the engine that is chosen with that of `scan`."""
    close(run(None, *arguments), run("scan", *arguments), 1e-12)


INPUTS = random().normal(size=(8, 70, 3))
ENDS = random().integers(0, 71, 8)


def test_tracers_that_a_cell_closes_over():
    """A value that the cell closes over is differentiated and vmapped like an argument."""
    params = rnn.BasicRNNCell(4).init(jax.random.key(0), INPUTS.shape, jnp.float64)

    def run(engine, slope):
        cell = rnn.BasicRNNCell(4, activation=lambda x: jnp.tanh(slope * x))
        assert rnn.explain(cell, params, INPUTS).chosen == "blocked"
        return rnn.dynamic_rnn(cell, params, INPUTS, ENDS, implementation=engine)[0].sum()

    for jitted in (lambda f: f, jax.jit):

        def gradient(engine, x, j=jitted):
            return j(jax.grad(lambda x: run(engine, x)))(x)

        assert_equals_scan(gradient, 0.7)
        assert_equals_scan(
            lambda engine, x, j=jitted: j(jax.vmap(lambda x: run(engine, x)))(x), np.ones(2)
        )
    assert_equals_scan(lambda engine, x: jax.jvp(lambda x: run(engine, x), (x,), (1.0,)), 0.7)
    assert abs(gradient(None, 0.7)) > 1


@toys.config
class Prepared(Root):
    """Prepares a number for each row."""

    def prepare(self, params, *, key=None, batch_shape):
        return params | {"z": jnp.arange(batch_shape[0], dtype=jnp.float64)[:, None]}

    def pointwise(self, params, projected, recurred, state):
        new = jnp.tanh(projected + recurred + params["z"])
        return new, new


def test_params_prepared_for_each_row():
    """`blocked` sorts rows, so it refuses a cell whose prepared params have rows."""
    cell, params = Prepared(4), Root(4).init(jax.random.key(0), INPUTS.shape, jnp.float64)
    explained = rnn.explain(cell, params, INPUTS)
    assert explained.reasons["blocked"] == "the result of Prepared.prepare has a batch axis"
    assert_equals_scan(lambda e: rnn.dynamic_rnn(cell, params, INPUTS, ENDS, implementation=e))


@toys.config
class WithoutInit(Root):
    """Cannot create its params."""

    def init(self, key, input_shape, dtype=jnp.float32):
        raise NotImplementedError


def test_params_that_init_does_not_create():
    """`blocked` infers shapes from the given params, not from `init`."""
    params = Root(4).init(jax.random.key(0), INPUTS.shape, jnp.float64)

    def run(e):
        return rnn.dynamic_rnn(WithoutInit(4), params, INPUTS, ENDS, implementation=e)

    assert rnn.explain(WithoutInit(4), params, INPUTS).chosen == "blocked"
    assert_equals_scan(run)


def test_params_that_do_not_fit():
    """With missing params, `explain` gives a reason, and a run raises the usual error."""
    reason = rnn.explain(Root(4), {"w": np.ones((3, 4))}, INPUTS).reasons["blocked"]
    assert reason == "the shapes of Root cannot be inferred: 'r'"
    with pytest.raises(KeyError, match="missing: r"):
        rnn.dynamic_rnn(Root(4), {"w": np.ones((3, 4))}, INPUTS, implementation="blocked")


def test_no_features():
    """Inputs may have 0 features."""
    cell, none = rnn.LSTMCell(4), INPUTS[..., :0]
    params = cell.init(jax.random.key(0), none.shape, jnp.float64)
    assert_equals_scan(lambda e: rnn.dynamic_rnn(cell, params, none, ENDS, implementation=e))


def test_remat_may_be_a_numpy_integer():
    """`remat` takes what `int` takes, such as the result of NumPy's `max`."""
    cell = rnn.LSTMCell(4)
    given = cell, cell.init(jax.random.key(0), INPUTS.shape, jnp.float64), INPUTS, ENDS
    assert_equals_scan(lambda e: rnn.dynamic_rnn(*given, implementation=e, remat=np.int64(3)))


def test_shapes_inferred_for_inner_cells():
    """`blocked` infers the inputs of cells behind an embedding, other layers, or attention."""
    embedded = rnn.EmbeddingWrapper(rnn.GRUCell(4), 7, 5)
    ids = jax.ShapeDtypeStruct((64, 20), jnp.int32)
    params = jax.eval_shape(lambda: embedded.init(jax.random.key(0), ids.shape))
    assert rnn.explain(embedded, params, ids).reasons["blocked"] is None
    grouped = rnn.MultiRNNCell([rnn.GRUCell(6), rnn.GLSTMCell(4, number_of_groups=2)])
    counting = rnn.DropoutWrapper(Counting(4, "count"), 0.5)
    attention = rnn.AttentionWrapper(rnn.GRUCell(4), rnn.LuongAttention(4, memory_size=3))
    attends = rnn.DropoutWrapper(rnn.MultiRNNCell([attention, rnn.GRUCell(4)]), 0.5)
    inputs = jnp.ones((64, 20, 3), jnp.float32)
    for cell, reason in (
        (grouped, None),
        (counting, "the state of Counting has int32, which has no gradient"),
        (attends, None),
    ):
        params = cell.init(jax.random.key(0), inputs.shape)
        if cell is attends:
            params = attends.attend(params, jnp.ones((64, 2, 3), jnp.float32))
        assert rnn.explain(cell, params, inputs).reasons["blocked"] == reason


def test_shapes_and_dtypes_of_the_inputs_of_inner_cells():
    """Inputs behind an embedding, and of the layer after an attention wrapper."""
    embedded = rnn.EmbeddingWrapper(rnn.GRUCell(4), 7, 5)
    attention = rnn.AttentionWrapper(rnn.GRUCell(4), rnn.LuongAttention(4, memory_size=3))
    stack = rnn.MultiRNNCell([attention, rnn.GRUCell(6)])
    ids, inputs = np.zeros((2, 5), np.int32), np.zeros((2, 5, 3), np.float32)
    options = dict(reverse=False, time_major=False, key=None, unroll=1, remat=None)

    def received(cell, inputs, memory=None):
        params = cell.init(jax.random.key(0), inputs.shape)
        params = params if memory is None else cell.attend(params, memory)
        given = cell, params, inputs, None, None, None, None
        request = _rnn._request(*given, dtype=jnp.float32, **options)
        return [(part.inputs.shape, part.inputs.dtype) for part in innermost(request)]

    assert received(embedded, ids) == [((1, 1, 5), jnp.float32)]
    # The second layer receives the attention, which has the size of the memory.
    memory = jnp.ones((2, 7, 3), jnp.float32)
    assert [shape[2:] for shape, _ in received(stack, inputs, memory)] == [(3,), (3,)]


@toys.config
class Masked(Root):
    """Draws a mask for each row if it has a key."""

    def prepare(self, params, *, key=None, batch_shape):
        mask = {} if key is None else {"m": jax.random.normal(key, (*batch_shape, self.units))}
        return params | mask


def test_params_prepared_with_a_key():
    """`blocked` refuses a cell that prepares a mask per row only if there is a key."""
    params = Root(4).init(jax.random.key(0), INPUTS.shape, jnp.float64)

    def reason(**o):
        return rnn.explain(Masked(4), params, INPUTS, **o).reasons["blocked"]

    assert reason() is None
    assert reason(key=jax.random.key(0)) == "the result of Masked.prepare has a batch axis"


@toys.config
class Between(Root):
    """Multiplies parts 1 and 3 of its recurrent product, and only adds parts 2 and 4."""

    def init(self, key, input_shape, dtype=jnp.float32):
        wide = Root(4 * self.units).init(key, input_shape, dtype)
        return {"w": wide["w"], "r": wide["r"][: self.units]}

    def pointwise(self, params, projected, recurred, state):
        x, h = jnp.split(projected, 4, -1), jnp.split(recurred, 4, -1)
        new = jnp.tanh(x[0] * h[0] + x[2] * h[2] + jax.nn.sigmoid(x[1] + h[1]) + (x[3] + h[3]))
        return new, new


@pytest.mark.usefixtures("small_tiles")
def test_preactivations_in_some_columns():
    """Gradients are right where only some gate columns are pure pre-activations."""
    close(*runs(Between(4), 10, 23), 1e-12)


def test_hoist():
    """`hoist` splits off what depends on the params alone; constants are not passed on."""

    def f(params, x):
        table = jnp.arange(3.0) * 2
        return jnp.tanh(x @ jnp.concatenate([params["a"], params["b"]], -1)) + table, params["a"]

    params = {"a": jnp.ones((2, 1)), "b": jnp.full((2, 2), 2.0)}
    x = jnp.asarray(random().normal(size=(4, 2)))
    with jax.numpy_rank_promotion("allow"):
        invariants, rest = hoist(f, params, x)
        found = invariants(params)
        assert sorted(v.shape for v in found) == [(2, 1), (2, 3)]
        close(rest(found, x), f(params, x), 0)
        assert "concatenate" not in str(jax.make_jaxpr(rest)(found, x))


def test_stack_with_unsupported_layers():
    """A stack runs the supported layers on `blocked`, with the keys of a run by `scan`."""

    cell = rnn.MultiRNNCell(
        [
            rnn.ResidualWrapper(rnn.DropoutWrapper(rnn.GRUCell(3), 0.7, 0.6)),
            rnn.ZoneoutWrapper(rnn.BasicLSTMCell(4), state_keep_prob=0.7),
            rnn.DropoutWrapper(rnn.BasicRNNCell(3), 0.9, variational_recurrent=True),
        ]
    )
    close(*runs(cell, 6, 9, key=jax.random.key(3)), 1e-12)


def test_a_wrapper_whose_output_is_its_state_is_refused():
    """`EmitState` is run as a whole, by `scan`."""
    explained = rnn.explain(rnn.EmitState(rnn.GRUCell(3)), {}, np.ones((2, 3, 3)))
    assert "EmitState cannot be decomposed: its output" in explained.reasons["blocked"]
