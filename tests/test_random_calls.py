"""Random calls of `dynamic_rnn` agree with NumPy, in results and gradients.

The cells are transcribed in NumPy (see reference/), and so is the loop (see reference_loop.py): no
JAX program is compared with another one. Gradients are compared with finite differences. Nested
wrappers, which draw random numbers, are compared with their own steps in that loop, without
gradients. A longer run, with new examples:

    python -m pytest tests/test_random_calls.py --hypothesis-profile=long
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import reference
import reference_loop
from cases import perturbed
from flax.core import FrozenDict
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import close, weighted_sum

import jax_dynrnn as rnn

D = 3
CELLS = [
    rnn.BasicRNNCell(2),
    rnn.GRUCell(3),
    rnn.BasicLSTMCell(2),
    rnn.LayerNormLSTMCell(4),
    rnn.UGRNNCell(3),
    rnn.SRUCell(2),
    rnn.CFNCell(2),
    rnn.ResidualWrapper(rnn.GRUCell(D)),
    rnn.HighwayWrapper(rnn.BasicRNNCell(D)),
    rnn.OutputProjectionWrapper(rnn.GRUCell(2), 3),
    rnn.MultiRNNCell([rnn.GRUCell(2), rnn.BasicLSTMCell(3)]),
]
DIFFERENCE_STEP = 1e-6


def second_of_three(f):
    """Computes `f` of one problem under `vmap`, between two others."""

    def mapped(problem):
        three = jax.tree.map(lambda x: np.stack([0.5 * x, x, -x]), problem)
        return jax.tree.map(lambda y: y[1], jax.vmap(f)(three))

    return mapped


TRANSFORMS = {"eager": lambda f: f, "jit": jax.jit, "vmap": second_of_three}


@dataclasses.dataclass(frozen=True)
class RandomCall:
    """Batch-major arguments of `dynamic_rnn`; `None` stands for a missing one."""

    cell: Any
    batch: int
    time: int
    lengths: Any
    mask: Any
    resets: Any
    has_state: bool
    """Whether an initial state is passed."""
    reverse: bool
    time_major: bool
    transform: str
    options: dict
    seed: int


@st.composite
def calls(draw, min_size=0):
    batch, time = draw(st.integers(min_size, 4)), draw(st.integers(min_size, 6))
    flags = st.none() | st.lists(st.booleans(), min_size=batch * time, max_size=batch * time)
    lengths = st.lists(st.integers(0, time), min_size=batch, max_size=batch)
    return RandomCall(
        cell=draw(st.sampled_from(CELLS)),
        batch=batch,
        time=time,
        lengths=draw(st.none() | lengths),
        mask=draw(flags),
        resets=draw(flags),
        has_state=draw(st.booleans()),
        reverse=draw(st.booleans()),
        time_major=draw(st.booleans()),
        transform=draw(st.sampled_from(sorted(TRANSFORMS))),
        options={
            "implementation": draw(st.sampled_from([None, "scan", "blocked"])),
            "remat": draw(st.sampled_from([None, 1, 2, 5, "sqrt"])),
            "unroll": draw(st.integers(1, 3)),
        },
        seed=draw(st.integers(0, 9)),
    )


def arguments(call):
    """Params, inputs and a state, without zeros."""
    params = call.cell.init(jax.random.key(call.seed), (1, 1, D), jnp.float64)
    inputs = np.random.default_rng(call.seed).normal(size=(call.batch, call.time, D))
    state = perturbed(call.cell.zero_state((call.batch,), jnp.float64), call.seed + 1)
    arrays = perturbed(params, call.seed + 2), inputs, state
    return jax.tree.map(np.asarray, arrays)


def flags_of(call, values):
    return None if values is None else np.reshape(np.asarray(values, bool), (call.batch, call.time))


def by_numpy(call, params, inputs, state):
    """`(outputs, state)` of the NumPy step in the Python loop."""

    def step(x, state, t):
        return reference.step(call.cell, params, x, state)

    start = jax.tree.map(np.zeros_like, state)
    begin = state if call.has_state else start
    if call.time == 0:  # the loop has no step to take the shape of outputs from
        output, _ = step(np.zeros((call.batch, D)), begin, 0)
        return np.zeros((call.batch, 0, *output.shape[1:])), begin
    return reference_loop.loop(
        step,
        inputs,
        begin,
        start,
        [call.time] * call.batch if call.lengths is None else call.lengths,
        mask=flags_of(call, call.mask),
        resets=flags_of(call, call.resets),
        reverse=call.reverse,
        xp=np,
    )


def by_engine(call, params, inputs, state):
    """Batch-major `(outputs, state)` of `dynamic_rnn`."""
    swap = (lambda x: jnp.swapaxes(x, 0, 1)) if call.time_major else (lambda x: x)
    flags = {"mask": flags_of(call, call.mask), "resets": flags_of(call, call.resets)}
    outputs, state = rnn.dynamic_rnn(
        call.cell,
        params,
        swap(inputs),
        call.lengths,
        state if call.has_state else None,
        reverse=call.reverse,
        time_major=call.time_major,
        **{name: None if x is None else swap(x) for name, x in flags.items()},
        **call.options,
    )
    return swap(outputs), state


def moved(arguments, direction, by):
    return jax.tree.map(lambda x, d: x + by * d, arguments, direction)


def slope_by_numpy(call, given, direction):
    """The directional derivative of the weighted sum of results, by central differences."""
    ahead, behind = (
        by_numpy(call, *moved(given, direction, by)) for by in (DIFFERENCE_STEP, -DIFFERENCE_STEP)
    )
    return (weighted_sum(ahead, np) - weighted_sum(behind, np)) / (2 * DIFFERENCE_STEP)


@given(calls())
def test_random_calls_agree_with_numpy(call):
    """Results agree with NumPy, and gradients with finite differences of it."""
    problem = arguments(call)
    random = np.random.default_rng(call.seed)
    direction = jax.tree.map(lambda x: random.normal(size=x.shape), problem)

    def loss(arguments):
        results = by_engine(call, *arguments)
        return weighted_sum(results), results

    transform = TRANSFORMS[call.transform]
    (_, results), gradients = transform(jax.value_and_grad(loss, has_aux=True))(problem)
    close(results, by_numpy(call, *problem), 1e-11)
    products = jax.tree.map(lambda g, d: (np.asarray(g) * d).sum(), gradients, direction)
    slope = sum(jax.tree.leaves(products))
    close(slope, slope_by_numpy(call, problem, direction), 1e-6)


INSIDE = [rnn.GRUCell(D), rnn.LSTMCell(D, use_peepholes=True)]
AROUND = {
    "attention": lambda cell: rnn.AttentionCellWrapper(cell, 2, attn_size=D),
    "dropout": lambda cell: rnn.DropoutWrapper(cell, 0.7, 0.6, 0.8),
    "highway": rnn.HighwayWrapper,
    "learned": rnn.LearnedInitialState,
    "recurrent": lambda cell: rnn.DropoutWrapper(cell, recurrent_keep_prob=0.5),
    "residual": rnn.ResidualWrapper,
    "variational": lambda cell: rnn.DropoutWrapper(cell, 0.7, 0.6, variational_recurrent=True),
    "zoneout": lambda cell: rnn.ZoneoutWrapper(cell, state_keep_prob=0.7),
}


@st.composite
def wrapped_cells(draw):
    """Cells in one to four wrappers, alone or as the second layer of a stack."""
    cell = draw(st.sampled_from(INSIDE))
    for name in draw(st.lists(st.sampled_from(sorted(AROUND)), min_size=1, max_size=4)):
        cell = AROUND[name](cell)
    below = st.sampled_from([None, *INSIDE])
    return cell if (first := draw(below)) is None else rnn.MultiRNNCell([first, cell])


def by_steps(call, params, inputs, state, key):
    """`(outputs, state)` of the cell's own steps in the Python loop."""
    return reference_loop.run(
        call.cell,
        params,
        jnp.asarray(inputs),
        state if call.has_state else call.cell.start(params, (call.batch,), jnp.float64),
        [call.time] * call.batch if call.lengths is None else call.lengths,
        mask=flags_of(call, call.mask),
        resets=flags_of(call, call.resets),
        reverse=call.reverse,
        key=key,
    )


@settings(max_examples=settings().max_examples // 8)
@given(calls(min_size=1), wrapped_cells(), st.booleans(), st.booleans())
def test_nested_wrappers_agree_with_a_loop_over_their_steps(call, cell, draws, frozen):
    """With a random engine if it supports them, and params in a dict or a `FrozenDict`."""
    call = dataclasses.replace(call, cell=cell)
    params, inputs, state = arguments(call)
    key = jax.random.key(call.seed) if draws else None
    expected = by_steps(call, params, inputs, state, key)
    params = FrozenDict(params) if frozen else params
    options = {**call.options, "key": key}
    if rnn.explain(cell, params, inputs, call.lengths, key=key).reasons["blocked"]:
        options["implementation"] = "scan"
    run = functools.partial(by_engine, dataclasses.replace(call, options=options))
    close(jax.jit(run)(params, inputs, state), expected, 1e-11)
