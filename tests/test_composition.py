"""User-defined stacks and wrappers, which inherit from `Cell` only, run on the fast engines."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys
from laws import close, weighted_sum

import jax_dynrnn as rnn
from jax_dynrnn.testing import check_cell

RANDOM = np.random.default_rng(0)
INPUTS = RANDOM.normal(size=(30, 20, 3))
LENGTHS = RANDOM.integers(0, 21, 30)


@toys.config
class Stack(rnn.Cell):
    """A stack of two cells, with its own names for their params."""

    lower: Any
    upper: Any

    def composition(self, key=None):
        return rnn.Stacked({"lower": self.lower, "upper": self.upper})


@toys.config
class Gated(rnn.Cell):
    """A wrapper with params: it scales the inputs, and gates the outputs by them."""

    cell: Any

    def init(self, key, input_shape, dtype=jnp.float32):
        own, inner = jax.random.split(key)
        scale = jax.random.normal(own, (input_shape[-1],), dtype)
        return {"scale": scale, "inside": self.cell.init(inner, input_shape, dtype)}

    def composition(self, key=None):
        return rnn.Around(self.cell, name="inside", before=self.scale, after=self.gate)

    def scale(self, params, inputs, key):
        scaled = inputs * params["scale"].reshape((1,) * (inputs.ndim - 1) + (-1,))
        return scaled, scaled.sum(-1, keepdims=True)

    def gate(self, params, saved, output, key):
        return jax.tree.map(lambda y: y * jax.nn.sigmoid(saved), output)


@toys.config
class Accumulated(rnn.Cell):
    """A wrapper that changes the state at every step, so that only its own `step` can run it."""

    cell: Any

    def composition(self, key=None):
        return rnn.Around(self.cell, why_not_separable="it adds to the state")

    def step(self, params, projected, state, *, key=None):
        output, new = self.cell(params, projected, state, key=key)
        return output, jax.tree.map(lambda old, new: old / 2 + new, state, new)


CELLS = {
    "stack": Stack(rnn.GRUCell(6), rnn.LSTMCell(4)),
    "wrapper": Gated(rnn.LSTMCell(4)),
    "both": Stack(
        Gated(rnn.CudnnCompatibleGRUCell(4)), Gated(Stack(rnn.GRUCell(5), rnn.SRUCell(5)))
    ),
    "with dropout": Stack(rnn.DropoutWrapper(rnn.GRUCell(5), 0.7), Gated(rnn.LSTMCell(4))),
    "prepared": Gated(rnn.WeightNormLSTMCell(4)),
    "learned start": Stack(rnn.LearnedInitialState(rnn.GRUCell(4)), rnn.GRUCell(4)),
}


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize(
    "options", [{}, {"reverse": True, "resets": RANDOM.random((30, 20)) < 0.1}]
)
def test_blocked_is_chosen_and_equals_scan(name, options):
    """`blocked` is chosen automatically; results and gradients equal those of `scan`."""
    cell, key = CELLS[name], jax.random.key(1)
    params = cell.init(jax.random.key(0), INPUTS.shape, jnp.float64)
    explained = rnn.explain(cell, params, INPUTS, LENGTHS, key=key, **options)
    assert explained.chosen == "blocked"

    def run(engine):
        def loss(params, inputs):
            results = rnn.dynamic_rnn(
                cell, params, inputs, LENGTHS, key=key, implementation=engine, **options
            )
            return weighted_sum(results), results

        return jax.jit(jax.grad(loss, (0, 1), has_aux=True))(params, INPUTS)

    close(run("blocked"), run("scan"), 1e-11)


@pytest.mark.parametrize("name", ["stack", "wrapper", "with dropout"])
def test_check_cell_passes(name):
    """User-defined compositions pass all laws of `check_cell`."""
    check_cell(CELLS[name], (2, 5, 3))


def test_a_user_defined_stack_equals_multi_rnn_cell():
    """Params, keys and results are those of a `MultiRNNCell` of the same cells."""
    cells = rnn.GRUCell(6), rnn.DropoutWrapper(rnn.LSTMCell(4), 0.5)
    params = rnn.MultiRNNCell(cells).init(jax.random.key(0), INPUTS.shape, jnp.float64)
    named = {"lower": params["cell_0"], "upper": params["cell_1"]}

    def run(cell, params):
        return rnn.dynamic_rnn(cell, params, INPUTS, LENGTHS, key=jax.random.key(2))

    close(run(Stack(*cells), named), run(rnn.MultiRNNCell(cells), params), 0)
    made = Stack(*cells).init(jax.random.key(0), INPUTS.shape, jnp.float64)
    close(made, named, 0)


def test_a_wrapper_that_changes_the_state_runs_on_scan():
    """A wrapper with `why_not_separable` is refused by `blocked`; `scan` calls its `step`."""
    cell = Accumulated(rnn.GRUCell(4))
    params = cell.init(jax.random.key(0), INPUTS.shape, jnp.float64)
    reasons = rnn.explain(cell, params, INPUTS).reasons
    assert reasons["blocked"] == "Accumulated cannot be decomposed: it adds to the state"
    one, start = INPUTS[:, :1], jnp.ones((30, 4))
    _, state = rnn.dynamic_rnn(cell, params, one, initial_state=start)
    _, inner = rnn.dynamic_rnn(cell.cell, params, one, initial_state=start)
    close(state, inner + 0.5, 1e-12)


@toys.config
class DrawsInside(rnn.Cell):
    """A wrapper without a step for runs with a key."""

    cell: Any

    def composition(self, key=None):
        return rnn.Around(self.cell, why_not_separable=None if key is None else "it draws")


def test_a_missing_step_is_refused():
    """A composition that is not separable with a key needs a step; a run with a key says so."""
    cell = DrawsInside(rnn.GRUCell(4))
    params = cell.init(jax.random.key(0), INPUTS.shape, jnp.float64)
    rnn.dynamic_rnn(cell, params, INPUTS[:, :1])
    with pytest.raises(TypeError, match="DrawsInside: expected it to define step.*it draws"):
        rnn.dynamic_rnn(cell, params, INPUTS[:, :1], key=jax.random.key(0))


def test_attend_reaches_inside_a_user_defined_stack():
    """`attend` finds an attention wrapper through `composition`."""
    attention = rnn.AttentionWrapper(rnn.GRUCell(4), rnn.LuongAttention(4, memory_size=3))
    cell, memory = Stack(attention, Gated(rnn.GRUCell(4))), jnp.ones((30, 7, 3))
    params = cell.init(jax.random.key(0), INPUTS.shape, jnp.float64)
    attended = cell.attend(params, memory)
    named = {"cell_0": attended["lower"], "cell_1": attended["upper"]}
    expected = rnn.dynamic_rnn(rnn.MultiRNNCell([cell.lower, cell.upper]), named, INPUTS, LENGTHS)
    close(rnn.dynamic_rnn(cell, attended, INPUTS, LENGTHS), expected, 1e-12)
    other, _ = rnn.dynamic_rnn(cell, cell.attend(params, 2 * memory), INPUTS, LENGTHS)
    assert cell.attends and not np.allclose(other, expected[0])


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: rnn.Stacked({}), ValueError, "Stacked: expected at least one cell, got none"),
        (lambda: rnn.Stacked({"a": 3}), TypeError, "Stacked's a: expected a cell"),
        (lambda: rnn.Around(rnn.GRUCell), TypeError, "Around's cell: .* the class GRUCell itself"),
    ],
)
def test_compositions_refuse_what_is_not_a_cell(make, error, message):
    """`Stacked` and `Around` check that they are given cells."""
    with pytest.raises(error, match=message):
        make()


def test_a_state_with_a_missing_layer_is_refused():
    """The initial state must have the structure of the stack."""
    cell = CELLS["stack"]
    params = cell.init(jax.random.key(0), INPUTS.shape, jnp.float64)
    with pytest.raises(ValueError, match="initial_state: expected tuple of 2"):
        rnn.dynamic_rnn(cell, params, INPUTS, initial_state=(jnp.zeros((30, 6)),))
