"""Every cell in a Linen and an NNX layer: random streams, low precision, jit and grad.

The everyday suite checks gradients of core cells and of one with a memory; --full, of every cell.
"""

import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest
from cases import LENGTHS, B, T
from flax import nnx
from laws import MASK, RESETS, close, compiled, weighted_sum

import jax_dynrnn as rnn
from jax_dynrnn import linen as rnnl
from jax_dynrnn import nnx as rnnx


def own(params):
    """The params that a layer holds: without the memory, which each call receives."""
    return {name: x for name, x in params.items() if not isinstance(x, tuple)}


def memory(combination):
    """The memory of a combination as keyword arguments of a layer."""
    given = combination.case.memory(combination.dtype) if combination.case.memory_sizes else ()
    return dict(zip(("memory", "memory_length"), given, strict=False))


def deterministic(combination):
    """Options that let a cell with dropout run without a stream."""
    return {} if combination.case.keyed else {"deterministic": True}


def streams(combination):
    """The random streams that a keyed cell needs."""
    return {"dropout": jax.random.key(3)} if combination.case.keyed else {}


def linen(combination, **options):
    """`apply(params, ...)` of a Linen layer."""
    layer = rnnl.RNN(combination.case.cell)
    return lambda params, *arguments, **o: layer.apply(
        {"params": {"cell": params}}, *arguments, **options, **o
    )


def nnx_layer(combination, params):
    """An NNX layer that holds `params`, after checking that it creates params of their shapes."""
    rngs = nnx.Rngs(params=0, **streams(combination))
    layer = rnnx.RNN(combination.case.cell, in_features=combination.case.features, rngs=rngs)

    def is_param(x):
        return isinstance(x, nnx.Param)

    made = jax.tree.map(lambda p: p.shape, layer.params, is_leaf=is_param)
    assert made == jax.tree.map(jnp.shape, own(params))
    layer.params = nnx.data(jax.tree.map(nnx.Param, own(params)))
    return layer


@pytest.mark.where(lambda combination: combination.engine == "scan" and combination.x64)
@pytest.mark.everyday(lambda combination: not combination.case.variant)
def test_a_layer_equals_dynamic_rnn(combination):
    """A layer equals `dynamic_rnn` with the next key of its stream, if the cell draws."""
    (params, inputs, state), case = laws.arguments(combination), combination.case
    swapped = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), inputs)
    options = {"time_major": True, "mask": MASK.T, "resets": RESETS.T, "implementation": "scan"}

    def function(key):
        return rnn.dynamic_rnn(case.cell, params, swapped, LENGTHS, state, key=key, **options)

    options_of_layer = options | memory(combination) | deterministic(combination)
    apply = linen(combination, rngs=streams(combination))
    key = apply({}, method=lambda layer: layer.make_rng("dropout")) if case.keyed else None
    actual = apply(own(params), swapped, LENGTHS, state, **options_of_layer)
    close(actual, function(key), 0)
    layer = nnx_layer(combination, params)
    key = nnx.clone(layer.rngs)() if case.keyed else None
    close(layer(swapped, LENGTHS, state, **options_of_layer), function(key), 0)


@pytest.mark.where(
    lambda combination: (
        combination.engine == "scan" and combination.dtype == "float64" and combination.x64
    )
)
def test_linen_init_creates_the_params_of_the_cell(combination):
    """`init` needs no dropout stream, and its params have the shapes of `cell.init`."""
    layer, (params, inputs, _) = rnnl.RNN(combination.case.cell), laws.arguments(combination)
    made = jax.eval_shape(lambda: layer.init(jax.random.key(0), inputs, **memory(combination)))
    made = made.get("params", {"cell": {}})["cell"]
    assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, own(params))


def cast(tree, dtype):
    """The tree with its floating leaves in `dtype`."""

    def floating(x):
        return jnp.issubdtype(x.dtype, jnp.floating)

    return jax.tree.map(lambda x: x.astype(dtype) if floating(x) else x, tree)


def check(combination, dtype, differentiate):
    """Asserts that results and gradients of a layer are in `dtype` and equal the function's.

    The function runs in the combination's dtype, which with --full is `dtype`. In the everyday
    suite it is float64, and the layer then takes one step only: that compiles faster, and few
    roundings add up.
    """
    arguments = cast(laws.arguments(combination), dtype)
    steps = T if combination.dtype == dtype else 1
    params, inputs, state = arguments
    inputs = jax.tree.map(lambda x: x[:, :steps], inputs)
    options = (
        cast(memory(combination), dtype)
        | {"key": combination.case.key()}
        | deterministic(combination)
    )

    def loss(run):
        outputs, final = run(inputs, None, state, **options)
        results = jax.tree.map(pad_time, outputs), final
        return weighted_sum(results), results

    gradients, results = differentiate(loss)
    found = [x.dtype for x in jax.tree.leaves((results, gradients))]
    assert {x for x in found if jnp.issubdtype(x, jnp.floating)} == {jnp.dtype(dtype)}
    given = *cast(arguments, combination.dtype), np.full(B, steps, np.int32)
    expected, (of_params, _, _) = compiled(combination)(*given)
    tolerance = laws.Combination(combination.case, combination.engine, dtype).tolerance
    close((results, gradients), (expected, own(of_params)), tolerance)


def pad_time(y):
    """Outputs padded with zeros to T steps."""
    return jnp.pad(y, [(0, 0), (0, T - y.shape[1])] + [(0, 0)] * (y.ndim - 2))


def is_everyday(case):
    """Whether the everyday suite differentiates a layer of the case."""
    return case.core or len(case.memory_sizes) > 1


@pytest.mark.where(
    lambda combination: (
        combination.engine == "scan"
        and (
            combination.dtype == "bfloat16"
            or (combination.dtype == "float64" and is_everyday(combination.case))
        )
    )
)
@pytest.mark.everyday(lambda combination: is_everyday(combination.case))
def test_gradients_through_linen(combination):
    """Gradients through a Linen layer, under jit, in bfloat16.

    With --full every cell is compared with the function in bfloat16. Every day some are compared
    with it in float64: none whose own rounding errors in bfloat16 exceed the tolerance.
    """
    params = own(cast(laws.arguments(combination)[0], jnp.bfloat16))

    def differentiate(loss):
        def of_params(p):
            return loss(lambda *a, **o: linen(combination)(p, *a, **o))

        return jax.jit(jax.grad(of_params, has_aux=True))(params)

    check(combination, "bfloat16", differentiate)


@pytest.mark.where(
    lambda combination: (
        combination.engine == "scan"
        and combination.x64
        and (
            combination.dtype == "float32"
            or (combination.dtype == "float64" and combination.case.core)
        )
    )
)
@pytest.mark.everyday(lambda combination: combination.case.name in ("gru", "multi"))
def test_gradients_through_nnx(combination):
    """Gradients through an NNX layer, under `nnx.jit` and `nnx.grad`, in float32."""
    layer = nnx_layer(combination, cast(laws.arguments(combination)[0], jnp.float32))

    def differentiate(loss):
        gradients, results = nnx.jit(nnx.grad(loss, has_aux=True))(layer)
        return nnx.to_pure_dict(gradients).get("params", {}), results

    check(combination, "float32", differentiate)
