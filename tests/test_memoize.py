"""Caches hold the programs of equal cells, but never arrays that a cell refers to."""

import dataclasses
import functools
import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys
from cases import CASES
from laws import close

import jax_dynrnn as rnn
from jax_dynrnn import linen as rnnl
from jax_dynrnn._memoize import holds_arrays, why_not_cached

X = np.ones((1, 2, 1), np.float32)
PARAMS = {"kernel": jnp.ones((2, 1), jnp.float32), "bias": jnp.zeros(1, jnp.float32)}


class Scaled:
    """A callable object, and its bound method, which hold an array."""

    def __init__(self, array):
        self.array = array

    def __call__(self, x):
        return jnp.tanh(x) * self.array

    scale = __call__


class Slotted:
    __slots__ = ("array",)

    def __init__(self, array):
        self.array = array

    def __call__(self, x):
        return jnp.tanh(x) * self.array


@dataclasses.dataclass(frozen=True)
class Frozen:
    array: object

    def __call__(self, x):
        return jnp.tanh(x) * self.array

    def __hash__(self):
        return id(self)


def times(array, x):
    return jnp.tanh(x) * array


def times_named(x, array=None):
    return jnp.tanh(x) * array


def closure(array):
    return lambda x: jnp.tanh(x) * array


def nested_closure(array):
    inner = closure(array)
    return lambda x: inner(x)


def default_argument(array):
    def act(x, array=array):
        return jnp.tanh(x) * array

    return act


def keyword_default(array):
    def act(x, *, array=array):
        return jnp.tanh(x) * array

    return act


def container(array):
    table = {"deep": [(array,)]}
    return lambda x: jnp.tanh(x) * table["deep"][0][0]


def cycle(array):
    holder = [array]

    def act(x):
        return jnp.tanh(x) * (act and holder[0])

    holder.append(act)
    return act


def attribute(array):
    def act(x):
        return jnp.tanh(x) * act.array

    act.array = array
    return act


def local_class(array):
    class Local:
        def __call__(self, x):
            return jnp.tanh(x) * array

    return Local()


ROUTES = {
    "closure": closure,
    "nested closure": nested_closure,
    "default argument": default_argument,
    "keyword default": keyword_default,
    "container": container,
    "cycle": cycle,
    "attribute": attribute,
    "local class": local_class,
    "partial": lambda array: functools.partial(times, array),
    "partial keyword": lambda array: functools.partial(times_named, array=array),
    "nested partial": lambda array: functools.partial(
        lambda f, x: f(x), functools.partial(times, array)
    ),
    "bound method": lambda array: Scaled(array).scale,
    "callable": Scaled,
    "slots": Slotted,
    "dataclass": Frozen,
}


def fill_all_caches(activation):
    """Runs, explains, and steps through a Flax layer, a cell with an activation."""
    cell = rnn.DropoutWrapper(rnn.BasicRNNCell(1, activation=activation), 0.5)
    rnn.dynamic_rnn(cell, PARAMS, X, [1])
    shape = jax.ShapeDtypeStruct((32, 100, 1), jnp.float32)
    rnn.explain(cell, PARAMS, shape, key=jax.random.key(0))
    row, state = X[:, 0], jnp.zeros((1, 1), jnp.float32)
    draw = {"method": "step", "rngs": {"dropout": jax.random.key(0)}}
    rnnl.RNN(cell).apply({"params": {"cell": PARAMS}}, row, state, **draw)


@pytest.mark.parametrize("of", [jnp, np], ids=["jax", "numpy"])
@pytest.mark.parametrize("route", ROUTES.values(), ids=ROUTES)
def test_no_array_outlives_its_cell(route, of):
    """An array that an activation refers to, by any route, is freed together with its cell."""
    array = of.full((1, 1), 0.5, np.float32)
    alive = weakref.ref(array)
    activation = route(array)
    assert holds_arrays(activation)
    fill_all_caches(activation)
    del array, activation
    gc.collect()
    assert alive() is None


def test_the_engine_blocked_holds_no_array():
    """Neither pass of `blocked` keeps an array alive that a cell refers to."""
    array = jnp.full((1, 1), 0.5, jnp.float32)
    alive = weakref.ref(array)

    def gradients(engine, array):
        cell = rnn.BasicRNNCell(1, activation=functools.partial(times, array))

        def run(p):
            return rnn.dynamic_rnn(cell, p, X, [1], implementation=engine)[0].sum()

        return run(PARAMS), jax.grad(run)(PARAMS)

    close(gradients("blocked", array), gradients("scan", array), 1e-6)
    del array
    gc.collect()
    gc.collect()  # what JAX's caches drop in the first collection is freed in the second
    assert alive() is None


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_cells_of_the_library_are_cached(case):
    """Every configuration of the library can be a key of the caches."""
    assert why_not_cached(case.cell) is None or not case.configuration


@pytest.mark.parametrize("module", [jax.nn, jnp, jax.lax, jax.nn.initializers])
def test_functions_of_jax_hold_no_arrays(module):
    """`holds_arrays` is false for JAX's own functions, and true for a jitted closure over one."""
    functions = [f for name, f in vars(module).items() if callable(f) and name[0] != "_"]
    assert functions and not any(map(holds_arrays, functions))

    def local(x):
        return jax.nn.gelu(x)

    assert holds_arrays(jax.jit(closure(np.ones(1))))
    assert not holds_arrays(
        [jax.jit(local), functools.partial(jax.nn.leaky_relu, negative_slope=0.1)]
    )


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class StaticDuck:
    """The three methods without the base class, registered as static."""

    units: int

    def init(self, key, input_shape, dtype=jnp.float32):
        return rnn.BasicRNNCell(self.units).init(key, input_shape, dtype)

    def zero_state(self, batch_shape=(), dtype=jnp.float32):
        return rnn.BasicRNNCell(self.units).zero_state(batch_shape, dtype)

    def __call__(self, params, inputs, state, *, key=None):
        return rnn.BasicRNNCell(self.units)(params, inputs, state)


def test_a_static_cell_without_the_base_class_is_traced_once():
    """A cell that is registered as static is compared by value, even without the base class."""
    rnn.dynamic_rnn(StaticDuck(1), PARAMS, X)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StaticDuck, "__call__", None)  # a second trace would call it, and fail
        rnn.dynamic_rnn(StaticDuck(1), PARAMS, X)


@pytest.mark.parametrize(
    "cell, said",
    [
        (toys.Duck(1), "Duck is not registered as static: expected jax.tree_util.register_static"),
        (rnn.MultiRNNCell([rnn.GRUCell(1), toys.Duck(1)]), "Duck is not registered as static"),
        (
            rnn.BasicRNNCell(1, activation=Scaled(np.ones(1))),
            "a function in BasicRNNCell holds arr",
        ),
        (rnn.BasicRNNCell(1), None),
    ],
)
def test_explain_notes_why_a_cell_is_not_cached(cell, said):
    """`explain` adds a note if the programs of a cell cannot be cached."""
    params = cell.init(jax.random.key(0), X.shape)
    for implementation in (None, "scan"):
        explanation = rnn.explain(cell, params, X, implementation=implementation)
        if said is None:
            assert explanation.note is None and "note" not in str(explanation)
        else:
            *_, last = str(explanation).splitlines()
            assert said in explanation.note and last.startswith("note: ") and said in last
