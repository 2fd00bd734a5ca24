"""The neural Turing machine: start states, movement of the heads, names of params, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filled import names
from laws import close

import jax_dynrnn as rnn

KEY = jax.random.key(0)
CELL = rnn.NTMCell(rnn.LSTMCell(8), 6, 4, 2, 1)
INPUTS = np.random.default_rng(0).normal(size=(2, 5, 3))


def test_the_start_state_is_learned():
    """Runs and resets start from learned params (TF1 replaces the state at step 0 instead)."""
    params = CELL.init(KEY, INPUTS.shape, jnp.float64)
    start = CELL.start(params, 2, jnp.float64)
    for name, vectors, function in (
        ("read_vector", start.read_vector_list, np.tanh),
        ("address_weights", start.w_list, lambda x: np.exp(x) / np.exp(x).sum()),
    ):
        for i, x in enumerate(vectors):
            learned = np.asarray(params[f"initial_{name}_{i}"])
            np.testing.assert_allclose(x, np.repeat(function(learned), 2, 0), rtol=1e-12)
    assert (start.M == 1e-6).all() and start.M.shape == (2, 6, 4) and start.time == 0
    given = jax.jit(lambda p: rnn.dynamic_rnn(CELL, p, INPUTS, None, CELL.start(p, 2, jnp.float64)))
    close(jax.jit(lambda p: rnn.dynamic_rnn(CELL, p, INPUTS))(params), given(params), 0)
    resets = np.zeros((2, 5), bool)
    resets[:, 2] = True
    outputs, state = rnn.dynamic_rnn(CELL, params, INPUTS, resets=resets)
    tail, last = rnn.dynamic_rnn(CELL, params, INPUTS[:, 2:])
    close((outputs[:, 2:], state[:-1]), (tail, last[:-1]), 1e-14)
    assert state.time == 5 and last.time == 3  # a rank-0 leaf is not reset
    learned = jax.grad(lambda p: rnn.dynamic_rnn(CELL, p, INPUTS)[0].sum())(params)
    assert all(np.abs(x).max() > 0 for name, x in learned.items() if name.startswith("initial"))


def test_an_initial_state_of_zeros_has_finite_gradients():
    """A given memory of zeros is used, although cosine similarity is singular there."""
    params = CELL.init(KEY, INPUTS.shape, jnp.float64)
    zeros = CELL.zero_state(2, jnp.float64)._replace(w_list=(jnp.full((2, 6), 1 / 6),) * 3)

    def loss(p, s):
        return (rnn.dynamic_rnn(CELL, p, INPUTS, None, s)[0] ** 2).sum()

    value, gradient = jax.value_and_grad(loss)(params, zeros)
    assert np.isfinite(value) and all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))
    assert not gradient["memory"].any() and not gradient["initial_read_vector_0"].any()


def head(k=(0.0,) * 4, beta=-30.0, gate=-30.0, shift=(0.0, -60.0, -60.0), gamma=-30.0):
    """The parameters of a head, which by default does not move."""
    return [*k, beta, gate, *shift, gamma]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, [0.0, 1.0, 0.0, 0.0, 0.0, 0.0]),
        ({"shift": (-60.0, 60.0, -60.0)}, [0.0, 0.0, 1.0, 0.0, 0.0, 0.0]),
        ({"shift": (-60.0, -60.0, 60.0)}, [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]),
        ({"gate": 30.0}, [1 / 6] * 6),
        ({"gate": 30.0, "beta": 60.0, "k": (0.0, 9.0, 0.0, 0.0)}, [0.0, 0.0, 0.0, 1.0, 0.0, 0.0]),
    ],
    ids=["stays", "forward", "backward", "evenly", "by content"],
)
def test_heads_move(changed, expected):
    """A head stays, shifts, spreads evenly, or moves to slot 3, which holds the key."""
    params = CELL.init(KEY, (3,), jnp.float64)
    parameters = [*head(**changed), *head(), *head(), *([30.0] * 4), *([0.5] * 4)]
    params |= {
        "parameters_kernel": jnp.zeros_like(params["parameters_kernel"]),
        "parameters_bias": jnp.asarray(parameters),
    }
    memory = -jnp.ones((1, 6, 4)).at[:, 3].set(jnp.asarray([0.0, -1.0, 0.0, 0.0]))
    at_1 = jnp.zeros((1, 6)).at[:, 1].set(1.0)
    state = CELL.zero_state(1, jnp.float64)._replace(M=memory, w_list=(at_1,) * 3)
    cell = rnn.NTMCell(rnn.LSTMCell(8), 6, 4, 2, 1, clip_value=100.0)
    _, new = cell(params, jnp.ones((1, 3)), state)
    np.testing.assert_allclose(new.w_list[0][0], expected, atol=1e-9)
    np.testing.assert_allclose(
        new.read_vector_list[0][0], np.array(expected) @ memory[0], atol=1e-9
    )
    written = memory[0].at[1].set(np.tanh(0.5))  # the write head is at slot 1
    np.testing.assert_allclose(new.M[0], written, atol=1e-9)
    assert new.time == 1


def test_many_slots_and_sharp_heads():
    """Results and gradients are finite where the 21st power of 1/128 underflows float32."""
    cell = rnn.NTMCell(rnn.LSTMCell(8), 128, 4, 2, 1)
    params = cell.init(KEY, (3,))
    params["parameters_bias"] = params["parameters_bias"].at[9::10].set(20.0)

    def outputs(p):
        return rnn.dynamic_rnn(cell, p, INPUTS.astype(np.float32))[0]

    gradient = jax.grad(lambda p: outputs(p).sum())(params)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((outputs(params), gradient)))


def test_names_and_shapes_of_params():
    """Params of heads, outputs, memory and start states have TF1's names and shapes."""
    sizes = names(rnn.NTMCell(rnn.GRUCell(8), 6, 4, 2, 1, output_dim=7).init(KEY, (3,)))
    assert {name: shape for name, shape in sizes.items() if "cell/" not in name} == {
        "parameters_kernel": (8, 3 * 10 + 8), "parameters_bias": (38,),
        "output_kernel": (8 + 2 * 4, 7), "output_bias": (7,), "memory": (6, 4),
        "initial_read_vector_0": (1, 4), "initial_read_vector_1": (1, 4),
        "initial_address_weights_0": (1, 6), "initial_address_weights_1": (1, 6),
        "initial_address_weights_2": (1, 6),
    }  # fmt: skip
    assert sizes["cell/gates/kernel"] == (3 + 2 * 4 + 8, 16)


def test_initial_kernels():
    """As in TF1, normal numbers truncated at 2 (of standard deviation 0.88), over sqrt(rows)."""
    params = rnn.NTMCell(rnn.LSTMCell(100), 6, 20, 2, 1, output_dim=50).init(KEY, (3,))
    for kernel in (params["parameters_kernel"], params["output_kernel"]):
        scaled = np.asarray(kernel) * len(kernel) ** 0.5
        assert abs(scaled.std() - 0.8796) < 0.02 and 1.9 < np.abs(scaled).max() <= 2


def test_invalid_constructor_arguments():
    with pytest.raises(TypeError, match="NTMCell's controller: expected a cell"):
        rnn.NTMCell(8, 6, 4, 1, 1)
    with pytest.raises(ValueError, match="NTMCell: expected clip_value > 0, got -1.0"):
        rnn.NTMCell(rnn.GRUCell(8), 6, 4, 1, 1, clip_value=-1.0)
    with pytest.raises(ValueError, match=r"memory_size > 2 \* shift_range = 6, got 6"):
        rnn.NTMCell(rnn.GRUCell(8), 6, 4, 1, 1, shift_range=3)
    with pytest.raises(ValueError, match="write_head_num should be a positive int, got 0"):
        rnn.NTMCell(rnn.GRUCell(8), 6, 4, 1, 0)
