"""Flax's partitioning metadata, which any initialiser of any cell may add."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES, B, T, is_shape
from flax import linen as nn
from flax import nnx
from messages import says

import jax_dynrnn as rnn
from jax_dynrnn import linen as rnnl
from jax_dynrnn import nnx as rnnx
from jax_dynrnn._tools import unboxed

MARKED = 7.0
"""The value that the initialisers of these tests return."""


def initializers(cell):
    """The names of the fields of a cell that are initialisers."""
    fields = dataclasses.fields(cell) if dataclasses.is_dataclass(cell) else ()
    return [field.name for field in fields if field.name.endswith("initializer")]


def linen_initializer(name):
    """An initialiser with metadata for every axis of a kernel, or one axis of a bias."""

    def initialize(key, shape, dtype):
        axes = 1 if name == "bias_initializer" else len(shape)
        names = (*(None,) * (axes - 1), "model")
        return nn.Partitioned(jnp.full(shape, MARKED, dtype), names)

    return initialize


def nnx_initializer(name):
    def initialize(key, shape, dtype):
        box = linen_initializer(name)(key, shape, dtype)
        metadata = {"out_sharding": box.names}
        return nnx.VariableMetadata(box.value, metadata=metadata)

    return initialize


def plain_initializer(name):
    return lambda key, shape, dtype: jnp.full(shape, MARKED, dtype)


def with_initializers(make, cell, names):
    return dataclasses.replace(cell, **{name: make(name) for name in names})


def made(cell, case):
    """The params of a cell for the input shapes of a case."""
    shapes = jax.tree.map(lambda s: (B, T, *s), case.features, is_leaf=is_shape)
    return cell.init(jax.random.key(0), shapes)


def is_boxed(x):
    return isinstance(x, nn.Partitioned | nnx.VariableMetadata)


def names_of(box):
    return box.names if isinstance(box, nn.Partitioned) else box.metadata["out_sharding"]


PARTITIONED = [case for case in CASES if initializers(case.cell) and not case.variant]


@pytest.mark.parametrize("case", PARTITIONED, ids=lambda case: case.name)
@pytest.mark.parametrize("make", [linen_initializer, nnx_initializer])
def test_every_initializer_may_add_metadata(case, make):
    """Metadata of one or all initialisers changes no values, and stays on whole arrays."""
    names = initializers(case.cell)
    for some in (*([name] for name in names), names):
        boxed = made(with_initializers(make, case.cell, some), case)
        plain = made(with_initializers(plain_initializer, case.cell, some), case)
        jax.tree.map(np.testing.assert_array_equal, unboxed(boxed), plain)
        leaves = jax.tree.leaves(boxed, is_leaf=is_boxed)
        for x, value in zip(leaves, jax.tree.leaves(plain), strict=True):
            if is_boxed(x):
                assert names_of(x) == (*(None,) * (value.ndim - 1), "model")
            elif some != ["recurrent_initializer"] and (value == MARKED).all():
                assert value.ndim == 1 and "kernel_initializer" in some


IN_LAYERS = ("minimal", "nas_options", "conv_1d", "attention_cell_sizes", "lstm_projection")


@pytest.mark.parametrize(
    "case", [c for c in CASES if c.name in IN_LAYERS], ids=lambda case: case.name
)
def test_layers_run_with_metadata(case):
    """Layers keep the metadata on their params, and have the results of plain params."""
    names = initializers(case.cell)
    inputs = case.inputs("float32")
    cell = with_initializers(linen_initializer, case.cell, names)
    variables = jax.eval_shape(lambda: rnnl.RNN(cell).init(jax.random.key(0), inputs))
    specs = jax.tree.leaves(nn.get_partition_spec(variables), is_leaf=lambda x: x is None)
    assert any("model" in spec for spec in specs if spec is not None)
    expected = jax.eval_shape(lambda p: rnn.dynamic_rnn(cell, p, inputs), made(case.cell, case))
    actual = jax.eval_shape(lambda v: rnnl.RNN(cell).apply(v, inputs), variables)
    assert actual == expected
    cell = with_initializers(nnx_initializer, case.cell, names)
    auto = (jax.sharding.AxisType.Auto,)
    with jax.set_mesh(jax.make_mesh((1,), ("model",), auto, devices=jax.devices()[:1])):
        layer = rnnx.RNN(cell, in_features=case.features, rngs=nnx.Rngs(0))
        assert jax.eval_shape(lambda: layer(inputs)) == expected
    params = jax.tree.leaves(layer.params, is_leaf=lambda x: isinstance(x, nnx.Param))
    assert any("out_sharding" in x.get_metadata() for x in params)


def test_params_with_metadata_are_refused_with_advice():
    """Functions refuse params with metadata, and name `flax.linen.unbox`."""
    cell = rnn.GRUCell(3, kernel_initializer=linen_initializer("kernel_initializer"))
    params, inputs = cell.init(jax.random.key(0), (2, 4, 2)), jnp.ones((2, 4, 2))
    for call in (
        lambda: rnn.dynamic_rnn(cell, params, inputs),
        lambda: cell(params, inputs[:, 0], cell.zero_state(2)),
    ):
        with says(TypeError, r"params: expected arrays .* metadata; flax\.linen\.unbox\(params\)"):
            call()
    rnn.dynamic_rnn(cell, nn.unbox(params), inputs)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class StartsAtItsKernel(rnn.GRUCell):
    """A GRU whose start state is a row of its kernel."""

    def start(self, params, batch_shape, dtype):
        row = params["candidate"]["kernel"][0].astype(dtype)
        return jnp.broadcast_to(row, (*batch_shape, self.num_units))


def test_a_learned_start_of_params_with_metadata():
    """`LearnedInitialState.init` computes the inner start state from params with metadata."""

    def learned(make):
        inner = StartsAtItsKernel(4, kernel_initializer=make("kernel_initializer"))
        return rnn.LearnedInitialState(inner).init(jax.random.key(0), (3,))["initial_state"]

    assert (learned(linen_initializer)["state"] == MARKED).all()
    assert (learned(nnx_initializer)["state"] == MARKED).all()
