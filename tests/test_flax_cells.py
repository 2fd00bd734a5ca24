"""Every cell in a Linen and an NNX layer: what it draws from, in few bits, under jit and grad.

Everyday gradients are of the core cells, and of one with a memory; with --full of every cell.
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
    """What a layer holds: not the memory, which a call is given."""
    return {name: x for name, x in params.items() if not isinstance(x, tuple)}


def memory(law):
    given = law.case.memory(law.dtype) if law.case.places else ()
    return dict(zip(("memory", "memory_length"), given, strict=False))


def drawing(law):
    """What a cell that can draw and has nothing to draw from must be told."""
    return {} if law.case.keyed else {"deterministic": True}


def streams(law):
    return {"dropout": jax.random.key(3)} if law.case.keyed else {}


def linen(law, **options):
    """`apply(params, ...)` of a Linen layer."""
    layer = rnnl.RNN(law.case.cell)
    return lambda params, *arguments, **o: layer.apply(
        {"params": {"cell": params}}, *arguments, **options, **o
    )


def nnx_layer(law, params):
    """An NNX layer that holds `params`, which are as those that it makes."""
    rngs = nnx.Rngs(params=0, **streams(law))
    layer = rnnx.RNN(law.case.cell, in_features=law.case.features, rngs=rngs)
    is_param = lambda x: isinstance(x, nnx.Param)  # noqa: E731
    made = jax.tree.map(lambda p: p.shape, layer.params, is_leaf=is_param)
    assert made == jax.tree.map(jnp.shape, own(params))
    layer.params = nnx.data(jax.tree.map(nnx.Param, own(params)))
    return layer


@pytest.mark.where(lambda law: law.engine == "scan" and law.x64)
@pytest.mark.everyday(lambda law: not law.case.variant)
def test_a_layer_is_the_function(law):
    """With the next key of its stream, if it draws."""
    (params, inputs, state), case = laws.arguments(law), law.case
    swapped = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), inputs)
    options = {"time_major": True, "mask": MASK.T, "resets": RESETS.T, "implementation": "scan"}

    def function(key):
        return rnn.dynamic_rnn(case.cell, params, swapped, LENGTHS, state, key=key, **options)

    options_of_layer = options | memory(law) | drawing(law)
    apply = linen(law, rngs=streams(law))
    key = apply({}, method=lambda layer: layer.make_rng("dropout")) if case.keyed else None
    actual = apply(own(params), swapped, LENGTHS, state, **options_of_layer)
    close(actual, function(key), 0)
    layer = nnx_layer(law, params)
    key = nnx.clone(layer.rngs)() if case.keyed else None
    close(layer(swapped, LENGTHS, state, **options_of_layer), function(key), 0)


@pytest.mark.where(lambda law: law.engine == "scan" and law.dtype == "float64" and law.x64)
def test_linen_makes_the_params_of_the_cell(law):
    """Of the cell's shapes, also where it has no stream to draw from."""
    layer, (params, inputs, _) = rnnl.RNN(law.case.cell), laws.arguments(law)
    made = jax.eval_shape(lambda: layer.init(jax.random.key(0), inputs, **memory(law)))
    made = made.get("params", {"cell": {}})["cell"]
    assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, own(params))


def cast(tree, dtype):
    floating = lambda x: jnp.issubdtype(x.dtype, jnp.floating)  # noqa: E731
    return jax.tree.map(lambda x: x.astype(dtype) if floating(x) else x, tree)


def check(law, dtype, differentiate):
    """Gradients through a layer are in `dtype`, as its results are, and those of the function.

    That is compiled in the law's own dtype, which with --full is the same. Everyday it is float64,
    and the layer takes one step only: less to compile, and little for roundings to add up to.
    """
    arguments = cast(laws.arguments(law), dtype)
    steps = T if law.dtype == dtype else 1
    params, inputs, state = arguments
    inputs = jax.tree.map(lambda x: x[:, :steps], inputs)
    options = cast(memory(law), dtype) | {"key": law.case.key()} | drawing(law)

    def loss(run):
        outputs, final = run(inputs, None, state, **options)
        results = jax.tree.map(rest_of_time, outputs), final
        return weighted_sum(results), results

    gradients, results = differentiate(loss)
    found = [x.dtype for x in jax.tree.leaves((results, gradients))]
    assert {x for x in found if jnp.issubdtype(x, jnp.floating)} == {jnp.dtype(dtype)}
    given = *cast(arguments, law.dtype), np.full(B, steps, np.int32)
    expected, (of_params, _, _) = compiled(law)(*given)
    tolerance = laws.Law(law.case, law.engine, dtype).tolerance
    close((results, gradients), (expected, own(of_params)), tolerance)


def is_short(case):
    """Whether it is a case of every day."""
    return case.core or len(case.places) > 1


def rest_of_time(y):
    """Zeros in the steps that are not taken."""
    return jnp.pad(y, [(0, 0), (0, T - y.shape[1])] + [(0, 0)] * (y.ndim - 2))


@pytest.mark.where(
    lambda law: (
        law.engine == "scan"
        and (law.dtype == "bfloat16" or (law.dtype == "float64" and is_short(law.case)))
    )
)
@pytest.mark.everyday(lambda law: is_short(law.case))
def test_gradients_through_linen(law):
    """Under jit, in bfloat16.

    With --full every cell is compared with the function in bfloat16. Every day some are compared
    with it in float64: none whose own rounding errors in bfloat16 exceed the tolerance.
    """
    params = own(cast(laws.arguments(law)[0], jnp.bfloat16))

    def differentiate(loss):
        of_params = lambda p: loss(lambda *a, **o: linen(law)(p, *a, **o))  # noqa: E731
        return jax.jit(jax.grad(of_params, has_aux=True))(params)

    check(law, "bfloat16", differentiate)


@pytest.mark.where(
    lambda law: (
        law.engine == "scan"
        and law.x64
        and (law.dtype == "float32" or (law.dtype == "float64" and law.case.core))
    )
)
@pytest.mark.everyday(lambda law: law.case.name in ("gru", "multi"))
def test_gradients_through_nnx(law):
    """Under `nnx.jit` and `nnx.grad`, in float32."""
    layer = nnx_layer(law, cast(laws.arguments(law)[0], jnp.float32))

    def differentiate(loss):
        gradients, results = nnx.jit(nnx.grad(loss, has_aux=True))(layer)
        return nnx.to_pure_dict(gradients).get("params", {}), results

    check(law, "float32", differentiate)
