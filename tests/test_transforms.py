"""JAX's transformations of a run: jvp, vmap, checkpoint, shard_map, export, jit."""

import contextlib
import copy
import dataclasses
import functools
import logging
import os
import pathlib
import pickle
import re
import subprocess
import sys

import cases
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
import toys
from cases import CASES, LENGTHS
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from laws import close, supporting_engines, weighted_sum

import jax_dynrnn as rnn
from jax_dynrnn.engines import ENGINES
from jax_dynrnn.engines.blocked import Blocked
from jax_dynrnn.engines.blocked.tuning import CPU

CORE = [case for case in CASES if case.core]
FEW = [case for case in CORE if case.name in ("gru", "lstm", "multi")]
core = pytest.mark.parametrize("case", [
    pytest.param(case, marks=[] if case in FEW else pytest.mark.full, id=case.name) for case in CORE
])  # fmt: skip
"""The everyday suite runs a cell with two matmuls, one with one, and a stack."""
every = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
engines = pytest.mark.parametrize("engine", supporting_engines(FEW[0]))


def loss(case, engine, lengths=LENGTHS):
    """A scalar function of params, inputs and initial state."""

    def function(params, inputs, state):
        return weighted_sum(
            rnn.dynamic_rnn(
                case.cell, params, inputs, lengths, state, key=case.key(), implementation=engine
            )
        )

    return function


def arguments(case, dtype=jnp.float64):
    return case.params(dtype), case.inputs(dtype), case.state(dtype)


def inner(a, b):
    """The inner product of two trees."""
    return sum(float((x * y).sum()) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))


@core
@engines
def test_forward_mode_is_reverse_mode(case, engine):
    """`jvp` and `linearize` agree with `grad`."""
    given, function = arguments(case), loss(case, engine)
    direction = cases.perturbed(jax.tree.map(jnp.zeros_like, given), 4)
    gradient = jax.jit(jax.grad(function, (0, 1, 2)))(*given)
    tangent = jax.jit(lambda g, d: jax.jvp(function, g, d)[1])(given, direction)
    linear = jax.linearize(function, *given)[1](*direction)
    expected = inner(gradient, direction)
    assert abs(float(tangent) - expected) <= 1e-12 * (1 + abs(expected))
    assert abs(float(linear) - expected) <= 1e-12 * (1 + abs(expected))


@core
@engines
def test_second_order(case, engine):
    """A Hessian-vector product (reverse over reverse) agrees with differences of gradients."""
    given = arguments(case)
    direction = cases.perturbed(jax.tree.map(jnp.zeros_like, given), 4)
    gradient = jax.grad(loss(case, engine), (0, 1, 2))

    @jax.jit
    def both(given):
        value, product = jax.vjp(gradient, *given)
        return value, product(direction)

    def move(s):
        return jax.tree.map(lambda x, d: x + s * d, given, direction)

    product = both(given)[1]
    step = 1e-5
    difference = jax.tree.map(
        lambda a, b: (a - b) / (2 * step), both(move(step))[0], both(move(-step))[0]
    )
    close(product, difference, 2e-8)


@core
@engines
def test_vmap_over_one_argument_at_a_time(case, engine):
    """`vmap` over only params (an ensemble), inputs, or lengths equals a loop of runs."""
    params, inputs, state = arguments(case)

    @jax.jit
    def run(params, inputs, lengths):
        return rnn.dynamic_rnn(case.cell, params, inputs, lengths, state, implementation=engine)

    def two(a, b):
        return jax.tree.map(lambda x, y: jnp.stack([x, y]), a, b)

    def pick(tree, i):
        return jax.tree.map(lambda x: x[i], tree)

    options = [
        two(params, cases.perturbed(params, 5)),
        two(inputs, case.inputs(jnp.float64, seed=9)),
        jnp.stack([LENGTHS, LENGTHS[::-1]]),
    ]
    for i, stacked in enumerate(options):
        axes = [None] * 3
        axes[i] = 0
        given = [params, inputs, LENGTHS]
        given[i] = stacked
        actual = jax.jit(jax.vmap(run, axes))(*given)
        for j in range(2):
            given[i] = pick(stacked, j)
            close(pick(actual, j), run(*given), 1e-12)


@core
@engines
def test_checkpoint(case, engine):
    """Gradients under `jax.checkpoint` equal those without it."""
    given, function = arguments(case), loss(case, engine)
    plain = jax.jit(jax.grad(function, (0, 1, 2)))(*given)
    recomputed = jax.jit(jax.grad(jax.checkpoint(function), (0, 1, 2)))(*given)
    close(recomputed, plain, 1e-12)


@core
@engines
def test_without_jit(case, engine):
    """A run under `jax.disable_jit` equals the compiled one. For a single step: test_cells.py."""
    params, inputs, state = arguments(case)
    options = {"key": case.key(), "implementation": engine}

    def run(*a):
        return rnn.dynamic_rnn(case.cell, *a, **options)

    expected = run(params, inputs, LENGTHS, state)
    with jax.disable_jit():
        close(run(params, inputs, LENGTHS, state), expected, 1e-12)


@engines
def test_shard_map(engine):
    """With rows sharded over 4 devices, gradients equal those of one device (with check_vma)."""
    mesh = jax.make_mesh((4,), ("rows",), (AxisType.Auto,), devices=jax.devices()[:4])
    for case in FEW:
        params, inputs, _ = arguments(case)
        resets = inputs[..., 0] > 1.0

        def total(params, inputs, lengths, resets, case=case):
            options = {"resets": resets, "implementation": engine}
            return weighted_sum(rnn.dynamic_rnn(case.cell, params, inputs, lengths, **options)[0])

        def sharded(params, inputs, lengths, resets, total=total):
            def local(*a):
                return jax.lax.psum(total(*a), "rows")

            specs = (P(), P("rows"), P("rows"), P("rows"))
            return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=P())(
                params, inputs, lengths, resets
            )

        one = jnp.asarray(LENGTHS)
        gradient = jax.jit(jax.grad(sharded, (0, 1)))(params, inputs, one, resets)

        # `weighted_sum` weighs elements by their index in the local batch, which is one row here.
        def by_rows(params, inputs, total=total, others=(one, resets)):
            rows = [jnp.expand_dims(x, 1) for x in (inputs, *others)]
            return jax.vmap(total, (None, 0, 0, 0))(params, *rows).sum()

        close(gradient, jax.jit(jax.grad(by_rows, (0, 1)))(params, inputs), 1e-12)


@engines
@pytest.mark.parametrize("name", ["sequence_length", "mask", "resets", "initial_state"])
def test_shard_map_over_one_option(engine, name):
    """Each device has its own lengths, say, for the same inputs: gradients are those of each."""
    cell = rnn.LSTMCell(4)
    params = cell.init(jax.random.key(0), (8, 70, 3), jnp.float64)
    random = np.random.default_rng(0)
    inputs, flags = random.normal(size=(8, 70, 3)), random.random((2, 8, 70)) < 0.1
    option = {
        "sequence_length": flags.sum(2, dtype=np.int32),
        "mask": flags,
        "resets": flags,
        "initial_state": rnn.LSTMStateTuple(*random.normal(size=(2, 2, 8, 4))),
    }[name]

    def gradient(inputs, option):
        def loss(inputs):
            options = {name: option, "implementation": engine}
            return weighted_sum(rnn.dynamic_rnn(cell, params, inputs, **options))

        return jnp.expand_dims(jax.grad(loss)(inputs), 0)

    def local(inputs, option):
        varying = jax.lax.pcast(inputs, "devices", to="varying")
        run = functools.partial(rnn.dynamic_rnn, cell, params, implementation=engine)
        option = jax.tree.map(lambda x: x[0], option)
        return gradient(varying, option), run(inputs, **{name: option})[0]

    mesh = jax.make_mesh((2,), ("devices",), (AxisType.Auto,), devices=jax.devices()[:2])
    specs = {"in_specs": (P(), P("devices")), "out_specs": P("devices")}
    gradients, outputs = jax.jit(jax.shard_map(local, mesh=mesh, **specs))(inputs, option)
    for i in range(2):
        own = jax.tree.map(lambda x, i=i: x[i], option)
        close(gradients[i], gradient(inputs, own)[0], 1e-12)
        expected = rnn.dynamic_rnn(cell, params, inputs, **{name: own})[0]
        close(outputs[8 * i :][:8], expected, 1e-12)


# With few elements in a block, its steps depend on the number of rows: a device divides its rows
# into other blocks than one device divides the whole batch.
FEW_ELEMENTS = dataclasses.replace(CPU, block_elements=2**11)
MESHES = [
    ("scan", AxisType.Auto, CPU),
    ("scan", AxisType.Explicit, CPU),
    ("blocked", AxisType.Auto, FEW_ELEMENTS),
    ("blocked", AxisType.Explicit, FEW_ELEMENTS),
    ("blocked", AxisType.Auto, dataclasses.replace(FEW_ELEMENTS, recompute_flops=0)),
]


@pytest.mark.parametrize("engine, axis, tuning", MESHES)
def test_a_sharded_batch_needs_no_communication(engine, axis, tuning, monkeypatch):
    """With rows on 8 devices, only the backward pass communicates: it sums the gradients."""
    monkeypatch.setitem(ENGINES, "blocked", Blocked(cpu=tuning))
    mesh = jax.make_mesh((8,), ("rows",), (axis,))
    cell = rnn.LSTMCell(4)
    inputs = np.random.default_rng(0).normal(size=(16, 23, 3)).astype(np.float32)
    params = cell.init(jax.random.key(0), inputs.shape)

    def outputs(params, *batch):
        return rnn.dynamic_rnn(cell, params, *batch, implementation=engine)[0]

    def gradient(params, *batch):
        return jax.grad(lambda *a: outputs(*a).sum())(params, *batch)

    def collectives(function):
        rows, everywhere = NamedSharding(mesh, P("rows")), NamedSharding(mesh, P())
        batch = inputs, np.arange(16, dtype=np.int32) * 5 % 24
        placed = jax.device_put(params, everywhere), *jax.device_put(batch, rows)
        program = jax.jit(function).lower(*placed).compile()
        close(program(*placed), function(params, *batch), 1e-5)
        text = program.as_text()
        names = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"
        return set(re.findall(rf"({names})(?:-start)?\(", text))

    assert collectives(outputs) == set()
    assert collectives(gradient) == {"all-reduce"}


LSTM_BLOCK = next(case for case in CASES if case.name == "lstm_block")


def test_docs_example_with_a_device_per_core():
    """The code of docs/engines.md runs on two devices and equals a run on one.

    In a process of its own: the number of devices must be set before JAX starts.
    """
    text = (pathlib.Path(__file__).parents[1] / "docs" / "engines.md").read_text()
    code = (
        text.partition("## The cores of a CPU")[2].partition("```python\n")[2].partition("```")[0]
    )
    code += """
assert inputs.sharding.num_devices == 2
rows = jax.device_get((params, inputs, lengths))
alone = step(*jax.device_put(rows, jax.devices()[0]))
for a, b in zip(*map(jax.tree.leaves, ((value, gradient), alone)), strict=True):
    assert np.abs(np.asarray(a) - b).max() < 1e-6 * (1 + np.abs(b).max())
"""
    subprocess.run([sys.executable, "-c", code], check=True, env=dict(os.environ, XLA_FLAGS=""))


def test_shard_map_over_some_axes_of_a_mesh():
    """With a partial manual mesh, sharded or replicated rows have the gradients of one device."""
    cell, inputs = rnn.LSTMCell(4), np.random.default_rng(0).normal(size=(8, 70, 3))
    params = cell.init(jax.random.key(0), inputs.shape, jnp.float64)
    ends, devices = np.array([70, 3] * 4), jax.devices()[:4]
    mesh = jax.make_mesh((2, 2), ("a", "b"), (AxisType.Auto,) * 2, devices=devices)

    def loss(params, inputs, ends):
        return rnn.dynamic_rnn(cell, params, inputs, ends)[0]

    # Outside of the mesh, a batch of this size is run by `blocked`.
    inputs, ends = np.repeat(inputs, 4, 0), np.repeat(ends, 4)
    assert rnn.explain(cell, params, inputs[:16]).chosen == "blocked"
    expected = jax.jit(jax.grad(lambda p: loss(p, inputs, ends).sum()))(params)
    for spec in (P("a"), P()):
        some = {"in_specs": (P(), spec, spec), "out_specs": spec, "axis_names": {"a"}}
        run = jax.shard_map(loss, mesh=mesh, **some)
        found = jax.jit(jax.grad(lambda p, run=run: run(p, inputs, ends).sum()))(params)
        close(found, expected, 1e-12)


@pytest.mark.parametrize("axis", [AxisType.Auto, AxisType.Explicit])
def test_a_mesh_without_sharded_arguments(axis):
    """A run under `set_mesh` equals one without: unsharded, or with a constraint in the program."""
    cell, inputs = rnn.LSTMCell(4), np.random.default_rng(0).normal(size=(8, 70, 3))
    params = cell.init(jax.random.key(0), inputs.shape, jnp.float64)

    def gradient(engine, place=lambda x: x):
        def run(p, x):
            return rnn.dynamic_rnn(cell, p, place(x), [70, 3] * 4, implementation=engine)

        return jax.jit(jax.value_and_grad(lambda p, x: run(p, x)[0].sum(), (0, 1)))(params, inputs)

    expected = gradient("scan")
    with jax.set_mesh(jax.make_mesh((4,), ("rows",), (axis,), devices=jax.devices()[:4])):
        close(gradient("blocked"), expected, 1e-12)
        eager = rnn.dynamic_rnn(cell, params, inputs, [70, 3] * 4, implementation="blocked")
        close(eager[0].sum(), expected[0], 1e-12)
        if axis == AxisType.Auto:

            def constrained(x):
                return jax.lax.with_sharding_constraint(x, P("rows"))

            close(gradient("blocked", constrained), expected, 1e-12)


@pytest.mark.parametrize("case", [*CORE, LSTM_BLOCK], ids=lambda case: case.name)
def test_export_with_symbolic_batch_and_time(case):
    """A program exported with symbolic sizes runs batches of other sizes."""
    batch, time = jax.export.symbolic_shape("b, t")
    params, _, _ = arguments(case)
    run = jax.jit(lambda p, x, n: rnn.dynamic_rnn(case.cell, p, x, n, unroll=2, remat="sqrt"))
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
    exported = jax.export.export(run)(
        abstract,
        jax.ShapeDtypeStruct((batch, time, cases.D), jnp.float64),
        jax.ShapeDtypeStruct((batch,), jnp.int32),
    )
    reloaded = jax.export.deserialize(exported.serialize())
    for b, t in ((2, 3), (4, 6)):
        inputs = np.random.default_rng(b).normal(size=(b, t, cases.D))
        lengths = np.arange(b, dtype=np.int32)
        close(reloaded.call(params, inputs, lengths), run(params, inputs, lengths), 1e-12)


class CompilationLog(logging.Handler):
    """Collects the messages that JAX logs."""

    def __init__(self):
        super().__init__()
        self.messages = []

    def emit(self, record):
        self.messages.append(record.getMessage())


@contextlib.contextmanager
def compilations():
    """Collects the log messages of JAX's compilations inside of the context."""
    log = CompilationLog()
    loggers = [logging.getLogger(f"jax._src.{name}") for name in ("interpreters.pxla", "dispatch")]
    found = []
    with jax.log_compiles():
        for logger in loggers:
            logger.addHandler(log)
        yield found
        for logger in loggers:
            logger.removeHandler(log)
    found += [m for m in log.messages if "Compiling" in m]


@engines
def test_nothing_is_compiled_twice(engine):
    """A second call, an equal cell, or other lengths cause no compilation."""
    options = {"key": jax.random.key(1), "implementation": engine}

    def make():
        return rnn.MultiRNNCell([rnn.DropoutWrapper(rnn.LSTMCell(3), 0.5), rnn.GRUCell(2)])

    inputs = np.ones((2, 4, 3))
    params = make().init(jax.random.key(0), inputs.shape)
    with compilations() as first:
        rnn.dynamic_rnn(make(), params, inputs, [4, 2], **options)
    with compilations() as second:
        rnn.dynamic_rnn(make(), params, inputs, [4, 2], **options)
        rnn.dynamic_rnn(make(), params, inputs, np.array([1, 3]), **options)
    assert first and not second
    run = jax.jit(lambda p, x, n: rnn.dynamic_rnn(make(), p, x, n, **options))
    run(params, inputs, np.array([4, 2]))
    with compilations() as second:
        run(params, inputs, np.array([1, 3]))
    assert not second


@engines
def test_no_tracer_leaks(engine):
    """A differentiated, compiled run leaks no tracers."""
    cell = rnn.DropoutWrapper(rnn.LSTMCell(3), 0.5, variational_recurrent=True)
    inputs = jnp.ones((2, 4, 3))
    params = cell.init(jax.random.key(0), inputs.shape)

    def total(params, key):
        options = {"key": key, "implementation": engine}
        return rnn.dynamic_rnn(cell, params, inputs, [4, 2], **options)[0].sum()

    with jax.checking_leaks():
        jax.jit(jax.grad(total))(params, jax.random.key(1))


@pytest.mark.parametrize("case", [c for c in CASES if c.configuration], ids=lambda c: c.name)
def test_a_cell_pickles_and_copies(case):
    """A pickled or copied cell has the equality, hash and repr of the original."""
    for other in (pickle.loads(pickle.dumps(case.cell)), copy.deepcopy(case.cell)):
        assert other == case.cell and hash(other) == hash(case.cell)
        assert repr(other) == repr(case.cell)


@pytest.mark.parametrize("wrap", [lambda d: d, lambda d: rnn.MultiRNNCell([rnn.EmitState(d)])])
def test_a_foreign_cell_may_change(wrap):
    """Each run uses the current attributes of a foreign cell, even inside of wrappers."""

    class Scale:
        factor = 1.0

        def init(self, key, input_shape, dtype=jnp.float32):
            return {}

        def zero_state(self, batch_shape=(), dtype=jnp.float32):
            return jnp.zeros((*toys.batch_of(batch_shape), 1), dtype)

        def __call__(self, params, inputs, state, *, key=None):
            return state, state + self.factor * inputs

    foreign = Scale()
    cell = wrap(foreign)
    inputs = np.ones((2, 3, 1))
    params = cell.init(jax.random.key(0), inputs.shape)

    def total():
        return jax.tree.leaves(rnn.dynamic_rnn(cell, params, inputs)[1])[0]

    assert float(total()[0, 0]) == 3
    foreign.factor = 2.0
    assert float(total()[0, 0]) == 6

    def loss(factor):
        foreign.factor = factor
        return total().sum()

    assert float(jax.grad(loss)(4.0)) == float(jax.jit(jax.grad(loss))(5.0)) == 6


def test_configurations_compare_by_value():
    """Cells are equal if class and fields are; a cell has no pytree leaves."""
    assert rnn.MultiRNNCell([rnn.GRUCell(2)]) == rnn.MultiRNNCell((rnn.GRUCell(np.int64(2)),))
    assert rnn.LSTMCell(2) != rnn.LSTMCell(2, forget_bias=0.0)
    assert rnn.LSTMCell(2) != rnn.BasicLSTMCell(2)
    assert not jax.tree.leaves(rnn.LSTMCell(2))


def test_default_promotion_modes_give_the_same_results():
    """JAX's default promotion modes give the result of the strict modes of this suite."""
    case = CORE[0]
    given = arguments(case, jnp.float32)
    strict = loss(case, None)(*given)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        assert float(loss(case, None)(*given)) == float(strict)


@every
def test_dtypes_of_results(case):
    """All floating results have the dtype of params and inputs, or the one of `dtype=`."""

    def dtypes(of, **options):
        def run():
            given = case.params(of), case.inputs(of)
            return rnn.dynamic_rnn(case.cell, *given, **options)

        leaves = jax.tree.leaves(jax.eval_shape(run))
        return {x.dtype for x in leaves if jnp.issubdtype(x.dtype, jnp.floating)}

    for dtype in (jnp.float64, jnp.float32, jnp.bfloat16, jnp.float16):
        assert dtypes(dtype) == {jnp.dtype(dtype)}
    assert dtypes(jnp.float64, dtype=jnp.bfloat16) == {jnp.dtype(jnp.bfloat16)}


def test_a_state_keeps_its_dtype():
    """An initial state in a wider dtype than the inputs keeps it through the run."""

    @toys.config
    class Wide(toys.Sum):
        def __call__(self, params, inputs, state, *, key=None):
            total = state + inputs.astype(state.dtype)
            return total.astype(inputs.dtype), total

    outputs, state = rnn.dynamic_rnn(
        Wide(), {}, np.ones((1, 4, 1), np.float16), None, np.full((1, 1), 2048.0, np.float32)
    )
    assert outputs.dtype == np.float16 and state.dtype == np.float32 and float(state[0, 0]) == 2052


def test_without_x64():
    """With x64 off, float64 arguments give float32 results that agree with float64."""
    case = CORE[3]
    params, inputs = jax.tree.map(np.asarray, arguments(case)[:2])
    with jax.enable_x64(False):
        got = rnn.dynamic_rnn(case.cell, params, inputs, [5, 3, 1, 0])
        assert {x.dtype for x in jax.tree.leaves(got)} == {jnp.dtype(jnp.float32)}
    wide = rnn.dynamic_rnn(case.cell, *arguments(case)[:2], LENGTHS)
    close(got, wide, 1e-5)


def test_16_bit_matmuls_accumulate_in_32_bits():
    """A 16-bit matmul over 4096 terms has the error of one rounding, not of 4096."""
    for dtype in (jnp.bfloat16, jnp.float16):
        cell = rnn.BasicRNNCell(2, activation=lambda x: x)
        random = np.random.default_rng(0)
        inputs = jnp.asarray(random.uniform(size=(3, 1, 4096)), dtype)
        params = {
            "kernel": jnp.asarray(random.uniform(size=(4098, 2)) / 4096, dtype),
            "bias": jnp.zeros(2, dtype),
        }

        def wide(tree):
            return jax.tree.map(lambda x: x.astype(jnp.float64), tree)

        exact = rnn.dynamic_rnn(cell, wide(params), wide(inputs))[1]
        got = rnn.dynamic_rnn(cell, params, inputs)[1].astype(jnp.float64)
        assert float(jnp.abs(got / exact - 1).max()) <= float(jnp.finfo(dtype).eps)
