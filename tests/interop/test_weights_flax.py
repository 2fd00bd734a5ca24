"""Weights of Flax's cells: Flax's modules and our runs compute the same with them."""

import functools

import jax
import jax.numpy as jnp
import pytest
from flax import linen, nnx
from weights_agree import (
    B,
    D,
    H,
    T,
    as_there,
    assert_agrees,
    assert_close,
    differentiated,
    random_inputs,
    randomized,
)

import jax_dynrnn as rnn
from jax_dynrnn import interop

LSTM = rnn.LSTMCell(H, forget_bias=0.0)
GRU = rnn.CudnnCompatibleGRUCell(H)
RNN = rnn.BasicRNNCell(H)
RELU = rnn.BasicRNNCell(H, activation=jax.nn.relu)
F64 = jnp.float64


def stacked(layers):
    """A stack of layers `(weights, x) -> (carry, y)`, which takes a list of weights."""

    def run(weights, x):
        carries = []
        for layer, w in zip(layers, weights, strict=True):
            carry, x = layer(w, x)
            carries.append(carry)
        return x, carries

    return run


def outputs_first(layer):
    return lambda weights, x: layer(weights, x)[::-1]


def linen_rnn(cell, **options):
    return linen.RNN(cell(H, param_dtype=F64, **options), return_carry=True)


def linen_both(cell):
    return linen.Bidirectional(linen_rnn(cell), linen_rnn(cell), return_carry=True)


LINEN = {
    "lstm": (linen_rnn(linen.LSTMCell), LSTM),
    "optimized": (linen_rnn(linen.OptimizedLSTMCell), LSTM),
    "gru": (linen_rnn(linen.GRUCell), GRU),
    "rnn": (linen_rnn(linen.SimpleCell), RNN),
    "relu": (linen_rnn(linen.SimpleCell, activation_fn=jax.nn.relu), RELU),
    "both": (linen_both(linen.SimpleCell), (RNN, RNN)),
}


def linen_layer(module):
    """A function `(weights, x) -> (carry, y)`, and the shapes of its weights."""
    x = jax.ShapeDtypeStruct((B, T, D), F64)
    weights = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
    return (lambda w, x: module.apply({"params": w}, x)), weights


def assert_layers_agree(there, cells, **options):
    """Asserts that layers of Flax agree with our cells.

    `there` is a pair `(layer, weights)` or a list of pairs; `options` are those of the import.
    """
    if isinstance(there, list):
        layers, weights = zip(*there, strict=True)
        run, weights = stacked(layers), list(weights)
    else:
        run, weights = outputs_first(there[0]), there[1]
    layout = {"layout": options.pop("layout")} if "layout" in options else {}
    assert_agrees(
        as_there(differentiated(run)),
        randomized(weights),
        functools.partial(interop.flax.import_params, **options),
        functools.partial(interop.flax.export_params, **options, **layout),
        cells,
    )


@pytest.mark.parametrize("name", LINEN)
def test_linen(name):
    """Linen cells and our cells agree, in results and gradients."""
    module, cells = LINEN[name]
    options = {"activation": jax.nn.relu} if name == "relu" else {}
    assert_layers_agree(linen_layer(module), cells, **options)


class Compact(linen.Module):
    """A module that creates its cells in `__call__`, so that Flax numbers their names."""

    @linen.compact
    def __call__(self, x):
        x = linen.RNN(linen.GRUCell(H, param_dtype=F64))(x)
        fw, bw = (linen.RNN(linen.SimpleCell(H, param_dtype=F64)) for _ in range(2))
        return linen.Bidirectional(fw, bw)(x)


def test_linen_within_compact():
    """Weights of cells created in a compact module are imported, in pairs of either form."""
    run, shapes = linen_layer(Compact())
    weights, x = randomized(shapes), random_inputs()
    assert sorted(weights) == ["GRUCell_0", "SimpleCell_0", "SimpleCell_1"]
    below = interop.flax.import_params(GRU, weights["GRUCell_0"])
    cells = weights["SimpleCell_0"], weights["SimpleCell_1"]
    for pair in (cells, {"forward_rnn": cells[0], "backward_rnn": {"cell": cells[1]}}):
        above = interop.flax.import_params((RNN, RNN), pair)
        y, _ = rnn.dynamic_rnn(GRU, below, x)
        outputs, _ = rnn.bidirectional_dynamic_rnn(RNN, RNN, above, y)
        assert_close(rnn.concatenate(*outputs), as_there(run)(weights, x), 1e-12)
    stacked = interop.flax.import_params(([GRU], [GRU]), [(weights["GRUCell_0"],) * 2])
    assert_close(stacked["cell_0"], {"fw": below, "bw": below}, 0)


def nnx_rnn(cell, features=D):
    cell = cell(features, H, dtype=F64, param_dtype=F64, rngs=nnx.Rngs(0))
    return nnx.RNN(cell, return_carry=True, rngs=nnx.Rngs(0))


def nnx_both(cell, features=D):
    return nnx.Bidirectional(
        nnx_rnn(cell, features), nnx_rnn(cell, features), return_carry=True, rngs=nnx.Rngs(0)
    )


NNX = {
    "lstm": (lambda: nnx_rnn(nnx.LSTMCell), LSTM, "nnx"),
    "optimized": (lambda: nnx_rnn(nnx.OptimizedLSTMCell), LSTM, "nnx_optimized"),
    "rnn": (lambda: nnx_rnn(nnx.SimpleCell), RNN, "nnx"),
    "stack both": (
        lambda: [nnx_both(nnx.GRUCell), nnx_both(nnx.OptimizedLSTMCell, 2 * H)],
        ([GRU, LSTM], [GRU, LSTM]),
        "nnx_optimized",
    ),
}


def nnx_layer(module):
    definition, params, rest = nnx.split(module, nnx.Param, ...)

    def run(weights, x):
        given, others = jax.tree.map(lambda x: x, (params, rest))  # copies for this trace
        nnx.replace_by_pure_dict(given, weights)
        return nnx.merge(definition, given, others)(x)

    return run, nnx.to_pure_dict(params)


@pytest.mark.parametrize("name", NNX)
def test_nnx(name):
    """NNX cells and our cells agree, in results and gradients."""
    make, cells, layout = NNX[name]
    there = make()
    there = [nnx_layer(m) for m in there] if isinstance(there, list) else nnx_layer(there)
    assert_layers_agree(there, cells, layout=layout)
