"""The engine `pallas` for TPUs, without one: its kernels in Pallas' interpreter for TPUs.

The interpreter simulates a TPU's memories and copies; memory that was never written holds NaN.
`tests/tpu` compiles the kernels with the compiler for TPUs.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow_oracle as oracle
import toys
from golden.make_golden import expected, problem
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from kernel_cases import (
    CELLS,
    EVERYTHING,
    FLAGS,
    GOLDEN,
    LENGTHS,
    MORE_GOLDEN,
    B,
    D,
    Divided,
    H,
    Own,
    T,
    arguments,
    assert_padding_has_no_effect,
    assert_pallas_equals_scan,
    forget_traces,
    only_full,
    results,
)
from laws import close, weighted_sum
from meshes import BOTH, mesh_of

import jax_dynrnn as rnn
from jax_dynrnn.engines.pallas.engine import PLATFORMS
from jax_dynrnn.engines.pallas.tpu import Tpu, chips, launch, passes, sizes

KIND = "cpu"
"""What JAX calls the device of these tests."""


@pytest.fixture
def v5e(monkeypatch):
    """Simulates a TPU v5e."""
    monkeypatch.setitem(PLATFORMS, "cpu", Tpu())
    monkeypatch.setitem(chips.VMEM, KIND, chips.VMEM["TPU v5e"])


@pytest.fixture
def interpreted(v5e, monkeypatch):
    """Runs the kernels in the interpreter, in blocks of few steps."""
    from jax.experimental.pallas import tpu

    monkeypatch.setattr(chips, "INTERPRET", tpu.InterpretParams())
    monkeypatch.setattr(sizes, "BLOCK_STEPS", (4,))
    forget_traces(monkeypatch)


TOLERANCE = {"float32": 1e-5, "bfloat16": 4 * 2**-7}


def assert_equals_scan(cell, dtype="float32", batch=B, **options):
    """Asserts that `pallas` agrees with `scan`, or is about as close to float64 as `scan` is."""
    assert_pallas_equals_scan(cell, dtype, batch, TOLERANCE[dtype], **options)


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("reverse", [False, only_full(True)])
@pytest.mark.parametrize("dtype", ["float32", only_full("bfloat16")])
def test_equals_scan(interpreted, name, reverse, dtype):
    """Results and gradients equal those of `scan`, with lengths, forward and reversed."""
    assert_equals_scan(CELLS[name], dtype, reverse=reverse, sequence_length=LENGTHS)


@pytest.mark.parametrize("name", ["peepholes", only_full("gru reset after"), only_full("own")])
@pytest.mark.parametrize("reverse", [only_full(False), True])
def test_mask_and_resets(interpreted, name, reverse):
    """A mask and resets, over time-major inputs."""
    flags = {flag: x.T for flag, x in FLAGS.items()}
    options = {"reverse": reverse, "time_major": True, "sequence_length": LENGTHS}
    assert_equals_scan(CELLS[name], "bfloat16", **options, **flags)


def test_without_lengths(interpreted):
    """Runs without lengths, with and without resets, that do not fill tiles and blocks."""
    assert_equals_scan(CELLS["lstm"])
    assert_equals_scan(CELLS["vanilla"], resets=FLAGS["resets"])


def test_without_masks(interpreted, monkeypatch):
    """Where rows and steps fill tiles and blocks, a run without lengths needs no masks at all."""
    monkeypatch.setattr(sizes, "BLOCK_STEPS", (3,))
    assert_equals_scan(CELLS["lstm"], batch=8)


def test_stacks_and_wrappers(interpreted):
    """A stack runs layer by layer, and a wrapped cell inside of its wrapper."""
    residual = rnn.ResidualWrapper(CELLS["vanilla"])
    stack = rnn.MultiRNNCell([CELLS["vanilla"], residual])
    assert_equals_scan(stack, sequence_length=LENGTHS)


@pytest.mark.parametrize("flags", [only_full({}), FLAGS], ids=["lengths", "flags"])
@pytest.mark.parametrize("cell", [rnn.LSTMCell(200), only_full(Own(40)), Divided(1)], ids=repr)
def test_units_that_do_not_fill_lanes(interpreted, cell, flags):
    """Units that do not fill vector registers, in one slice of them and in two."""
    assert_equals_scan(cell, sequence_length=LENGTHS, **flags)


def test_all_supported_arithmetic(interpreted):
    """A cell with every supported primitive, custom derivatives and `stop_gradient`."""
    assert_equals_scan(EVERYTHING, "float32", sequence_length=LENGTHS)


@pytest.mark.parametrize("name", ["gru reset after", only_full("lstm")])
@pytest.mark.parametrize("fits", [True, False], ids=["projects", "only the rest fits"])
def test_several_tiles(interpreted, monkeypatch, name, fits):
    """Tiles of few rows, each up to its longest row, of which one has none at all.

    With less memory the inputs are projected outside of the kernel.
    """
    chosen, choose = [], passes.choose_sizes
    monkeypatch.setattr(passes, "choose_sizes", lambda *a: chosen.append(choose(*a)) or chosen[-1])
    monkeypatch.setattr(passes, "cuts", lambda *a: iter([(8, 4)]))
    lengths = np.array([*LENGTHS, 2, 0, 6] + [0] * 8 + [3, 1, 6, 6], np.int32)
    if not fits:
        assert_equals_scan(CELLS[name], "float32", 20, sequence_length=lengths)
        needs = passes.vmem_bytes(chosen.pop())
        chosen.clear()
        forget_traces(monkeypatch)
        monkeypatch.setitem(chips.VMEM, KIND, int((needs - 1) / chips.PART_FOR_ARRAYS))
    assert_equals_scan(CELLS[name], "float32", 20, sequence_length=lengths)
    assert {(s.tiles, s.projection is None) for s in chosen} == {(3, not fits)}


@pytest.mark.parametrize("reverse", [False, True])
def test_loops_and_chunks(interpreted, monkeypatch, reverse):
    """Steps that are not all unrolled, and matmuls in several parts."""
    small = {
        "UNROLLED_REGISTERS": 1,
        "MATMUL_ROWS": 16,
        "MATMUL_COLUMNS": 128,
        "GRADIENT_ROWS": 128,
    }
    for name, value in small.items():
        monkeypatch.setattr(launch, name, value)
    assert_equals_scan(rnn.LSTMCell(200), sequence_length=LENGTHS, reverse=reverse)


@toys.config
class Written(Own):
    """A state leaf that is never read, one that never changes, and a constant output."""

    def pointwise(self, params, projected, recurred, state):
        output, new = super().pointwise(params, projected, recurred, state)
        return (output, jnp.ones_like(new["b"])), {"a": state["a"], "b": new["b"]}


@pytest.mark.parametrize("batch", [8, B], ids=["all valid", "padded"])
def test_what_does_not_vary(interpreted, monkeypatch, batch):
    """Cotangents and results that are one number for all units."""
    monkeypatch.setattr(sizes, "BLOCK_STEPS", (3,))
    assert_equals_scan(Written(), batch=batch)


def test_garbage_in_the_padding(interpreted):
    """NaN in the padding changes no result and no gradient."""
    assert_padding_has_no_effect(CELLS["gru reset after"], "float32")


@pytest.mark.parametrize("run", ["dynamic", only_full("bidirectional")])
@pytest.mark.parametrize("name", GOLDEN + [only_full(n) for n in MORE_GOLDEN])
def test_agrees_with_tensorflow(interpreted, name, run):
    """Outputs, states and gradients agree with those that TensorFlow computed."""
    config = oracle.CONFIGS[name]
    stored = np.load(f"{oracle.__file__.rpartition('/')[0]}/golden/{name}.npz")
    found = oracle.ours(config, problem(config, run), "float32", implementation="pallas")
    close(oracle.flat(found), expected(stored, run), 1e-5)


def test_transforms(interpreted):
    """`vmap` over lengths, params and inputs, `jvp`, and second-order derivatives agree."""
    cell = CELLS["vanilla"]
    params, inputs, state = arguments(cell, "float32")
    lengths = np.stack([LENGTHS, LENGTHS[::-1]])

    def run(engine, params, lengths, inputs):
        outputs, _ = rnn.dynamic_rnn(
            cell, params, inputs, lengths, initial_state=state, implementation=engine
        )
        return weighted_sum(jnp.sin(outputs))

    def both(of, *arguments):
        found = [jax.jit(of, static_argnums=0)(engine, *arguments) for engine in ("pallas", "scan")]
        close(*found, 1e-5)

    gradient = jax.value_and_grad(run, (1, 3))
    both(jax.vmap(gradient, (None, None, 0, None)), params, lengths, inputs)
    two = jax.tree.map(lambda x: jnp.stack([x, x / 2]), params)
    over = jnp.stack([inputs, -inputs])
    both(jax.vmap(gradient, (None, 0, None, 0)), two, LENGTHS, over)
    direction = jnp.cos(inputs)
    both(lambda e, x: jax.jvp(lambda x: run(e, params, LENGTHS, x), (x,), (direction,)), inputs)
    both(
        lambda e, x: jax.jvp(jax.grad(lambda x: run(e, params, LENGTHS, x)), (x,), (direction,)),
        inputs,
    )


def test_a_key_outside_of_the_step(interpreted):
    """Dropout of inputs and outputs is outside of the kernel, and draws what `scan` draws."""
    cell = rnn.DropoutWrapper(CELLS["lstm"], input_keep_prob=0.6, output_keep_prob=0.7)
    assert_equals_scan(cell, sequence_length=LENGTHS, key=jax.random.key(3))


def test_races(interpreted, monkeypatch):
    """The interpreter finds no copy that another one may overtake."""
    from jax._src.pallas.mosaic.interpret import interpret_pallas_call as interpreter
    from jax.experimental.pallas import tpu

    monkeypatch.setattr(chips, "INTERPRET", tpu.InterpretParams(detect_races=True))
    cell, given = CELLS["lstm"], arguments(CELLS["lstm"], "float32")
    options = {"sequence_length": LENGTHS, "implementation": "pallas"}
    jax.block_until_ready(rnn.dynamic_rnn(cell, *given[:2], **options))
    assert not interpreter.races.races_found  # of the forward kernel
    jax.block_until_ready(results(cell, "pallas", given, sequence_length=LENGTHS))
    assert not interpreter.races.races_found  # of the backward kernel


@BOTH
def test_on_a_mesh(interpreted, axis):
    """Each device runs the kernels for its rows, and the results are those of one device."""
    mesh = mesh_of(axis, (2,), ("rows",))
    cell, lengths = CELLS["vanilla"], np.array([6, 3, 0, 1], np.int32)
    params, inputs, state = arguments(cell, "float32", 4)
    place = {"params": P(), "rows": P("rows")}

    def put(tree, spec):
        return jax.device_put(tree, NamedSharding(mesh, place[spec]))

    def run(params, inputs, lengths):
        def loss(params, inputs):
            return weighted_sum(
                rnn.dynamic_rnn(cell, params, inputs, lengths, implementation="pallas")
            )

        return jax.value_and_grad(loss, (0, 1))(params, inputs)

    found = jax.jit(run)(put(params, "params"), put(inputs, "rows"), put(lengths, "rows"))
    close(jax.device_get(found), jax.device_get(jax.jit(run)(params, inputs, lengths)), 1e-6)


@pytest.mark.parametrize(
    ("cell", "options", "reason"),
    [
        (rnn.LSTMCell(H), {"dtype": jnp.float64}, "multiplies bfloat16 and float32, not float64"),
        (rnn.LSTMCell(H), {"dtype": jnp.float16}, "multiplies bfloat16 and float32, not float16"),
        (rnn.LSTMCell(H), {"remat": 2}, "its kernels have no remat"),
        (rnn.GRUCell(H), {}, "the step of GRUCell is not known as arithmetic within each unit"),
        (rnn.LSTMCell(4096), {}, "the weights of LSTMCell and their gradients take .* MiB, and"),
        (rnn.BasicRNNCell(H, activation=jax.lax.erf), {}, "it uses .*, which kernels do not have"),
    ],
)
def test_unsupported_calls_are_refused_with_a_reason(v5e, cell, options, reason):
    """The error says which property of the cell or call is not supported."""
    inputs = jax.ShapeDtypeStruct((B, T, D), options.pop("dtype", jnp.bfloat16))
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), inputs.shape, inputs.dtype))
    found = rnn.explain(cell, params, inputs, implementation="pallas", **options)
    assert found.chosen is None
    assert re.search(reason, found.reasons["pallas"])


def test_only_by_name(v5e):
    """It can run a call on a TPU, and is not chosen: no TPU has timed it."""
    cell, inputs = rnn.LSTMCell(128), jax.ShapeDtypeStruct((64, 512, 128), jnp.bfloat16)
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), inputs.shape, inputs.dtype))
    explained = rnn.explain(cell, params, inputs)
    assert explained.reasons["pallas"] is None and explained.chosen != "pallas"
    assert "never timed on one" in explained.slower["pallas"]


def test_other_chips_are_refused(monkeypatch):
    """On a TPU whose memory is not known it is refused."""
    monkeypatch.setitem(PLATFORMS, "cpu", Tpu())
    cell, inputs = rnn.LSTMCell(H), jax.ShapeDtypeStruct((B, T, D), jnp.bfloat16)
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), inputs.shape, inputs.dtype))
    assert "and this is cpu" in rnn.explain(cell, params, inputs).reasons["pallas"]
