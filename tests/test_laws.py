"""Laws that hold for every cell and every engine. Cells and engines: see cases.py."""

import contextlib
import dataclasses
import functools

import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest
import row_by_row
from cases import LENGTHS, B, T, perturbed
from laws import ALL, MASK, RESETS, close, compiled, weighted_sum

import jax_dynrnn as rnn
from jax_dynrnn._cell import StagedCell, run_stages


@pytest.fixture(autouse=True)
def sized(law):
    """Sets the law's x64."""
    with contextlib.nullcontext() if law.x64 else jax.enable_x64(False):
        yield


# Everyday, one setting of each class of cells: the others with --full.
one_setting = pytest.mark.everyday(lambda law: not law.case.variant)

# What says nothing about numbers: with 64 bits, and with the types that users have.
two_dtypes = pytest.mark.where(lambda law: law.dtype == "float64" or not law.x64)


STEPS = {
    "padded": {},
    "masked": {"mask": MASK, "resets": RESETS},
    "reversed": {"mask": MASK, "resets": RESETS, "reverse": True},
}


def by_rows(law, steps):
    """Results and gradients of the reference, as `compiled` returns them: no engine's."""
    return _by_rows(dataclasses.replace(law, engine="scan"), steps)


@functools.lru_cache(maxsize=64)
def _by_rows(law, steps):
    return _differentiated_by_rows(law, laws.arguments(law), steps)


def _differentiated_by_rows(law, arguments, steps):
    def run(params, inputs, state):
        cell, options = law.case.cell, {"key": law.case.key(), **STEPS[steps]}
        return row_by_row.run(cell, params, inputs, state, LENGTHS, **options)

    gradients = law.gradients or steps != "reversed"
    return laws.differentiated(run, *arguments, gradients)


def is_by_rows(law, actual, steps):
    """Asserts that a run is the reference's; in 16 bit as near to that in float64 as it is."""

    def exact():
        wide = jax.tree.map(
            lambda x: x.astype("float64") if jnp.issubdtype(x.dtype, jnp.floating) else x,
            laws.arguments(law),
        )
        return _differentiated_by_rows(law, wide, steps)

    bits = jnp.finfo(law.dtype).bits
    close(actual, by_rows(law, steps), law.tolerance, exact if bits == 16 else None)


def backward(law):
    """The reversed run."""
    return compiled(law, reverse=True, gradients=law.gradients)


# Everyday of core cells: of all others the next law, whose rows are padded too, contains it.
@pytest.mark.everyday(lambda law: law.case.core)
def test_padded_is_truncated(law):
    """Outputs, state and gradients of a padded batch are those of the cut rows."""
    arguments = laws.arguments(law)
    is_by_rows(law, compiled(law)(*arguments), "padded")


@two_dtypes
@pytest.mark.where(lambda law: law.case.core)
@pytest.mark.everyday(lambda law: law.case.core and law.engine != "scan")
@pytest.mark.parametrize("lengths", [LENGTHS, None], ids=["lengths", "no lengths"])
def test_what_is_not_given_is_all_of_it(law, lengths):
    """Without a mask, resets and lengths: as with those of every step. Engines may differ there."""
    arguments = laws.arguments(law)
    expected = compiled(law)(*arguments, np.full(B, T) if lengths is None else lengths)
    close(compiled(law)(*arguments, lengths, None, None), expected, law.tolerance)


def test_masks_and_resets(law):
    """Gaps and walls in padded rows mean what the reference says, in results and gradients."""
    arguments = laws.arguments(law)
    is_by_rows(law, compiled(law)(*arguments, LENGTHS, MASK, RESETS), "masked")


@one_setting
def test_masks_and_resets_in_reverse(law):
    """The same in descending order."""
    arguments = laws.arguments(law)
    is_by_rows(law, backward(law)(*arguments, LENGTHS, MASK, RESETS), "reversed")


@one_setting
@pytest.mark.where(lambda law: law.case.flip)
def test_reverse_is_flip_run_flip(law):
    params, inputs, state = laws.arguments(law)

    def flip(x):
        return np.stack([np.r_[x[b, :n][::-1], x[b, n:]] for b, n in enumerate(LENGTHS)])

    flipped = jax.tree.map(lambda x: flip(np.asarray(x)), inputs)
    outputs, final = compiled(law)(params, flipped, state, LENGTHS)[0]
    expected = jax.tree.map(lambda y: flip(np.asarray(y)), outputs), final
    actual = backward(law)(params, inputs, state, LENGTHS, ALL, ~ALL)[0]
    close(actual, expected, law.tolerance)


@pytest.mark.parametrize("garbage", [np.nan, np.inf, "largest"])
@pytest.mark.parametrize("masked", [False, True])
def test_padding_changes_nothing(law, garbage, masked):
    """Whatever the padding holds: same results, same gradients, 0 for the padding.

    Behind the rows, and under a mask before them and in gaps.
    """
    params, inputs, state = laws.arguments(law)
    steps = (LENGTHS, MASK, RESETS) if masked else (LENGTHS,)
    padding = np.arange(T) >= LENGTHS[:, None]
    padding = padding | ~MASK if masked else padding

    def spoil(x):
        worst = law.case.integers + 5
        if jnp.issubdtype(x.dtype, jnp.floating):
            worst = jnp.finfo(x.dtype).max if garbage == "largest" else garbage
        flags = padding.reshape(B, T, *(1,) * (x.ndim - 2))
        return jnp.where(jnp.asarray(flags), jnp.asarray(worst, x.dtype), x)

    clean = compiled(law)(params, inputs, state, *steps)
    spoilt = compiled(law)(params, jax.tree.map(spoil, inputs), state, *steps)
    for a, b in zip(jax.tree.leaves(spoilt), jax.tree.leaves(clean), strict=True):
        np.testing.assert_array_equal(a, b)
    for x in jax.tree.leaves(spoilt[1][1]):
        if x.dtype != jax.dtypes.float0:
            assert not np.asarray(x)[padding].astype(np.float64).any()


def test_a_row_of_length_0(law):
    """Its outputs are 0 and its state is the initial state."""
    params, inputs, state = laws.arguments(law)
    (outputs, final), _ = compiled(law)(params, inputs, state, LENGTHS)
    empty = int(np.flatnonzero(LENGTHS == 0)[0])
    for y in jax.tree.leaves(outputs):
        assert not np.asarray(y[empty]).astype(np.float64).any()
    for new, old in zip(jax.tree.leaves(final), jax.tree.leaves(state), strict=True):
        if old.ndim:
            np.testing.assert_array_equal(new[empty], old[empty])


@pytest.mark.where(lambda law: law.case.flip)
def test_split_and_carry_is_one_run(law):
    params, inputs, state = laws.arguments(law)
    cut = 2
    first = np.minimum(LENGTHS, cut)
    rest = jax.tree.map(lambda x: jnp.roll(x, -cut, axis=1), inputs)
    head, carried = compiled(law)(params, inputs, state, first)[0]
    tail, final = compiled(law)(params, rest, carried, LENGTHS - first)[0]
    outputs = jax.tree.map(
        lambda h, t: jnp.concatenate([h[:, :cut], t[:, : T - cut]], 1), head, tail
    )
    close((outputs, final), compiled(law)(params, inputs, state, LENGTHS)[0], law.tolerance)


def time_major(law, run, params):
    """What `run` makes of the steps first, outside of jit: `(outputs, ...)` with the rows first."""
    _, inputs, state = laws.arguments(law)
    swapped = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), inputs)
    states = (state,) if run is rnn.dynamic_rnn else (state, state)
    key = law.case.key() if run is rnn.dynamic_rnn else None

    def called(params, inputs):
        return run(
            *(law.case.cell,) * len(states), params, inputs, LENGTHS, *states, time_major=True,
            mask=MASK.T, resets=RESETS.T, key=key, implementation=law.engine,
        )  # fmt: skip

    outputs, final = called(params, swapped)

    def kinds(tree):
        return jax.tree.map(lambda x: (x.shape, x.dtype), tree)

    assert kinds(jax.eval_shape(called, params, swapped)) == kinds((outputs, final))
    return jax.tree.map(lambda y: jnp.swapaxes(y, 0, 1), outputs), final


@two_dtypes
@pytest.mark.everyday(lambda law: law.case.keyed)
def test_eager_and_time_major(law):
    """A run outside jit, over transposed inputs, is the compiled run; and eval_shape's kinds.

    Everyday, of those that draw: of the others both directions are run so, below.
    """
    params, inputs, state = laws.arguments(law)
    expected = compiled(law)(params, inputs, state, LENGTHS, MASK, RESETS)[0]
    close(time_major(law, rnn.dynamic_rnn, params), expected, law.tolerance)


@two_dtypes
@one_setting
@pytest.mark.where(lambda law: not law.case.keyed)
def test_both_directions_are_two_runs(law):
    """Each with its own key, if it has one: not those that draw."""
    params, inputs, state = laws.arguments(law)
    both = {"fw": params, "bw": params}
    both_ways = [
        run(params, inputs, state, LENGTHS, MASK, RESETS)[0]
        for run in (compiled(law), backward(law))
    ]
    actual = time_major(law, rnn.bidirectional_dynamic_rnn, both)
    close(actual, tuple(zip(*both_ways, strict=True)), law.tolerance)


@two_dtypes
@one_setting
def test_vmap_is_a_loop(law):
    """Over params, inputs, states, lengths, masks and resets at once."""
    params, inputs, state = laws.arguments(law)
    others = (
        perturbed(params, 5),
        law.case.inputs(law.dtype, seed=9),
        law.case.state(law.dtype, 6),
        LENGTHS[::-1],
        MASK[::-1],
        RESETS[::-1],
    )
    both = (params, inputs, state, LENGTHS, MASK, RESETS), others
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *both)
    actual = jax.vmap(compiled(law, gradients=law.gradients))(*stacked)
    for i, arguments in enumerate(both):
        one = jax.tree.map(lambda x, i=i: x[i], actual)
        results, gradients = compiled(law)(*arguments)
        close(one, (results, gradients if law.gradients else None), law.tolerance)


@pytest.mark.where(lambda law: law.dtype == "float64" and law.case.derivative)
def test_gradients_are_finite_differences(law):
    """Differences in fewer bits show nothing."""
    arguments = laws.arguments(law)

    def run(arguments):
        return compiled(law)(*arguments, LENGTHS)

    gradients = run(arguments)[1]
    direction = perturbed(jax.tree.map(jnp.zeros_like, arguments), 8)
    step = 1e-6

    def loss(sign):
        def move(x, d):
            return x + sign * step * d if x.dtype.kind == "f" else x

        moved = jax.tree.map(move, *jax.tree.map(np.asarray, (arguments, direction)))
        return float(weighted_sum(run(moved)[0], np))

    predicted = sum(
        float((np.asarray(g) * np.asarray(d)).sum())
        for g, d in zip(jax.tree.leaves(gradients), jax.tree.leaves(direction), strict=True)
        if g.dtype != jax.dtypes.float0
    )
    measured = (loss(1) - loss(-1)) / (2 * step)
    assert abs(measured - predicted) <= 1e-7 * (1 + abs(predicted))


@pytest.mark.where(
    lambda law: isinstance(law.case.cell, StagedCell) and law.engine == "scan" and law.x64
)
def test_what_engines_take_for_a_step(law):
    """Without a key: `stages`; and `pointwise`, where that follows the one matmul there is."""
    params, inputs, state = laws.arguments(law)
    cell, kernels = law.case.cell, []
    params = cell.prepare(params, batch_shape=(B,))
    projected = cell.project(params, jax.tree.map(lambda x: x[:, 0], inputs))
    expected = cell.step(params, projected, state)

    def multiply(i, x, kernel):
        kernels.append(kernel)
        return x @ kernel

    close(run_stages(cell.stages(params, projected, state), multiply), expected, law.tolerance)
    assert len(kernels) == 1 or type(cell).stages is not rnn.MatmulCell.stages
    if isinstance(cell, rnn.MatmulCell) and len(kernels) == 1:
        recurred = cell.hidden(state) @ cell.recurrent_kernel(params)
        close(cell.pointwise(params, projected, recurred, state), expected, law.tolerance)


@two_dtypes
@one_setting
@pytest.mark.parametrize(("rows", "steps"), [(0, T), (B, 0), (0, 0)])
def test_no_rows_or_no_steps(law, rows, steps):
    """Outputs and state are cut; leaves of rank 0 are those of rows without a valid step.

    Params have a gradient of 0.
    """
    params, inputs, state = laws.arguments(law)
    outputs, final = compiled(law)(params, inputs, state, np.zeros(B, np.int32))[0]

    def cut(x):
        return x[:rows] if x.ndim else x

    params = law.case.params(law.dtype, rows)
    none = jax.tree.map(lambda x: x[:rows, :steps], inputs), jax.tree.map(cut, state)
    flags = np.ones((rows, steps), bool)
    results, gradients = compiled(law)(params, *none, np.zeros(rows, np.int32), flags, flags)
    expected = jax.tree.map(lambda y: y[:rows, :steps] if y.ndim > 1 else y[:steps], outputs)
    close(results, (expected, jax.tree.map(cut, final) if steps else none[1]), 0)
    if gradients is not None:
        for x in jax.tree.leaves(gradients[0]):
            assert x.dtype == jax.dtypes.float0 or not np.asarray(x, np.float64).any()
