"""Weights are converted from one framework to another and back without changing a bit."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from weights_agree import D, H, random_params

import jax_dynrnn as rnn
from jax_dynrnn import interop


def of(module, **export):
    return module.import_params, functools.partial(module.export_params, **export)


TORCH = of(interop.torch)
KERAS = of(interop.keras)
LINEN = of(interop.flax)
NNX = of(interop.flax, layout="nnx")
OPTIMIZED = of(interop.flax, layout="nnx_optimized")
HAIKU = of(interop.haiku)
EQUINOX = of(interop.equinox)
CUDNN = (
    functools.partial(interop.cudnn.import_params, input_size=D),
    interop.cudnn.export_params,
)
NAMES = {
    "torch": TORCH,
    "keras": KERAS,
    "linen": LINEN,
    "nnx": NNX,
    "nnx_optimized": OPTIMIZED,
    "haiku": HAIKU,
    "equinox": EQUINOX,
    "cudnn": CUDNN,
}
HOLD = {
    "lstm": (rnn.LSTMCell(H, forget_bias=0.0), [*NAMES]),
    "lstm, projected": (rnn.LSTMCell(H, num_proj=2, forget_bias=0.0), ["torch"]),
    "gru": (rnn.GRUCell(H), ["keras", "haiku"]),
    "cudnn_gru": (rnn.CudnnCompatibleGRUCell(H), ["torch", "keras", "linen", "equinox"]),
    "cudnn_gru, one bias": (
        rnn.CudnnCompatibleGRUCell(H),
        ["torch", "keras", "linen", "nnx", "equinox"],
    ),
    "rnn": (rnn.BasicRNNCell(H), ["torch", "keras", "linen", "nnx"]),
}
"""The frameworks that have a cell. (Haiku's plain RNN is a different one: it has relu.)"""

RUNS = {
    "one": lambda cell: cell,
    "stack": lambda cell: rnn.MultiRNNCell([rnn.DropoutWrapper(cell, 0.9), cell]),
    "both": lambda cell: (cell, rnn.ZoneoutWrapper(cell, state_keep_prob=0.9)),
    "stack both": lambda cell: ([cell, cell], [cell, cell]),
}
PAIRS = [
    pytest.param(cell, a, b, id=f"{cell}: {a}, {b}")
    for cell, (_, names) in HOLD.items()
    for a, b in itertools.product(names, names)
]


def params_of(name, cells, pair):
    """Random params that both frameworks can represent exactly.

    A GRU of NNX has only one bias of its candidate. Haiku does not store the forget bias of 1:
    adding it is exact only for biases with few bits.
    """
    params = random_params(cells, jnp.float32)

    def leaf(path, x):
        path = jax.tree_util.keystr(path, simple=True, separator="/")
        if "one bias" in name and path.endswith("hidden_projection/bias"):
            return np.zeros_like(x)
        short = "haiku" in pair and path.endswith("bias") and name == "lstm"
        return np.round(x * 256) / np.float32(256) if short else x

    return jax.tree_util.tree_map_with_path(leaf, params)


def assert_same_bits(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype == np.float32 and x.shape == y.shape and (x == y).all()


@pytest.mark.parametrize("name, a, b", PAIRS)
def test_round_trip(name, a, b):
    """Params survive export and import, by a, and by a and then b, for one cell and all stacks."""
    (import_a, export_a), (import_b, export_b) = NAMES[a], NAMES[b]
    for run in RUNS.values():
        cells = run(HOLD[name][0])
        params = params_of(name, cells, (a, b))
        weights = export_a(cells, params)
        assert_same_bits(import_a(cells, weights), params)
        back = import_b(cells, export_b(cells, import_a(cells, weights)))
        assert_same_bits(back, params)
        assert_same_bits(export_a(cells, back), weights)


@pytest.mark.parametrize("a, b", list(itertools.permutations(["keras", "haiku", "equinox"], 2)))
def test_a_pair_of_stacks(a, b):
    """A stack for each direction is converted by frameworks that support it."""
    stack = rnn.MultiRNNCell([rnn.LSTMCell(H), rnn.EmitState(rnn.LSTMCell(2))])
    (import_a, export_a), (import_b, export_b) = NAMES[a], NAMES[b]
    params = params_of("lstm", (stack, stack), ("haiku",))
    back = import_a((stack, stack), export_a((stack, stack), params))
    assert_same_bits(import_b((stack, stack), export_b((stack, stack), back)), params)


def test_a_forget_bias_that_is_stored_rounds_once():
    """Adding the forget bias of 1 to a stored bias, and subtracting it, rounds once."""
    cell = rnn.LSTMCell(H)
    params = random_params(cell, jnp.float32)
    back = interop.torch.import_params(cell, interop.torch.export_params(cell, params))
    assert_same_bits(back["kernel"], params["kernel"])
    error = np.abs(back["bias"] - params["bias"])
    forget = np.arange(4 * H) // H == 2
    assert not error[~forget].any() and error.max() <= np.finfo(np.float32).eps * 2
    stored = interop.torch.export_params(cell, params)["bias_ih_l0"][H : 2 * H]
    assert (stored == params["bias"][forget] + np.float32(1)).all()


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16, np.float32, np.float64], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_dtypes_are_kept(name, dtype):
    """Dtypes are kept, even float64 of NumPy arrays while x64 is off."""
    cell = rnn.LSTMCell(H)
    import_params, export_params = NAMES[name]
    params = random_params(cell, dtype)
    with jax.enable_x64(False):
        weights = export_params(cell, params)
        back = import_params(cell, weights)
    dtypes = {x.dtype for x in jax.tree.leaves((weights, back))}
    assert dtypes == {np.dtype(dtype)}


@pytest.mark.parametrize("name", NAMES)
def test_params_of_jax_stay_there(name):
    """JAX arrays stay JAX arrays, and `import_params` can be traced."""
    cell = rnn.LSTMCell(H)
    import_params, export_params = NAMES[name]
    weights = jax.tree.map(jnp.asarray, export_params(cell, random_params(cell, jnp.float32)))
    traced = jax.jit(functools.partial(import_params, cell))(weights)
    assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(import_params(cell, weights)))
    assert_same_bits(traced, import_params(cell, weights))
