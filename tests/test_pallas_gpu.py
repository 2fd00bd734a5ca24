"""The engine `pallas` for GPUs, without one: its kernels in Pallas' interpreter, and lowered.

The interpreter runs the kernels with their warpgroups as threads. Lowering checks them against the
layouts, matrix instructions and shared memory of a GPU of compute capability 9. On hardware,
`python -m benchmarks.gpu_check` compares the engine itself.
"""

import os
import re
import subprocess
import sys
import types
from pathlib import Path

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
from jax_dynrnn import _rnn
from jax_dynrnn.engines import devices
from jax_dynrnn.engines.pallas.engine import PLATFORMS
from jax_dynrnn.engines.pallas.gatewise import ELEMENTWISE, Arithmetic
from jax_dynrnn.engines.pallas.gpu import Gpu, kernels, launch, mosaic
from jax_dynrnn.engines.pallas.primitives import for_gpu

BFLOAT16_PAIR_ERROR = 2.0**-16
"""The relative error of a float32 number that is split into a pair of bfloat16."""
TOLERANCE = {
    "float32": 4 * BFLOAT16_PAIR_ERROR,
    "bfloat16": 4 * float(jnp.finfo("bfloat16").eps),
    "float16": 4 * float(jnp.finfo("float16").eps),
}


def interpreter(**options):
    """The parameters of Pallas' interpreter for GPUs."""
    try:
        from jax.experimental.pallas.mosaic_gpu import InterpretGPUParams  # pyright: ignore
    except ImportError:  # before JAX 0.11
        from jax._src.pallas.mosaic_gpu.interpret.params import InterpretGPUParams
    return InterpretGPUParams(**options)


@pytest.fixture
def hopper(monkeypatch):
    """Simulates one GPU of compute capability 9."""
    monkeypatch.setitem(PLATFORMS, "cpu", Gpu())
    monkeypatch.setattr(mosaic, "missing", lambda: None)
    monkeypatch.setattr(jax, "device_count", lambda: 1)


@pytest.fixture
def interpreted(hopper, monkeypatch):
    """Runs the kernels in the interpreter."""
    monkeypatch.setattr(mosaic, "INTERPRET", interpreter())
    forget_traces(monkeypatch)


def assert_equals_scan(cell, dtype="bfloat16", batch=B, **options):
    """Asserts that `pallas` agrees with `scan`, or is about as close to float64 as `scan` is."""
    assert_pallas_equals_scan(cell, dtype, batch, TOLERANCE[dtype], **options)


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("reverse", [False, only_full(True)])
def test_equals_scan(interpreted, name, reverse):
    """Results and gradients equal those of `scan`, with lengths, forward and reversed."""
    assert_equals_scan(CELLS[name], reverse=reverse, sequence_length=LENGTHS)


@pytest.mark.parametrize("name", ["peepholes", "gru reset after", "own"])
@pytest.mark.parametrize("reverse", [only_full(False), True])
def test_mask_and_resets(interpreted, name, reverse):
    """A mask and resets, over time-major inputs."""
    flags = {flag: x.T for flag, x in FLAGS.items()}
    options = {"reverse": reverse, "time_major": True, "sequence_length": LENGTHS}
    assert_equals_scan(CELLS[name], **options, **flags)


def test_stacks_and_wrappers(interpreted):
    """A stack runs layer by layer, and a wrapped cell inside of its wrapper."""
    residual = rnn.ResidualWrapper(CELLS["vanilla"])
    stack = rnn.MultiRNNCell([CELLS["vanilla"], residual])
    assert_equals_scan(stack, sequence_length=LENGTHS)


@pytest.mark.parametrize("name", ["lstm", only_full("gru reset after"), only_full("own")])
def test_in_float32(interpreted, name):
    """In float32, with matmuls in pairs of bfloat16, results equal those of `scan`."""
    with jax.default_matmul_precision("high"):
        assert_equals_scan(CELLS[name], "float32", sequence_length=LENGTHS)


@pytest.mark.parametrize("run", ["dynamic", "bidirectional"])
@pytest.mark.parametrize("name", GOLDEN + [only_full(n) for n in MORE_GOLDEN])
def test_agrees_with_tensorflow(interpreted, name, run):
    """Outputs, states and gradients agree with those that TensorFlow computed."""
    config, stored = oracle.CONFIGS[name], np.load(Path(__file__).parent / "golden" / f"{name}.npz")
    with jax.default_matmul_precision("high"):
        found = oracle.ours(config, problem(config, run), "float32", implementation="pallas")
    close(oracle.flat(found), expected(stored, run), BFLOAT16_PAIR_ERROR)


def test_replacements_of_primitives():
    """Replacements of primitives that Mosaic lacks are accurate for large and small numbers."""
    x = np.concatenate([np.linspace(-12, 12, 4001), np.geomspace(1e-30, 100, 200), [200, -200]])
    x = np.concatenate([x, -x[-202:-2], [0, np.inf, -np.inf]]).astype(np.float32)
    wide = x.astype(float)
    with np.errstate(all="ignore"):
        exact = {name: getattr(np, name)(wide) for name in ("ceil", "expm1", "floor", "log1p")}
        exact |= {name: getattr(np, name)(wide) for name in ("sqrt", "tan", "tanh")}
        exact["logistic"] = 1 / (1 + np.exp(-wide))
        exact = {name: found.astype(np.float32) for name, found in exact.items()}
    for name, true in exact.items():
        found = np.asarray(for_gpu(jnp.float32)[name](jnp.asarray(x)), float)
        np.testing.assert_allclose(found, true, 2e-6, 2.0**-126, err_msg=name)


def test_all_supported_arithmetic(interpreted):
    """A cell with every supported primitive, custom derivatives and `stop_gradient`."""
    with jax.default_matmul_precision("high"):
        assert_equals_scan(EVERYTHING, "float32", sequence_length=LENGTHS)
    both = Arithmetic(jax.value_and_grad(lambda x: toys.everything(x).sum()), 3, jnp.ones(3))
    # Only newer versions of JAX have this primitive.
    assert ELEMENTWISE - both.primitives <= {"one_minus_square"}


def test_constants_with_custom_derivatives(interpreted):
    """A constant function whose `custom_jvp` is not zero keeps its derivative."""

    @jax.custom_jvp
    def half(x):
        return jnp.full_like(x, 0.5)

    half.defjvp(lambda x, dx: (half(x[0]), dx[0]))
    cell = rnn.BasicRNNCell(H, activation=lambda x: jnp.tanh(x) * half(x))
    assert_equals_scan(cell, sequence_length=LENGTHS)


def test_cells_over_tracers_are_refused(hopper):
    """A cell that closes over a tracer is refused."""
    given = arguments(rnn.BasicRNNCell(H), "bfloat16")[:2]

    def explained(slope):
        cell = rnn.BasicRNNCell(H, activation=lambda x: jnp.tanh(slope.astype(x.dtype) * x))
        reason = rnn.explain(cell, *given).reasons["pallas"]
        assert "it closes over what is being traced" in reason
        return slope

    jax.grad(explained)(jnp.float32(1.0))


@pytest.mark.usefixtures("hopper")
def test_a_cell_behind_an_embedding():
    """The kernel may run a cell whose inputs are the vectors of ids."""
    embedded = rnn.EmbeddingWrapper(rnn.LSTMCell(H), 7, 5)
    ids = jax.ShapeDtypeStruct((4, 6), jnp.int32)
    params = jax.eval_shape(lambda: embedded.init(jax.random.key(0), ids.shape, jnp.bfloat16))
    assert rnn.explain(embedded, params, ids).reasons["pallas"] is None


def test_without_lengths(interpreted):
    """Runs without lengths, with and without resets, in float16."""
    assert_equals_scan(CELLS["lstm"], "float16")
    assert_equals_scan(CELLS["vanilla"], "float16", resets=FLAGS["resets"])


@pytest.mark.parametrize("cell", [rnn.LSTMCell(48, use_peepholes=True), Own(40), Divided(1)])
@pytest.mark.parametrize("flags", [only_full({}), FLAGS], ids=["lengths", "flags"])
def test_units_that_do_not_fill_a_warpgroup(interpreted, cell, flags):
    """Numbers of units that must be padded to the size of a warpgroup."""
    assert_equals_scan(cell, sequence_length=LENGTHS, **flags)


def test_garbage_in_the_padding(interpreted):
    """NaN in the padding changes no result and no gradient."""
    assert_padding_has_no_effect(CELLS["gru reset after"], "bfloat16")


def test_transforms(interpreted):
    """`vmap` over lengths, `jvp`, and second-order derivatives agree with `scan`."""
    cell = CELLS["vanilla"]
    params, inputs, state = arguments(cell, "bfloat16")
    lengths = np.stack([LENGTHS, LENGTHS[::-1]])

    def run(engine, lengths, inputs):
        outputs, _ = rnn.dynamic_rnn(
            cell, params, inputs, lengths, initial_state=state, implementation=engine
        )
        return weighted_sum(jnp.sin(outputs))

    def both(of, *arguments):
        found = [jax.jit(of, static_argnums=0)(engine, *arguments) for engine in ("pallas", "scan")]
        close(*found, 4 * 2**-7)

    mapped = jax.vmap(jax.value_and_grad(run, 2), (None, 0, None))
    both(mapped, lengths, inputs)
    direction = jnp.cos(inputs)
    both(lambda e, x: jax.jvp(lambda x: run(e, LENGTHS, x), (x,), (direction,)), inputs)
    both(lambda e, x: jax.jvp(jax.grad(lambda x: run(e, LENGTHS, x)), (x,), (direction,)), inputs)


@pytest.mark.parametrize("lengths", [LENGTHS, only_full(None)], ids=["lengths", "no lengths"])
def test_nested_vmap(interpreted, lengths):
    """`vmap` over flags, inside of one over params, inputs, states and lengths."""
    cell = Own(40)
    flags = {name: jnp.stack([x, x[::-1]]) for name, x in FLAGS.items()}
    ends = None if lengths is None else jnp.stack([lengths, lengths[::-1]])

    def run(engine, dtype):
        given = jax.tree.map(lambda x: jnp.stack([x, x / 2]), arguments(cell, dtype))

        def one(g, n, f):
            return results(cell, engine, g, sequence_length=n, **f)

        over_flags = jax.vmap(one, (None, None, 0))
        return jax.vmap(over_flags, (0, None if ends is None else 0, None))(given, ends, flags)

    def exact():
        return run("scan", "float64")

    close(run("pallas", "bfloat16"), run("scan", "bfloat16"), 4 * 2**-7, exact)


def test_vmap_is_one_launch(hopper):
    """`vmap` over params or rows is one launch per pass, without a loop over the problems."""
    cell, inputs = rnn.LSTMCell(128), jnp.zeros((3, 20, 50, 8), jnp.bfloat16)

    def init(key):
        return cell.init(key, inputs.shape[1:], inputs.dtype)

    keys = jax.random.split(jax.random.key(0), 3)
    one, every = jax.eval_shape(lambda: (init(keys[0]), jax.vmap(init)(keys)))

    def loops(params, inputs, *axes):
        def loss(params, inputs):
            def run(p, x):
                return rnn.dynamic_rnn(cell, p, x, implementation="pallas")

            return weighted_sum((jax.vmap(run, axes) if axes else run)(params, inputs))

        traced = jax.jit(jax.grad(loss)).trace(params, inputs)
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
        assert text.count("custom_call @mosaic_gpu") == 2
        return text.count("stablehlo.while")

    alone = loops(one, inputs[0])
    assert loops(every, inputs, 0, 0) == loops(one, inputs, None, 0) == alone


@BOTH
def test_on_a_mesh_each_device_launches_kernels_for_its_rows(hopper, axis):
    """Both passes lower for a GPU inside of one `shard_map`; by itself it is not chosen there."""
    mesh = mesh_of(axis, (4,), ("rows",))
    rows, everywhere = NamedSharding(mesh, P("rows")), NamedSharding(mesh, P())
    cell, shape = rnn.LSTMCell(128), (80, 50, 8)
    inputs = jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=rows)
    params = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere),
        jax.eval_shape(lambda: cell.init(jax.random.key(0), shape, jnp.bfloat16)),
    )

    def loss(params, inputs):
        found = rnn.dynamic_rnn(cell, params, inputs, implementation="pallas")
        return weighted_sum(found)

    traced = jax.jit(jax.grad(loss)).trace(params, inputs)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("custom_call @mosaic_gpu") == 2 and "sdy.manual_computation" in text
    explained = rnn.explain(cell, params, inputs)
    assert explained.reasons["pallas"] is None and "20 of 80 rows" in explained.mesh
    assert "without a mesh" in explained.slower["pallas"] and explained.chosen != "pallas"


# The interpreter runs warpgroups as threads of the host, which wait for each other: there must be
# enough of them (NPROC).
MANY = """
import sys
sys.path.insert(0, sys.argv[1])
import conftest, jax, numpy as np, test_pallas_gpu as gpu
from jax_dynrnn.engines.pallas.engine import PLATFORMS
import jax_dynrnn as rnn

PLATFORMS["cpu"] = gpu.Gpu()
gpu.mosaic.missing, jax.device_count = lambda: None, lambda: 1
gpu.mosaic.INTERPRET = gpu.interpreter(detect_races=True)
for cell in (rnn.LSTMCell(128), rnn.CudnnCompatibleGRUCell(100)):
    lengths = np.resize(gpu.LENGTHS, 20)
    gpu.assert_equals_scan(cell, batch=20, sequence_length=lengths)
    from jax._src.pallas.mosaic_gpu.interpret import gpu_callbacks
    assert not gpu_callbacks.get_races().races_found
"""


def test_many_warpgroups_and_tiles():
    """Warpgroups exchange their units correctly, and without data races."""
    here = Path(__file__).parent
    environment = os.environ | {"NPROC": "16"}
    command = [sys.executable, "-c", MANY, str(here)]
    found = subprocess.run(
        command, capture_output=True, text=True, cwd=here.parent, env=environment, timeout=300
    )
    assert not found.returncode, found.stderr


LOWERED = {
    "lstm": (rnn.LSTMCell(128, use_peepholes=True, cell_clip=3.0), "bfloat16", 2),
    "gru reset after": (rnn.CudnnCompatibleGRUCell(128), "float32", 2),
    "vanilla": (rnn.BasicRNNCell(512), "bfloat16", 8),
    "own": (Own(100), "float32", 2),
    "all arithmetic": (EVERYTHING, "float32", 1),
    "lstm 64": (rnn.LSTMCell(64), "bfloat16", 1),
    "lstm 256": (rnn.LSTMCell(256), "float16", 4),
    "gru 192": (rnn.CudnnCompatibleGRUCell(192), "float32", 3),
    "gru 384": (rnn.CudnnCompatibleGRUCell(384), "bfloat16", 6),
    "vanilla 640": (rnn.BasicRNNCell(640), "bfloat16", 5),
}
"""Cells, dtypes, and the number of SMs (the cluster) that share the recurrent matrix."""
EVERYDAY = {
    False: ("lstm", "vanilla", "all arithmetic", "lstm 256"),
    True: ("lstm", "vanilla 640"),
}
"""The cells of the everyday suite, with (True) and without flags."""


@pytest.mark.parametrize("name, flags", [
    pytest.param(
        name, flags, id=f"{name}-{'flags' if flags else 'lengths'}",
        marks=[] if name in EVERYDAY[flags] else [pytest.mark.full],
    )
    for name in LOWERED for flags in (False, True)
])  # fmt: skip
def test_lowers_for_a_gpu(hopper, monkeypatch, name, flags):
    """Both kernels lower for a GPU at a realistic size, with the expected cluster."""
    launched, run = [], launch.launch
    monkeypatch.setattr(
        kernels, "launch", lambda s, *a, **k: launched.append(s.cluster) or run(s, *a, **k)
    )
    cell, dtype, cluster = LOWERED[name]
    batch, time = 80, 512
    inputs = jax.ShapeDtypeStruct((batch, time, 128), dtype)
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), inputs.shape, dtype))
    lengths = jax.ShapeDtypeStruct((batch,), jnp.int32)
    options = {"resets": np.zeros((batch, time), bool)} if flags else {}

    def loss(params, inputs, lengths):
        found = rnn.dynamic_rnn(cell, params, inputs, lengths, implementation="pallas", **options)
        return weighted_sum(found)

    with jax.default_matmul_precision("high"):
        traced = jax.jit(jax.grad(loss, (0, 1))).trace(params, inputs, lengths)
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert len(re.findall(r"custom_call @mosaic_gpu", text)) == 2
    assert set(launched) == {cluster}


def test_fewer_blocks_where_there_are_many_tiles():
    """Clusters shrink if tiles exceed the SMs, but never below what holds the matrix."""
    step = types.SimpleNamespace(units=128, gates=4)
    assert [launch.cluster_size(step, "bfloat16", n) for n in (1, 66, 67)] == [2, 2, 1]
    assert [launch.cluster_size(step, "float32", n) for n in (1, 67)] == [2, 2]


@pytest.mark.parametrize(
    ("cell", "options", "reason"),
    [
        (rnn.LSTMCell(H), {"dtype": jnp.float64}, "bfloat16, float16 and float32, not float64"),
        (rnn.LSTMCell(H), {"dtype": jnp.float32}, "pairs of bfloat16, and 'highest' is asked for"),
        (rnn.LSTMCell(H), {"remat": 2}, "its kernels have no remat"),
        (rnn.GRUCell(H), {}, "the step of GRUCell is not known as arithmetic within each unit"),
        (rnn.LayerNormLSTMCell(H, layer_norm=True), {}, "step of LayerNormLSTMCell is not known"),
        (rnn.LSTMCell(320), {}, "no cluster .* of LSTMCell with 320 units in bfloat16"),
        (
            rnn.MultiRNNCell([rnn.LSTMCell(H), rnn.GRUCell(H)]),
            {},
            "layer.*: the step of GRUCell",
        ),
        (rnn.LSTMCell(H, num_proj=H), {}, "its step has 2 matmuls, and the kernel has one"),
        (rnn.BasicRNNCell(H, activation=jax.lax.erf), {}, "it uses .*, which kernels do not have"),
    ],
)
def test_unsupported_calls_are_refused_with_a_reason(hopper, cell, options, reason):
    """The error says which property of the cell or call is not supported."""
    inputs = jnp.zeros((B, T, D), options.pop("dtype", jnp.bfloat16))
    params = cell.init(jax.random.key(0), inputs.shape, inputs.dtype)
    with pytest.raises(NotImplementedError, match=f"'pallas' cannot run this call: .*{reason}"):
        rnn.dynamic_rnn(cell, params, inputs, implementation="pallas", **options)


def test_chosen_where_it_was_measured(hopper, monkeypatch):
    """`pallas` is chosen on one GPU for sizes that were measured; else `blocked`, never `cudnn`."""
    monkeypatch.setattr(_rnn, "device", lambda tree: devices.Device("gpu", "NVIDIA H200"))

    def explained(dtype="bfloat16", batch=64, units=128, precision="high", activation=None):
        cell = rnn.LSTMCell(units, activation=activation)
        cell = rnn.MultiRNNCell([rnn.DropoutWrapper(cell, 0.5)]) if activation else cell
        inputs = jax.ShapeDtypeStruct((batch, 512, 128), dtype)
        params = jax.eval_shape(lambda: cell.init(jax.random.key(0), inputs.shape, inputs.dtype))
        with jax.default_matmul_precision(precision):
            return rnn.explain(cell, params, inputs)

    assert explained().chosen == "pallas" and "chosen: 1.1 to 3.1 times" in str(explained())
    assert explained("float32").chosen == "pallas" and explained(units=256).chosen == "pallas"
    in_float32 = explained("float32", precision="highest")
    assert in_float32.chosen == "blocked" and in_float32.reasons["cudnn"] is None
    assert "scan is over twice as fast" in in_float32.slower["cudnn"]
    for units in 100, 192:
        other = explained(units=units)
        assert other.chosen == "blocked" and "(64, 128, 256) units only" in other.slower["pallas"]
    assert explained(activation=jax.nn.relu).chosen == "pallas"

    def by_integer(x):
        return jnp.where((3 * x).astype(jnp.int32).astype(bool), x, 0)

    for activation in (jax.nn.softplus, jnp.sin, by_integer):
        other = explained(activation=activation)
        assert other.chosen == "blocked"
        assert "no GPU has run these functions" in other.slower["pallas"]
    many = explained(batch=2048)
    assert many.chosen == "blocked" and "1024 rows of 128 units" in many.slower["pallas"]
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    assert explained().chosen == "blocked"


def test_needs_compute_capability_9(monkeypatch):
    """On another GPU it is refused, with that reason."""
    monkeypatch.setattr(jax, "devices", lambda: [types.SimpleNamespace(compute_capability="9.0")])
    assert mosaic.missing() is None
    monkeypatch.setattr(jax, "devices", lambda: [types.SimpleNamespace(compute_capability="8.0")])
    assert "this is 8.0" in mosaic.missing()


def test_needs_a_gpu():
    """On a CPU it is refused, with that reason, and `scan` is chosen."""
    cell, inputs = rnn.LSTMCell(H), jnp.zeros((B, T, D), jnp.bfloat16)
    params = cell.init(jax.random.key(0), inputs.shape, inputs.dtype)
    explained = rnn.explain(cell, params, inputs)
    assert explained.reasons["pallas"] == "it needs an NVIDIA GPU or a TPU, and this run is on cpu"
    assert explained.chosen == "scan"
