"""The Linen and NNX layers: they agree with the functions, and can be saved and restored."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import toys
from cases import LENGTHS
from flax import linen as nn
from flax import nnx
from laws import close

import jax_dynrnn as rnn
from jax_dynrnn import linen as rnnl
from jax_dynrnn import nnx as rnnx

X = np.random.default_rng(0).normal(size=(4, 5, 3)).astype(np.float32)
LSTM, GRU, DROP = rnn.LSTMCell(4), rnn.GRUCell(2), rnn.DropoutWrapper(rnn.GRUCell(4), 1.0, 0.5)


def function(kind):
    """The function `(params, inputs, ...)` that a kind of layer wraps."""
    both = (LSTM, GRU)
    if kind == "RNN":
        return lambda *a, **o: rnn.dynamic_rnn(LSTM, *a, **o)
    if kind == "Bidirectional":

        def merged(*a, **o):
            outputs, states = rnn.bidirectional_dynamic_rnn(LSTM, GRU, *a, **o)
            return jnp.concatenate(outputs, -1), states

        return merged

    def stacked(*a, **o):
        outputs, fw, bw = rnn.stack_bidirectional_dynamic_rnn(both, both[::-1], *a, **o)
        return outputs, (fw, bw)

    return stacked


ARGUMENTS = {
    "RNN": (LSTM,),
    "Bidirectional": (LSTM, GRU),
    "StackedBidirectional": ([LSTM, GRU], [GRU, LSTM]),
}


def linen(kind, **options):
    """`(run(params, *arguments, **options), params)` of a Linen layer."""
    layer = getattr(rnnl, kind)(*ARGUMENTS[kind], **options)
    variables = layer.init(jax.random.key(0), X)

    def run(params, *a, **o):
        return layer.apply({"params": {"cell": params}}, *a, **o)

    return run, variables["params"]["cell"]


def values(layer):
    """The params of an NNX layer as plain arrays."""

    def is_param(x):
        return isinstance(x, nnx.Variable)

    return jax.tree.map(lambda p: p.get_value(), layer.params, is_leaf=is_param)


def nnx_layer(kind, **options):
    """`(run(params, *arguments, **options), params)` of an NNX layer."""
    layer = getattr(rnnx, kind)(*ARGUMENTS[kind], in_features=3, rngs=nnx.Rngs(0), **options)
    graph, state = nnx.split(layer)

    def run(params, *a, **o):
        merged = nnx.merge(graph, state)
        merged.params = nnx.data(jax.tree.map(nnx.Param, params))
        return merged(*a, **o)

    return run, values(layer)


@pytest.mark.parametrize("kind", ARGUMENTS)
@pytest.mark.parametrize("make", [linen, nnx_layer])
def test_a_layer_equals_its_function(make, kind):
    """Results and gradients agree, under jit, with lengths, resets and a dtype."""
    run, params = make(kind)
    resets = X[..., 0] > 1

    def gradients(run):
        def loss(params, inputs):
            outputs, states = run(params, inputs, LENGTHS, resets=resets, dtype=jnp.float64)
            total = sum(jnp.sin(x).sum() for x in jax.tree.leaves((outputs, states)))
            return total, (outputs, states)

        return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(params, jnp.asarray(X))

    close(gradients(run), gradients(function(kind)), 1e-12)


@pytest.mark.parametrize("make", [linen, nnx_layer])
def test_initial_states(make):
    """Layers pass initial states on, by position and by name."""
    run, params = make("RNN")
    state = rnn.LSTMStateTuple(jnp.ones((4, 4), jnp.float32), jnp.ones((4, 4), jnp.float32))
    expected = function("RNN")(params, X, LENGTHS, state)
    close(run(params, X, LENGTHS, state), expected, 1e-6)
    close(run(params, X, sequence_length=LENGTHS, initial_state=state), expected, 1e-6)
    run, params = make("Bidirectional")
    backward = jnp.ones((4, 2), jnp.float32)
    expected = function("Bidirectional")(params, X, LENGTHS, state, backward)
    close(run(params, X, LENGTHS, state, backward), expected, 1e-6)
    named = run(params, X, LENGTHS, initial_state_fw=state, initial_state_bw=backward)
    close(named, expected, 1e-6)


@pytest.mark.parametrize("make", [linen, nnx_layer])
def test_merge_fn(make):
    """`merge_fn` merges the outputs of both directions; with `None` they are a pair."""
    run, params = make("Bidirectional", merge_fn=None)
    outputs = run(params, X)[0]
    assert isinstance(outputs, tuple) and [y.shape[-1] for y in outputs] == [4, 2]
    run, params = make("Bidirectional", merge_fn=lambda fw, bw: fw[..., :2] * bw)
    np.testing.assert_array_equal(run(params, X)[0], outputs[0][..., :2] * outputs[1])


def test_attention_step_by_step():
    """Steps with the memory equal a run of an attending layer; missing memories are refused."""
    cell = rnn.AttentionWrapper(rnn.GRUCell(4), rnn.LuongAttention(4, memory_size=2))
    memory = {"memory": X[:, :3, :2], "memory_length": LENGTHS % 4}
    layer = rnnl.RNN(rnn.MultiRNNCell([LSTM, cell]))
    variables = layer.init(jax.random.key(0), X, **memory)
    outputs, final = layer.apply(variables, X, **memory)
    state = layer.apply(variables, 4, method="start", **memory)
    other = rnnx.RNN(rnn.MultiRNNCell([LSTM, cell]), in_features=3, rngs=nnx.Rngs(0))
    other.params = nnx.data(jax.tree.map(nnx.Param, variables["params"]["cell"]))
    other_state = other.start(4, **memory)
    for t in range(5):
        output, state = layer.apply(variables, X[:, t], state, method="step", **memory)
        np.testing.assert_allclose(output, outputs[:, t], atol=1e-6)
        output, other_state = other.step(X[:, t], other_state, **memory)
        np.testing.assert_allclose(output, outputs[:, t], atol=1e-6)
    close((state, other_state), (final, final), 1e-6)
    with pytest.raises(ValueError, match="expected params with a memory, got none; call params ="):
        layer.apply(variables, X)
    with pytest.raises(TypeError, match="expected an AttentionWrapper somewhere inside, got none"):
        rnnl.RNN(LSTM).init(jax.random.key(0), X, **memory)
    with pytest.raises(TypeError, match="only a layer of one cell, an RNN"):
        rnnl.Bidirectional(cell).init(jax.random.key(0), X, **memory)
    with pytest.raises(TypeError, match="memory_length: expected memory= with it, got None"):
        layer.apply(variables, X, memory_length=LENGTHS)


def test_step_and_start():
    """`start` and repeated `step`s equal a run."""
    layer = rnnl.RNN(rnn.LearnedInitialState(LSTM))
    variables = layer.init(jax.random.key(0), X)
    variables["params"]["cell"]["initial_state"]["h"] += 0.5
    outputs, final = layer.apply(variables, X)
    state = layer.apply(variables, 4, method="start")
    assert float(state.h[0, 0]) == 0.5
    for t in range(5):
        output, state = layer.apply(variables, X[:, t], state, method="step")
        np.testing.assert_allclose(output, outputs[:, t], atol=1e-6)
    close(state, final, 1e-6)
    layer = rnnx.RNN(LSTM, in_features=3, rngs=nnx.Rngs(0))
    outputs, final = layer(X)
    state = layer.start((4,))
    for t in range(5):
        output, state = layer.step(X[:, t], state)
        np.testing.assert_allclose(output, outputs[:, t], atol=1e-6)
    close(state, final, 1e-6)


STOCHASTIC = {
    "RNN": (DROP,),
    "Bidirectional": (GRU, DROP),
    "StackedBidirectional": ([GRU, GRU], [GRU, DROP]),
}
ONE_DROPOUT = [{f"{where}_keep_prob": 0.5} for where in ("input", "output", "state", "recurrent")]


@pytest.mark.parametrize("keep", ONE_DROPOUT, ids=str)
def test_each_kind_of_dropout_needs_a_stream(keep):
    """Every kind, even of the state alone, is refused without a stream, and drawn with one."""
    drop = rnn.DropoutWrapper(LSTM, **keep)
    arguments = {
        "RNN": (drop,),
        "Bidirectional": (LSTM, drop),
        "StackedBidirectional": ([GRU, LSTM], [GRU, drop]),
    }
    for kind, given in arguments.items():
        layer = getattr(rnnx, kind)(*given, in_features=3, rngs=nnx.Rngs(params=0))
        with pytest.raises(ValueError, match="draws random numbers"):
            layer(X)
        layer = getattr(rnnx, kind)(*given, in_features=3, rngs=nnx.Rngs(0))
        drawn, evaluated = layer(X), layer(X, deterministic=True)
        leaves = zip(jax.tree.leaves(drawn[1]), jax.tree.leaves(evaluated[1]), strict=True)
        outputs_differ = not np.array_equal(drawn[0], evaluated[0])
        assert outputs_differ or any(not np.array_equal(a, b) for a, b in leaves)


def test_directions_with_different_outputs():
    """With `merge_fn=None`, outputs of different structures are allowed."""
    layer = rnnx.Bidirectional(
        rnn.EmitState(LSTM), LSTM, in_features=3, rngs=nnx.Rngs(0), merge_fn=None
    )
    (fw, bw), _ = layer(X)
    assert isinstance(fw, tuple) and bw.shape == (4, 5, 4)


def run_step_and_start(kind, param_dtype):
    """The functions `(run, step, start)` of a Linen or NNX layer."""
    if kind == "nnx":
        layer = rnnx.RNN(LEARNED, in_features=3, rngs=nnx.Rngs(0), param_dtype=param_dtype)
        return layer, layer.step, layer.start
    layer = rnnl.RNN(LEARNED, param_dtype=param_dtype)
    variables = layer.init(jax.random.key(0), X)

    def method(name):
        return functools.partial(layer.apply, variables, method=name)

    return method("__call__"), method("step"), method("start")


LEARNED = rnn.LearnedInitialState(LSTM)


@pytest.mark.parametrize("kind", ["linen", "nnx"])
@pytest.mark.parametrize(
    ("param_dtype", "inputs_dtype", "dtype"),
    [
        ("float32", "bfloat16", None),
        ("bfloat16", "float32", None),
        ("bfloat16", "bfloat16", None),
        ("float32", "float32", "bfloat16"),
    ],
)
def test_steps_have_the_dtype_of_the_run(kind, param_dtype, inputs_dtype, dtype):
    """Steps from `start` return the dtypes and values of a run with the same `dtype=`."""
    run, step, start = run_step_and_start(kind, param_dtype)
    inputs = jnp.asarray(X[:, :3], inputs_dtype)
    expected = run(inputs, dtype=dtype)
    state = start(4, dtype=dtype)
    assert state.h.dtype == (dtype or param_dtype)
    if dtype is not None:
        close(run(inputs, None, state, dtype=dtype), expected, 0)
    for t in range(3):
        output, state = step(inputs[:, t], state, dtype=dtype)
        assert output.dtype == state.h.dtype == expected[0].dtype
        close(output, expected[0][:, t], 4 * jnp.finfo(output.dtype).eps)
    for call in (lambda: start(4, dtype=int), lambda: step(inputs[:, 0], state, dtype=int)):
        with pytest.raises(TypeError, match="dtype: expected a real floating dtype, got int64"):
            call()


def test_a_step_keeps_a_wider_state():
    """A state in a wider dtype than the inputs keeps it in `step`, as in a run."""

    @toys.config
    class Wide(toys.Sum):
        def __call__(self, params, inputs, state, *, key=None):
            total = state + inputs.astype(state.dtype)
            return total.astype(inputs.dtype), total

    layer = rnnx.RNN(Wide(), in_features=1, rngs=nnx.Rngs(0))
    output, state = layer.step(jnp.ones((1, 1), jnp.float16), jnp.full((1, 1), 2048, jnp.float32))
    assert output.dtype == jnp.float16 and state.dtype == jnp.float32 and float(state[0, 0]) == 2049


@pytest.mark.parametrize("kind", STOCHASTIC)
def test_linen_dropout(kind):
    """A Linen layer draws from its stream or key, and needs neither if deterministic."""
    layer = getattr(rnnl, kind)(*STOCHASTIC[kind])
    variables = layer.init(jax.random.key(0), X)  # the params need no stream

    def run(**o):
        return layer.apply(variables, X, **o)[0]

    with pytest.raises(ValueError, match="'dropout', got none.*deterministic=True"):
        run()
    evaluated = run(deterministic=True)
    assert not (evaluated == 0).any()
    streams = {"dropout": jax.random.key(1)}
    assert (run(rngs=streams) == 0).any() and (run(key=jax.random.key(2)) == 0).any()
    np.testing.assert_array_equal(run(rngs=streams, deterministic=True), evaluated)
    given = run(key=jax.random.key(2), deterministic=True)
    np.testing.assert_array_equal(given, evaluated)
    np.testing.assert_array_equal(run(rngs=streams), run(rngs=streams))


@pytest.mark.parametrize("kind", STOCHASTIC)
def test_nnx_dropout(kind):
    """An NNX layer draws a new mask in each call, and none in `eval` mode or if deterministic."""

    def make(**r):
        return getattr(rnnx, kind)(*STOCHASTIC[kind], in_features=3, rngs=nnx.Rngs(**r))

    without = make(params=0)
    with pytest.raises(ValueError, match="'dropout', got none.*deterministic=True"):
        without(X)
    assert not (without(X, deterministic=True)[0] == 0).any()
    layer = make(params=0, dropout=1)
    first, second = layer(X)[0], layer(X)[0]
    assert (first == 0).any() and ((first == 0) != (second == 0)).any()
    layer.eval()
    assert not (layer(X)[0] == 0).any()
    assert not (layer(X, key=jax.random.key(2))[0] == 0).any()
    layer.train()
    assert not (nnx.view(layer, deterministic=True)(X)[0] == 0).any()
    assert (nnx.jit(lambda layer: layer(X)[0])(layer) == 0).any()


def test_a_cell_that_does_not_draw_needs_no_stream():
    """Cells without active dropout run in layers without a random stream."""
    for cell in (GRU, rnn.DropoutWrapper(GRU), rnn.MultiRNNCell([GRU, GRU])):
        layer = rnnl.RNN(cell)
        layer.apply(layer.init(jax.random.key(0), X), X)
        rnnx.RNN(cell, in_features=3, rngs=nnx.Rngs(params=0))(X)


def test_user_defined_cells_that_draw_are_detected():
    """Tracing shows that a user's cell draws random numbers; it need not declare it."""

    @toys.config
    class Noisy(toys.Sum):
        def __call__(self, params, inputs, state, *, key=None):
            if key is not None:
                inputs = inputs + jax.random.normal(key, inputs.shape, inputs.dtype)
            return inputs, state

    layer = rnnl.RNN(Noisy())
    variables = layer.init(jax.random.key(0), X[..., :1])
    with pytest.raises(ValueError, match="draws random numbers"):
        layer.apply(variables, X[..., :1])
    layer.apply(variables, X[..., :1], deterministic=True)


def test_param_dtype():
    """Layers create params in `param_dtype`."""
    variables = rnnl.RNN(LSTM, param_dtype=jnp.bfloat16).init(jax.random.key(0), X)
    layer = rnnx.RNN(LSTM, in_features=3, rngs=nnx.Rngs(0), param_dtype=jnp.bfloat16)
    for tree in (variables, values(layer)):
        assert {x.dtype for x in jax.tree.leaves(tree)} == {jnp.dtype(jnp.bfloat16)}


def test_inside_a_model():
    """A layer works as a submodule beside Flax's own, and receives gradients."""

    class Classifier(nn.Module):
        @nn.compact
        def __call__(self, inputs, lengths):
            _, state = rnnl.RNN(LSTM, name="rnn")(inputs, lengths)
            return nn.Dense(2)(state.h)

    model = Classifier()
    variables = model.init(jax.random.key(0), X, LENGTHS)
    assert set(variables["params"]) == {"rnn", "Dense_0"}
    gradients = jax.grad(lambda v: model.apply(v, X, LENGTHS)[:, 0].sum())(variables)
    assert np.abs(gradients["params"]["rnn"]["cell"]["kernel"]).max() > 0

    class Pair(nnx.Module):
        def __init__(self, rngs):
            self.rnn = rnnx.RNN(LSTM, in_features=3, rngs=rngs)
            self.head = nnx.Linear(4, 2, rngs=rngs)

        def __call__(self, inputs, lengths):
            return self.head(self.rnn(inputs, lengths)[1].h)

    pair = Pair(nnx.Rngs(0))
    gradients = nnx.grad(lambda model: model(X, LENGTHS)[:, 0].sum())(pair)
    assert np.abs(gradients["rnn"]["params"]["kernel"].get_value()).max() > 0


def test_saved_and_restored(tmp_path):
    """Orbax restores params into a layer that was initialised with another key."""
    with ocp.StandardCheckpointer() as saver:
        layer = rnnl.RNN(LSTM)
        variables = layer.init(jax.random.key(0), X)
        saver.save(tmp_path / "linen", variables)
        saver.wait_until_finished()
        restored = saver.restore(tmp_path / "linen", jax.eval_shape(lambda: variables))
        close(layer.apply(restored, X), layer.apply(variables, X), 0)
        first, second = (rnnx.RNN(LSTM, in_features=3, rngs=nnx.Rngs(n)) for n in (0, 1))
        assert not np.allclose(first(X)[0], second(X)[0])
        saver.save(tmp_path / "nnx", nnx.state(first, nnx.Param))
        saver.wait_until_finished()
        abstract = jax.eval_shape(lambda: nnx.state(second, nnx.Param))
        nnx.update(second, saver.restore(tmp_path / "nnx", abstract))
        close(second(X), first(X), 0)


def test_partitioning_metadata_of_linen():
    """Partitioning metadata of initializers stays on the params and does not change results."""
    initializer = nn.with_partitioning(nn.initializers.glorot_uniform(), (None, "model"))
    cell = rnn.LSTMCell(4, kernel_initializer=initializer)
    layer = rnnl.RNN(rnn.MultiRNNCell([cell, cell]))
    variables = layer.init(jax.random.key(0), X)
    spec = nn.get_partition_spec(variables)["params"]["cell"]["cell_1"]["kernel"]
    assert spec == jax.sharding.PartitionSpec(None, "model")
    unboxed = {"params": nn.unbox(variables)["params"]}
    close(layer.apply(variables, X), layer.apply(unboxed, X), 0)


def test_partitioning_metadata_of_every_initializer():
    """A kernel whose rows two initializers fill has the metadata of `kernel_initializer`."""
    glorot, model = nn.initializers.glorot_uniform(), nn.with_partitioning
    cell = rnn.LSTMCell(
        4,
        kernel_initializer=model(glorot, (None, "model")),
        recurrent_initializer=model(glorot, (None, "other")),
        bias_initializer=model(nn.initializers.zeros, ("model",)),
    )
    variables = rnnl.RNN(cell).init(jax.random.key(0), X)
    spec = nn.get_partition_spec(variables)["params"]["cell"]
    names = {"kernel": (None, "model"), "bias": ("model",)}
    assert spec == {name: jax.sharding.PartitionSpec(*axes) for name, axes in names.items()}


def test_start_of_an_attending_layer_before_there_are_params():
    """`start` in `init` is refused: the start state depends on params that do not exist yet."""
    cell = rnn.AttentionWrapper(rnn.GRUCell(4), rnn.LuongAttention(4, memory_size=2))

    class Decoder(nn.Module):
        @nn.compact
        def __call__(self, row):
            return rnnl.RNN(cell).start(len(row), memory=jnp.ones((4, 5, 2)))

    with pytest.raises(ValueError, match="start: in init.. a layer that attends has no params yet"):
        Decoder().init(jax.random.key(0), X[:, 0])


def test_partitioning_metadata_of_nnx():
    """An NNX layer keeps the metadata of initializers, and computes what `dynamic_rnn` does."""
    initializer = nnx.with_partitioning(nnx.initializers.glorot_uniform(), (None, "model"))
    cell = rnn.LSTMCell(4, kernel_initializer=initializer)
    auto = (jax.sharding.AxisType.Auto,)
    with jax.set_mesh(jax.make_mesh((2,), ("model",), auto, devices=jax.devices()[:2])):
        layer = rnnx.RNN(cell, in_features=3, rngs=nnx.Rngs(0))
        outputs, _ = layer(X)
    assert layer.params["kernel"].get_metadata()["out_sharding"] == (None, "model")
    plain = {name: np.asarray(x.get_value()) for name, x in layer.params.items()}
    close(outputs, rnn.dynamic_rnn(LSTM, plain, X)[0], 1e-6)


@pytest.mark.parametrize("cell", [LSTM, rnn.MultiRNNCell([LSTM]), rnn.LearnedInitialState(LSTM)])
def test_linen_step_in_init(cell):
    """`start` and `step` in a module's `init` create the params of the layer."""

    class Steps(nn.Module):
        @nn.compact
        def __call__(self, row):
            layer = rnnl.RNN(cell)
            return layer.step(row, layer.start(len(row)))

    variables = Steps().init(jax.random.key(0), X[:, 0])
    params = variables["params"]["RNN_0"]["cell"]
    expected = cell(params, X[:, 0], cell.start(params, (4,), jnp.float32))
    close(Steps().apply(variables, X[:, 0]), expected, 0)
