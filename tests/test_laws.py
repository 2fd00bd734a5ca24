"""Laws that hold for every cell and every engine. cases.py lists the cells."""

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
def x64_of_law(law):
    """Turns 64-bit types off for laws without x64."""
    with contextlib.nullcontext() if law.x64 else jax.enable_x64(False):
        yield


# The everyday suite runs these laws with one setting of each class of cells.
one_setting = pytest.mark.everyday(lambda law: not law.case.variant)

# Laws that do not depend on precision: in float64, and with x64 off as users have it.
two_dtypes = pytest.mark.where(lambda law: law.dtype == "float64" or not law.x64)


STEPS = {
    "padded": {},
    "masked": {"mask": MASK, "resets": RESETS},
    "reversed": {"mask": MASK, "resets": RESETS, "reverse": True},
}


def by_rows(law, steps):
    """Results and gradients of the reference `row_by_row`, in the form that `compiled` returns."""
    # The reference has no engine: one cache entry serves the laws of all engines.
    return _by_rows(dataclasses.replace(law, engine="scan"), steps)


# Tests of one law run together (see conftest.py): a small cache suffices.
@functools.lru_cache(maxsize=64)
def _by_rows(law, steps):
    return _differentiated_by_rows(law, laws.arguments(law), steps)


def _differentiated_by_rows(law, arguments, steps):
    def run(params, inputs, state):
        cell, options = law.case.cell, {"key": law.case.key(), **STEPS[steps]}
        return row_by_row.run(cell, params, inputs, state, LENGTHS, **options)

    gradients = law.gradients or steps != "reversed"
    return laws.differentiated(run, *arguments, gradients)


def assert_agrees_with_reference(law, actual, steps):
    """Asserts that a run agrees with the reference.

    In 16 bits its error against float64 is compared with the reference's where they disagree.
    """

    def exact():
        """The results and gradients of the reference in float64."""
        wide = jax.tree.map(
            lambda x: x.astype("float64") if jnp.issubdtype(x.dtype, jnp.floating) else x,
            laws.arguments(law),
        )
        return _differentiated_by_rows(law, wide, steps)

    bits = jnp.finfo(law.dtype).bits
    close(actual, by_rows(law, steps), law.tolerance, exact if bits == 16 else None)


def backward(law):
    """The compiled run in reverse."""
    return compiled(law, reverse=True, gradients=law.gradients)


# The everyday suite runs this law for core cells only: in the masked law rows are padded too.
@pytest.mark.everyday(lambda law: law.case.core)
def test_padded_is_truncated(law):
    """A padded batch has the outputs, state and gradients of its rows run without padding."""
    arguments = laws.arguments(law)
    assert_agrees_with_reference(law, compiled(law)(*arguments), "padded")


@two_dtypes
@pytest.mark.where(lambda law: law.case.core)
@pytest.mark.everyday(lambda law: law.case.core and law.engine != "scan")
@pytest.mark.parametrize("lengths", [LENGTHS, None], ids=["lengths", "no lengths"])
def test_default_mask_resets_and_lengths(law, lengths):
    """`None` as mask, resets or lengths equals a full mask, no resets and full lengths.

    Engines may have other programs for `None`.
    """
    arguments = laws.arguments(law)
    expected = compiled(law)(*arguments, np.full(B, T) if lengths is None else lengths)
    close(compiled(law)(*arguments, lengths, None, None), expected, law.tolerance)


def test_masks_and_resets(law):
    """Masks and resets in padded rows agree with the reference, in results and gradients."""
    arguments = laws.arguments(law)
    assert_agrees_with_reference(law, compiled(law)(*arguments, LENGTHS, MASK, RESETS), "masked")


@one_setting
def test_masks_and_resets_in_reverse(law):
    """Masks and resets in a reversed run agree with the reference, with gradients."""
    arguments = laws.arguments(law)
    assert_agrees_with_reference(law, backward(law)(*arguments, LENGTHS, MASK, RESETS), "reversed")


@one_setting
@pytest.mark.where(lambda law: law.case.time_invariant)
def test_reverse_is_flip_run_flip(law):
    """A reversed run equals flipping each row, running forward, and flipping the outputs."""
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
    """NaN, infinity or huge numbers in padding change no result and no gradient.

    Gradients by the padding are 0. Padding is behind the rows, and, if `masked`, also in gaps.
    """
    params, inputs, state = laws.arguments(law)
    steps = (LENGTHS, MASK, RESETS) if masked else (LENGTHS,)
    padding = np.arange(T) >= LENGTHS[:, None]
    padding = padding | ~MASK if masked else padding

    def spoil(x):
        # An id beyond the table is the garbage of integer inputs.
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
    """A row of length 0 has outputs of 0 and returns its initial state unchanged."""
    params, inputs, state = laws.arguments(law)
    (outputs, final), _ = compiled(law)(params, inputs, state, LENGTHS)
    empty = int(np.flatnonzero(LENGTHS == 0)[0])
    for y in jax.tree.leaves(outputs):
        assert not np.asarray(y[empty]).astype(np.float64).any()
    for new, old in zip(jax.tree.leaves(final), jax.tree.leaves(state), strict=True):
        if old.ndim:
            np.testing.assert_array_equal(new[empty], old[empty])


@pytest.mark.where(lambda law: law.case.time_invariant)
def test_split_and_carry_is_one_run(law):
    """Two runs, the second of which starts from the first one's state, equal one run."""
    params, inputs, state = laws.arguments(law)
    cut = 2
    first = np.minimum(LENGTHS, cut)
    # The first steps, which are rolled to the end, are behind the remaining lengths.
    rest = jax.tree.map(lambda x: jnp.roll(x, -cut, axis=1), inputs)
    head, carried = compiled(law)(params, inputs, state, first)[0]
    tail, final = compiled(law)(params, rest, carried, LENGTHS - first)[0]
    outputs = jax.tree.map(
        lambda h, t: jnp.concatenate([h[:, :cut], t[:, : T - cut]], 1), head, tail
    )
    close((outputs, final), compiled(law)(params, inputs, state, LENGTHS)[0], law.tolerance)


def time_major(law, run, params):
    """Runs a law eagerly with `time_major=True`; returns `(outputs, state)`, batch-major.

    Also checks that `jax.eval_shape` infers the same shapes and dtypes.
    """
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

    def shapes_and_dtypes(tree):
        return jax.tree.map(lambda x: (x.shape, x.dtype), tree)

    assert shapes_and_dtypes(jax.eval_shape(called, params, swapped)) == shapes_and_dtypes(
        (outputs, final)
    )
    return jax.tree.map(lambda y: jnp.swapaxes(y, 0, 1), outputs), final


@two_dtypes
@pytest.mark.everyday(lambda law: law.case.keyed)
def test_eager_and_time_major(law):
    """An eager run over time-major inputs equals the compiled, batch-major run.

    In the everyday suite for keyed cells only: the next law covers the others.
    """
    params, inputs, state = laws.arguments(law)
    expected = compiled(law)(params, inputs, state, LENGTHS, MASK, RESETS)[0]
    close(time_major(law, rnn.dynamic_rnn, params), expected, law.tolerance)


@two_dtypes
@one_setting
@pytest.mark.where(lambda law: not law.case.keyed)
def test_both_directions_are_two_runs(law):
    """An eager, time-major bidirectional run equals a forward and a reversed run.

    Not for keyed cells, since each direction derives its own key.
    """
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
    """`vmap` over params, inputs, states, lengths, masks and resets equals a loop over runs."""
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
    """The gradient in a random direction agrees with central finite differences.

    In float64 only: with fewer bits the rounding errors exceed the differences.
    """
    arguments = laws.arguments(law)

    def run(arguments):
        return compiled(law)(*arguments, LENGTHS)

    gradients = run(arguments)[1]
    direction = perturbed(jax.tree.map(jnp.zeros_like, arguments), 8)
    # Truncation errors (step**2) and rounding errors (eps / step) are both far below the bound.
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
def test_stages_and_pointwise_agree_with_step(law):
    """Engines run `stages`, or `pointwise` after a single matmul: both compute what `step` does."""
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
    """With no rows or no steps, outputs and state are empty along that axis.

    Rank-0 state leaves are those of rows without a valid step. Gradients of params are 0.
    """
    params, inputs, state = laws.arguments(law)
    outputs, final = compiled(law)(params, inputs, state, np.zeros(B, np.int32))[0]

    def cut(x):
        return x[:rows] if x.ndim else x

    params = law.case.params(law.dtype, rows)
    cut_inputs_and_state = (
        jax.tree.map(lambda x: x[:rows, :steps], inputs),
        jax.tree.map(cut, state),
    )
    flags = np.ones((rows, steps), bool)
    results, gradients = compiled(law)(
        params, *cut_inputs_and_state, np.zeros(rows, np.int32), flags, flags
    )
    expected = jax.tree.map(lambda y: y[:rows, :steps] if y.ndim > 1 else y[:steps], outputs)
    close(results, (expected, jax.tree.map(cut, final) if steps else cut_inputs_and_state[1]), 0)
    if gradients is not None:
        for x in jax.tree.leaves(gradients[0]):
            assert x.dtype == jax.dtypes.float0 or not np.asarray(x, np.float64).any()
