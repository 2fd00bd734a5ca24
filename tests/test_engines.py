"""The table of engines: an engine is registered, requested by name, chosen, and explained."""

import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import close

import jax_dynrnn as rnn
from jax_dynrnn import _rnn, engines
from jax_dynrnn._tools import inner_jaxprs
from jax_dynrnn.engines import devices
from jax_dynrnn.engines.selection import unrolled

X = np.random.default_rng(0).normal(size=(3, 5, 2))
CELL = rnn.GRUCell(4)
PARAMS = CELL.init(jax.random.key(0), X.shape, jnp.float64)
LENGTHS = [5, 3, 0]


class Loop(engines.Engine):
    """An engine with a Python loop over steps, forward only."""

    name = "loop"

    def __init__(self):
        self.runs = []

    def unsupported(self, request):
        flags = request.mask, request.resets, request.key
        if request.reverse or any(x is not None for x in flags):
            return "it runs forward only, without mask, resets and key"
        return None

    def slower_because(self, request):
        return None

    def run(self, run):
        self.runs.append(run)
        state, outputs = run.initial_state, []
        for t in range(run.time):
            x = jax.tree.map(lambda x, t=t: x.take(t, run.time_axis), run.inputs)
            projected = run.cell.project(run.params, x)
            output, new = run.cell.step(run.params, projected, state)
            if run.masks.lengths is not None:
                going = jnp.expand_dims(t < run.masks.lengths, 1)
                output, new = jnp.where(going, output, 0), jnp.where(going, new, state)
            state = new
            outputs.append(output)
        return jnp.stack(outputs, run.time_axis), state


@pytest.fixture
def loop(monkeypatch):
    """Registers the engine `loop`, preferred to all others; the list of its runs."""
    engine = Loop()
    monkeypatch.setitem(engines.ENGINES, "loop", engine)
    monkeypatch.setattr(engines, "PREFERENCE", ["loop", *engines.PREFERENCE])
    return engine.runs


def test_requested_by_name(loop):
    """`implementation=` runs the named engine, with the results of `scan`."""
    reference = rnn.dynamic_rnn(CELL, PARAMS, X, LENGTHS, implementation="scan")
    assert not loop
    close(rnn.dynamic_rnn(CELL, PARAMS, X, LENGTHS, implementation="loop"), reference, 1e-12)
    assert len(loop) == 1


def test_chosen_where_it_is_supported(loop):
    """Without a name, the preferred engine runs the calls that it supports."""
    both = {"fw": PARAMS, "bw": PARAMS}
    rnn.bidirectional_dynamic_rnn(CELL, CELL, both, X, LENGTHS)
    assert len(loop) == 1  # the forward direction; `scan` runs the reversed one


def test_refused_with_its_reason(loop):
    """A requested engine that cannot run a call raises an error with its reason."""
    with pytest.raises(NotImplementedError, match="'loop' cannot run.*forward only"):
        rnn.dynamic_rnn(CELL, PARAMS, X, reverse=True, implementation="loop")
    assert not loop


def test_explained(loop):
    """`explain` gives the chosen engine and the reasons of the others."""
    forward = rnn.explain(CELL, PARAMS, X, LENGTHS)
    assert forward.chosen == "loop" and forward.reasons["scan"] is None
    backward = rnn.explain(CELL, PARAMS, X, LENGTHS, reverse=True)
    assert backward.chosen == "scan" and "forward only" in backward.reasons["loop"]
    assert rnn.explain(CELL, PARAMS, X, reverse=True, implementation="loop").chosen is None
    lines = str(backward).splitlines()
    assert lines[0].split() == ["scan", "chosen"] and "forward only" in lines[-1]
    with pytest.raises(ValueError, match="'scan', 'blocked', 'cudnn', 'pallas', 'loop'.*'fast'"):
        rnn.explain(CELL, PARAMS, X, implementation="fast")


def test_explained_without_arrays():
    """`explain` works with shapes only, including masks and keys."""

    def abstract(tree):
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)

    explanation = rnn.explain(
        CELL,
        abstract(PARAMS),
        abstract(jnp.asarray(X)),
        jax.ShapeDtypeStruct((3,), jnp.int32),
        jax.ShapeDtypeStruct((3, 4), jnp.float64),
        mask=jax.ShapeDtypeStruct((3, 5), jnp.bool_),
        key=jax.eval_shape(lambda: jax.random.key(0)),
    )
    assert explanation.chosen == "scan"
    on_gpus = [explanation.reasons.pop(name) for name in ("cudnn", "pallas")]
    assert explanation.reasons == {"scan": None, "blocked": None}
    assert all("GPU" in reason for reason in on_gpus)


def explained(units, batch, time, **options):
    """The engine chosen for a GRU, and what `explain` says of `blocked`."""
    cell, inputs = rnn.GRUCell(units), jax.ShapeDtypeStruct((batch, time, 2), jnp.float32)
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), inputs.shape))
    explanation = rnn.explain(cell, params, inputs, **options)
    return explanation.chosen, str(explanation).splitlines()[1]


def test_chosen_by_size():
    """`blocked` is chosen by size: not for little work, many rows of a narrow cell, large steps."""
    for sizes, reason in (
        ((4, 3, 5), "compiles faster"),
        ((32, 128, 500), "fewer operations"),
        ((256, 128, 31), "without padding"),
        ((128, 256, 500), "without padding"),
    ):
        chosen, line = explained(*sizes)
        assert chosen == "scan" and reason in line
    for units, batch, time in (
        (64, 64, 500), (32, 129, 500), (32, 31, 500), (256, 128, 32), (128, 255, 500),
    ):  # fmt: skip
        assert explained(units, batch, time)[0] == "blocked"
    lengths, mask = jax.ShapeDtypeStruct((128,), int), jax.ShapeDtypeStruct((128, 16), bool)
    assert explained(256, 128, 16, mask=mask)[0] == "blocked"
    assert explained(256, 128, 16, sequence_length=lengths)[0] == "blocked"


def test_chosen_under_vmap():
    """Without padding, `scan` runs problems of many rows together."""
    for batch, engine in ((127, "blocked"), (128, "scan")):
        cell, inputs, seen = rnn.GRUCell(64), jnp.ones((2, batch, 40, 2)), []
        params = cell.init(jax.random.key(0), inputs.shape[1:])

        def run(x, cell=cell, params=params, seen=seen):
            seen.append(rnn.explain(cell, params, x))
            return x

        jax.vmap(run)(inputs)
        assert seen[0].chosen == engine
        assert (seen[0].vmap is None) == (engine == "scan")


@pytest.mark.parametrize("lengths", [None, [100] * 64])
def test_wrong_params_raise_the_usual_error(lengths):
    """The choice of an engine precedes the check of params, and must not fail on wrong ones."""
    cell, inputs = rnn.CudnnCompatibleGRUCell(4), jnp.ones((64, 100, 3))
    with pytest.raises(KeyError, match="params: expected those of CudnnCompatibleGRUCell"):
        rnn.dynamic_rnn(cell, {"kernel": jnp.ones((7, 4))}, inputs, lengths)


def test_many_steps_in_one_iteration_on_accelerators(monkeypatch):
    """On accelerators, automatically chosen engines have `unroll` of at least 8."""
    ran = []

    class Fast(type(engines.ENGINES["scan"])):
        name = "fast"

        def run(self, run):
            ran.append(run.unroll)
            return super().run(run)

    monkeypatch.setitem(engines.ENGINES, "fast", Fast())
    monkeypatch.setattr(engines, "PREFERENCE", ["fast"])
    monkeypatch.setattr(_rnn, "device", lambda arrays: devices.Device("gpu", "of a test"))
    x = np.random.default_rng(1).normal(size=(3, 40, 2))
    expected = rnn.dynamic_rnn(CELL, PARAMS, x, [40, 7, 0], implementation="scan")
    by_name = {"implementation": "fast"}
    for options in (by_name, by_name | {"unroll": 2}, {"unroll": 2}, {"unroll": 32}):
        close(rnn.dynamic_rnn(CELL, PARAMS, x, [40, 7, 0], **options), expected, 1e-12)
    assert ran == [1, 2, 8, 32]


@pytest.mark.parametrize("units, expected", [(256, 8), (257, 1)])
def test_steps_in_one_iteration_on_a_tpu(units, expected):
    """Eight, and one of a wide cell."""
    tpu = devices.Device("tpu", "of a test")
    assert unrolled(engines.Request(rnn.GRUCell(units), None, X, device=tpu)).unroll == expected


def directions(f, x):
    """Whether each scan is reversed, those in others included."""

    def walk(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name == "scan":
                yield equation.params["reverse"]
            for inner in inner_jaxprs(equation):
                yield from walk(inner)

    return list(walk(jax.make_jaxpr(f)(x).jaxpr))


def test_exported_to_onnx(monkeypatch):
    """While jax2onnx traces, `scan` runs, forward only, and nothing that is traced is kept."""
    inputs = np.random.default_rng(0).normal(size=(64, 50, 32))
    cell = rnn.GRUCell(64)
    params = cell.init(jax.random.key(0), inputs.shape, jnp.float64)
    random = np.random.default_rng(1)
    flags = {"mask": random.random((64, 50)) < 0.8, "resets": random.random((64, 50)) < 0.1}

    def run(x, **options):
        return rnn.dynamic_rnn(cell, params, x, reverse=True, **flags, **options)

    assert rnn.explain(cell, params, inputs, reverse=True, **flags).chosen == "blocked"
    expected = run(inputs, implementation="scan")

    plain_zeros = jnp.zeros

    def zeros(*given, **options):
        return plain_zeros(*given, **options)

    with monkeypatch.context() as patch:
        zeros.__module__ = "jax2onnx.plugins.jax.numpy.zeros"
        patch.setattr(jnp, "zeros", zeros)
        assert rnn.explain(cell, params, inputs, reverse=True, **flags).chosen == "scan"
        with pytest.raises(NotImplementedError, match="jax2onnx is tracing, and can .* scan only"):
            run(inputs, implementation="blocked")
        kept = _rnn._compiled._cache_size()
        close(run(inputs), expected, 1e-12)
        assert directions(run, inputs) == [False]
        close(run(inputs, remat=7), expected, 1e-12)
        in_chunks = directions(lambda x: run(x, remat=7), inputs)
        assert len(in_chunks) == 3 and not any(in_chunks)
        assert _rnn._compiled._cache_size() == kept
    close(run(inputs), expected, 1e-12)


@pytest.mark.parametrize("calls, chosen", [([], "scan"), (None, "blocked")])
def test_exported_by_jax2tf(monkeypatch, calls, chosen):
    """While jax2tf traces, `scan` runs: LiteRT has no sorting, for one."""
    name = "get_thread_local_state_call_tf_concrete_function_list"
    module = types.SimpleNamespace(**{name: lambda: calls})
    monkeypatch.setitem(sys.modules, "jax.experimental.jax2tf.jax2tf", module)
    cell, inputs = rnn.GRUCell(64), jnp.ones((64, 50, 32))
    params = cell.init(jax.random.key(0), inputs.shape, jnp.float64)
    assert rnn.explain(cell, params, inputs).chosen == chosen


def test_explained_under_vmap():
    """Under `vmap`, `explain` says that the chosen engine runs one problem after the other."""
    cell, found = rnn.GRUCell(64), []
    inputs = jnp.ones((2, 64, 50, 32))
    params = jax.vmap(lambda key: cell.init(key, (1, 32), jnp.float64))(
        jax.random.split(jax.random.key(0), 2)
    )

    def run(params, inputs):
        found.append(rnn.explain(cell, params, inputs))
        return rnn.dynamic_rnn(cell, params, inputs)[1]

    jax.eval_shape(jax.vmap(run), params, inputs)
    found.append(rnn.explain(cell, jax.tree.map(lambda x: x[0], params), inputs[0]))
    assert [each.chosen for each in found] == ["blocked", "blocked"]
    assert "vmap: problems run one after the other" in str(found[0])
    assert "vmap" not in str(found[1])
