"""Weights of Haiku, Equinox and `jax.experimental.rnn`: their cells and ours compute the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import rnn as cudnn
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

STORED = rnn.LSTMCell(H, forget_bias=0.0)
LSTM = rnn.LSTMCell(H)
GRU = rnn.GRUCell(H)
RELU = rnn.BasicRNNCell(H, activation=jax.nn.relu)
CUDNN_GRU = rnn.CudnnCompatibleGRUCell(H)


def haiku_unroll(haiku, core, x, **options):
    y, state = haiku.dynamic_unroll(core, x, core.initial_state(B), time_major=False, **options)
    lstms = state if isinstance(state, tuple) and not hasattr(state, "cell") else [state]
    return y, [(s.cell, s.hidden) if hasattr(s, "cell") else s for s in lstms]


HAIKU = {
    "lstm": (lambda hk: hk.LSTM(H), STORED),
    "rnn": (lambda hk: hk.VanillaRNN(H), RELU),
    "stack": (
        lambda hk: hk.DeepRNN([hk.LSTM(H), hk.GRU(H), hk.LSTM(H)]),
        rnn.MultiRNNCell([LSTM, GRU, LSTM]),
    ),
}


@pytest.mark.parametrize("name", HAIKU)
def test_haiku(load_oracle, name):
    """Haiku's cores and our cells agree, in results and gradients."""
    haiku = load_oracle("haiku")
    make, cells = HAIKU[name]
    there = haiku.without_apply_rng(haiku.transform(lambda x: haiku_unroll(haiku, make(haiku), x)))
    assert_agrees(
        as_there(differentiated(there.apply)),
        haiku_weights(there),
        interop.haiku.import_params,
        interop.haiku.export_params,
        cells,
    )


def haiku_weights(there):
    x = jax.ShapeDtypeStruct((B, T, D), jnp.float64)
    shapes = as_there(lambda: jax.eval_shape(there.init, jax.random.key(0), x))()
    return randomized(jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, jnp.float64), shapes))


def test_haiku_in_a_model(load_oracle):
    """A bidirectional run with custom names: `modules` lists the modules of both directions."""
    haiku = load_oracle("haiku")

    class Net(haiku.Module):
        def __call__(self, x):
            x = haiku.Linear(D)(x)
            cores = [haiku.GRU(H), haiku.GRU(H, name="backward")]
            runs = [haiku_unroll(haiku, core, x, reverse=i > 0) for i, core in enumerate(cores)]
            return jnp.concatenate([y for y, _ in runs], -1)

    there = haiku.without_apply_rng(haiku.transform(lambda x: Net()(x)))
    weights, x = haiku_weights(there), random_inputs()
    modules = ["net/gru", "net/backward"]
    params = interop.haiku.import_params((GRU, GRU), weights, modules=modules)
    linear = weights["net/linear"]
    cell_inputs = x @ linear["w"] + linear["b"]
    outputs, _ = rnn.bidirectional_dynamic_rnn(GRU, GRU, params, cell_inputs)
    assert_close(rnn.concatenate(*outputs), as_there(there.apply)(weights, x), 1e-12)
    exported = interop.haiku.export_params((GRU, GRU), params, modules=modules)
    assert_close(exported | {"net/linear": linear}, weights, 0)


def test_the_weights_of_haikus_lstm_are_ours_bit_by_bit():
    """Neither order of gates nor forget bias differs, so that no element changes."""
    weights = {"lstm/linear": {"w": np.ones((D + H, 4 * H)) / 3, "b": np.ones(4 * H) / 7}}
    params = interop.haiku.import_params(LSTM, weights)
    expected = {"kernel": weights["lstm/linear"]["w"], "bias": weights["lstm/linear"]["b"]}
    assert_close(params, expected, 0)


def equinox_scan(cell, weights, x, reverse=False):
    """Runs a cell of Equinox over a batch; its LSTM has the state (h, c)."""
    import equinox

    names = tuple(weights)

    def at(m):
        return tuple(getattr(m, name) for name in names)

    cell = equinox.tree_at(at, cell, tuple(weights.values()))
    lstm = isinstance(cell, equinox.nn.LSTMCell)

    def row(x):
        zero = jnp.zeros(H, x.dtype)

        def step(state, x):
            state = cell(x, state)
            return state, state[0] if lstm else state

        state, y = jax.lax.scan(step, (zero, zero) if lstm else zero, x, reverse=reverse)
        return y, state[::-1] if lstm else state

    return jax.vmap(row)(x)


def equinox_cell(equinox, kind, features=D, seed=0):
    cell = getattr(equinox.nn, kind)(features, H, dtype=jnp.float64, key=jax.random.key(seed))
    names = [n for n in interop.equinox.ATTRIBUTES if getattr(cell, n, None) is not None]
    return cell, {name: np.asarray(getattr(cell, name)) for name in names}


def test_equinox(load_oracle):
    """Equinox's LSTM and ours agree; weights may be a dict or a module."""
    there, weights = equinox_cell(load_oracle("equinox"), "LSTMCell")
    assert_agrees(
        as_there(differentiated(lambda w, x: equinox_scan(there, w, x))),
        weights,
        interop.equinox.import_params,
        interop.equinox.export_params,
        STORED,
    )
    of_module = interop.equinox.import_params(STORED, there)
    assert_close(of_module, interop.equinox.import_params(STORED, weights), 0)


def test_equinox_bidirectional_stack(load_oracle):
    """Two directions and two layers of GRUs agree, in results and gradients."""
    equinox = load_oracle("equinox")
    made = [
        [equinox_cell(equinox, "GRUCell", n, seed) for n, seed in ((D, seed), (2 * H, seed + 1))]
        for seed in (2, 4)
    ]
    there = [[cell for cell, _ in stack] for stack in made]
    cells = ([CUDNN_GRU] * 2, [CUDNN_GRU] * 2)

    def run(weights, x):
        states = []
        for depth in range(2):
            pair = [
                equinox_scan(there[d][depth], weights[d][depth], x, reverse=d > 0) for d in range(2)
            ]
            x = jnp.concatenate([y for y, _ in pair], -1)
            states += [state for _, state in pair]
        return x, states

    assert_agrees(
        as_there(differentiated(run)),
        tuple([weights for _, weights in stack] for stack in made),
        interop.equinox.import_params,
        interop.equinox.export_params,
        cells,
    )


def test_cudnn():
    """JAX's reference of its cuDNN LSTM, which runs on the CPU, and our cells agree."""
    layers, both, cells = 2, True, ([STORED] * 2, [STORED] * 2)

    def run(weights, x):
        zero = jnp.zeros((4, B, H), x.dtype)
        unpacked = cudnn.unpack_lstm_weights(weights, D, H, layers, both)
        lengths = jnp.full(B, T, jnp.int32)
        y, h, c = cudnn.lstm_ref(x, zero, zero, *unpacked, lengths, D, H, layers, 0.0, both)
        return y, [leaf for pair in zip(c, h, strict=True) for leaf in pair]

    assert_agrees(
        as_there(differentiated(run)),
        randomized(np.empty(cudnn.get_num_params_in_lstm(D, H, layers, both))),
        lambda cells, weights: interop.cudnn.import_params(cells, weights, input_size=D),
        interop.cudnn.export_params,
        cells,
    )
