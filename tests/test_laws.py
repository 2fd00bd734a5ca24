"""Laws that hold for every cell and every engine. cases.py lists the cells."""

import contextlib
import dataclasses
import functools

import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest
import reference_loop
from cases import LENGTHS, B, T, perturbed
from laws import ALL, MASK, RESETS, close, compiled, weighted_sum

import jax_dynrnn as rnn
from jax_dynrnn._cell import StagedCell, run_stages


@pytest.fixture(autouse=True)
def x64_of_combination(combination):
    """Turns 64-bit types off for laws without x64."""
    with contextlib.nullcontext() if combination.x64 else jax.enable_x64(False):
        yield


# The everyday suite runs these laws with one setting of each class of cells.
one_setting = pytest.mark.everyday(lambda combination: not combination.case.variant)

# Laws that do not depend on precision: in float64, and with x64 off as users have it.
two_dtypes = pytest.mark.where(
    lambda combination: combination.dtype == "float64" or not combination.x64
)


RUN_OPTIONS = {
    "padded": {},
    "masked": {"mask": MASK, "resets": RESETS},
    "reversed": {"mask": MASK, "resets": RESETS, "reverse": True},
}


def reference_results(combination, options_name):
    """Results and gradients of the reference loop, in the form that `compiled` returns."""
    # The reference has no engine: one cache entry serves the laws of all engines.
    return _reference_results(dataclasses.replace(combination, engine="scan"), options_name)


# Tests of one combination run together (see conftest.py): a small cache suffices.
@functools.lru_cache(maxsize=64)
def _reference_results(combination, options_name):
    return _differentiated_reference(combination, laws.arguments(combination), options_name)


def _differentiated_reference(combination, arguments, options_name):
    def run(params, inputs, state):
        cell, options = (
            combination.case.cell,
            {"key": combination.case.key(), **RUN_OPTIONS[options_name]},
        )
        return reference_loop.run(cell, params, inputs, state, LENGTHS, **options)

    gradients = combination.gradients or options_name != "reversed"
    return laws.differentiated(run, *arguments, gradients)


def assert_agrees_with_reference(combination, actual, options_name):
    """Asserts that a run agrees with the reference.

    In 16 bits its error against float64 is compared with the reference's where they disagree.
    """

    def exact():
        """The results and gradients of the reference in float64."""
        wide = jax.tree.map(
            lambda x: x.astype("float64") if jnp.issubdtype(x.dtype, jnp.floating) else x,
            laws.arguments(combination),
        )
        return _differentiated_reference(combination, wide, options_name)

    bits = jnp.finfo(combination.dtype).bits
    close(
        actual,
        reference_results(combination, options_name),
        combination.tolerance,
        exact if bits == 16 else None,
    )


def reversed_run(combination):
    """The compiled run in reverse."""
    return compiled(combination, reverse=True, gradients=combination.gradients)


# The everyday suite runs this law for core cells only: in the masked law rows are padded too.
@pytest.mark.everyday(lambda combination: combination.case.core)
def test_padded_batches_agree_with_the_reference(combination):
    """Outputs, state and gradients of a padded batch agree with the reference loop."""
    arguments = laws.arguments(combination)
    assert_agrees_with_reference(combination, compiled(combination)(*arguments), "padded")


@two_dtypes
@pytest.mark.where(lambda combination: combination.case.core)
@pytest.mark.everyday(lambda combination: combination.case.core and combination.engine != "scan")
@pytest.mark.parametrize("lengths", [LENGTHS, None], ids=["lengths", "no lengths"])
def test_default_mask_resets_and_lengths(combination, lengths):
    """`None` as mask, resets or lengths equals a full mask, no resets and full lengths.

    Engines may have other programs for `None`.
    """
    arguments = laws.arguments(combination)
    expected = compiled(combination)(*arguments, np.full(B, T) if lengths is None else lengths)
    close(compiled(combination)(*arguments, lengths, None, None), expected, combination.tolerance)


def test_masks_and_resets(combination):
    """Masks and resets in padded rows agree with the reference, in results and gradients."""
    arguments = laws.arguments(combination)
    assert_agrees_with_reference(
        combination, compiled(combination)(*arguments, LENGTHS, MASK, RESETS), "masked"
    )


@one_setting
def test_masks_and_resets_in_reverse(combination):
    """Masks and resets in a reversed run agree with the reference, with gradients."""
    arguments = laws.arguments(combination)
    assert_agrees_with_reference(
        combination, reversed_run(combination)(*arguments, LENGTHS, MASK, RESETS), "reversed"
    )


@one_setting
@pytest.mark.where(lambda combination: combination.case.time_invariant)
def test_reverse_is_flip_run_flip(combination):
    """A reversed run equals flipping each row, running forward, and flipping the outputs."""
    params, inputs, state = laws.arguments(combination)

    def flip(x):
        return np.stack([np.r_[x[b, :n][::-1], x[b, n:]] for b, n in enumerate(LENGTHS)])

    flipped = jax.tree.map(lambda x: flip(np.asarray(x)), inputs)
    outputs, final = compiled(combination)(params, flipped, state, LENGTHS)[0]
    expected = jax.tree.map(lambda y: flip(np.asarray(y)), outputs), final
    actual = reversed_run(combination)(params, inputs, state, LENGTHS, ALL, ~ALL)[0]
    close(actual, expected, combination.tolerance)


@pytest.mark.parametrize("garbage", [np.nan, np.inf, "largest"])
@pytest.mark.parametrize("masked", [False, True])
def test_padding_changes_nothing(combination, garbage, masked):
    """NaN, infinity or huge numbers in padding change no result and no gradient.

    Gradients with respect to the padding are 0. Padding follows the valid steps of a row and, if
    `masked`, also fills its gaps.
    """
    params, inputs, state = laws.arguments(combination)
    steps = (LENGTHS, MASK, RESETS) if masked else (LENGTHS,)
    padding = np.arange(T) >= LENGTHS[:, None]
    padding = padding | ~MASK if masked else padding

    def corrupt(x):
        # An id beyond the table is the garbage of integer inputs.
        worst = combination.case.integers + 5
        if jnp.issubdtype(x.dtype, jnp.floating):
            worst = jnp.finfo(x.dtype).max if garbage == "largest" else garbage
        flags = padding.reshape(B, T, *(1,) * (x.ndim - 2))
        return jnp.where(jnp.asarray(flags), jnp.asarray(worst, x.dtype), x)

    clean = compiled(combination)(params, inputs, state, *steps)
    corrupted = compiled(combination)(params, jax.tree.map(corrupt, inputs), state, *steps)
    for a, b in zip(jax.tree.leaves(corrupted), jax.tree.leaves(clean), strict=True):
        np.testing.assert_array_equal(a, b)
    for x in jax.tree.leaves(corrupted[1][1]):
        if x.dtype != jax.dtypes.float0:
            assert not np.asarray(x)[padding].astype(np.float64).any()


def test_a_row_of_length_0(combination):
    """A row of length 0 has outputs of 0 and returns its initial state unchanged."""
    params, inputs, state = laws.arguments(combination)
    (outputs, final), _ = compiled(combination)(params, inputs, state, LENGTHS)
    empty = int(np.flatnonzero(LENGTHS == 0)[0])
    for y in jax.tree.leaves(outputs):
        assert not np.asarray(y[empty]).astype(np.float64).any()
    for new, old in zip(jax.tree.leaves(final), jax.tree.leaves(state), strict=True):
        if old.ndim:
            np.testing.assert_array_equal(new[empty], old[empty])


@pytest.mark.where(lambda combination: combination.case.time_invariant)
def test_split_and_carry_is_one_run(combination):
    """Two runs, the second of which starts from the first one's state, equal one run."""
    params, inputs, state = laws.arguments(combination)
    cut = 2
    first = np.minimum(LENGTHS, cut)
    # The first steps, which are rolled to the end, are behind the remaining lengths.
    rest = jax.tree.map(lambda x: jnp.roll(x, -cut, axis=1), inputs)
    head, carried = compiled(combination)(params, inputs, state, first)[0]
    tail, final = compiled(combination)(params, rest, carried, LENGTHS - first)[0]
    outputs = jax.tree.map(
        lambda h, t: jnp.concatenate([h[:, :cut], t[:, : T - cut]], 1), head, tail
    )
    close(
        (outputs, final),
        compiled(combination)(params, inputs, state, LENGTHS)[0],
        combination.tolerance,
    )


def time_major(combination, run, params):
    """Runs a cell eagerly with `time_major=True`; returns `(outputs, state)`, batch-major.

    Also checks that `jax.eval_shape` infers the same shapes and dtypes.
    """
    _, inputs, state = laws.arguments(combination)
    swapped = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), inputs)
    states = (state,) if run is rnn.dynamic_rnn else (state, state)
    key = combination.case.key() if run is rnn.dynamic_rnn else None

    def called(params, inputs):
        return run(
            *(combination.case.cell,) * len(states), params, inputs, LENGTHS, *states,
            time_major=True, mask=MASK.T, resets=RESETS.T, key=key,
            implementation=combination.engine,
        )  # fmt: skip

    outputs, final = called(params, swapped)

    def shapes_and_dtypes(tree):
        return jax.tree.map(lambda x: (x.shape, x.dtype), tree)

    assert shapes_and_dtypes(jax.eval_shape(called, params, swapped)) == shapes_and_dtypes(
        (outputs, final)
    )
    return jax.tree.map(lambda y: jnp.swapaxes(y, 0, 1), outputs), final


@two_dtypes
@pytest.mark.everyday(lambda combination: combination.case.keyed)
def test_eager_and_time_major(combination):
    """An eager run over time-major inputs equals the compiled, batch-major run.

    In the everyday suite for keyed cells only: the next law covers the others.
    """
    params, inputs, state = laws.arguments(combination)
    expected = compiled(combination)(params, inputs, state, LENGTHS, MASK, RESETS)[0]
    close(time_major(combination, rnn.dynamic_rnn, params), expected, combination.tolerance)


@two_dtypes
@one_setting
@pytest.mark.where(lambda combination: not combination.case.keyed)
def test_both_directions_are_two_runs(combination):
    """An eager, time-major bidirectional run equals a forward and a reversed run.

    Not for keyed cells, since each direction derives its own key.
    """
    params, inputs, state = laws.arguments(combination)
    both = {"fw": params, "bw": params}
    both_ways = [
        run(params, inputs, state, LENGTHS, MASK, RESETS)[0]
        for run in (compiled(combination), reversed_run(combination))
    ]
    actual = time_major(combination, rnn.bidirectional_dynamic_rnn, both)
    close(actual, tuple(zip(*both_ways, strict=True)), combination.tolerance)


@two_dtypes
@one_setting
def test_vmap_is_a_loop(combination):
    """`vmap` over params, inputs, states, lengths, masks and resets equals a loop over runs."""
    params, inputs, state = laws.arguments(combination)
    others = (
        perturbed(params, 5),
        combination.case.inputs(combination.dtype, seed=9),
        combination.case.state(combination.dtype, 6),
        LENGTHS[::-1],
        MASK[::-1],
        RESETS[::-1],
    )
    both = (params, inputs, state, LENGTHS, MASK, RESETS), others
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *both)
    actual = jax.vmap(compiled(combination, gradients=combination.gradients))(*stacked)
    for i, arguments in enumerate(both):
        one = jax.tree.map(lambda x, i=i: x[i], actual)
        results, gradients = compiled(combination)(*arguments)
        close(one, (results, gradients if combination.gradients else None), combination.tolerance)


@pytest.mark.where(
    lambda combination: combination.dtype == "float64" and combination.case.has_exact_gradient
)
def test_gradients_are_finite_differences(combination):
    """The gradient in a random direction agrees with central finite differences.

    In float64 only: with fewer bits the rounding errors exceed the differences.
    """
    arguments = laws.arguments(combination)

    def run(arguments):
        return compiled(combination)(*arguments, LENGTHS)

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
    lambda combination: (
        isinstance(combination.case.cell, StagedCell)
        and combination.engine == "scan"
        and combination.x64
    )
)
def test_stages_and_pointwise_agree_with_step(combination):
    """Engines run `stages`, or `pointwise` after a single matmul: both compute what `step` does."""
    params, inputs, state = laws.arguments(combination)
    cell, kernels = combination.case.cell, []
    params = cell.prepare(params, batch_shape=(B,))
    projected = cell.project(params, jax.tree.map(lambda x: x[:, 0], inputs))
    expected = cell.step(params, projected, state)

    def multiply(i, x, kernel):
        kernels.append(kernel)
        return x @ kernel

    close(
        run_stages(cell.stages(params, projected, state), multiply), expected, combination.tolerance
    )
    assert len(kernels) == 1 or type(cell).stages is not rnn.MatmulCell.stages
    if isinstance(cell, rnn.MatmulCell) and len(kernels) == 1:
        recurred = cell.hidden(state) @ cell.recurrent_kernel(params)
        close(cell.pointwise(params, projected, recurred, state), expected, combination.tolerance)


@two_dtypes
@one_setting
@pytest.mark.parametrize(("rows", "steps"), [(0, T), (B, 0), (0, 0)])
def test_no_rows_or_no_steps(combination, rows, steps):
    """With no rows or no steps, outputs and state are empty along that axis.

    Rank-0 state leaves are those of rows without a valid step. Gradients of params are 0.
    """
    params, inputs, state = laws.arguments(combination)
    outputs, final = compiled(combination)(params, inputs, state, np.zeros(B, np.int32))[0]

    def cut(x):
        return x[:rows] if x.ndim else x

    params = combination.case.params(combination.dtype, rows)
    cut_inputs_and_state = (
        jax.tree.map(lambda x: x[:rows, :steps], inputs),
        jax.tree.map(cut, state),
    )
    flags = np.ones((rows, steps), bool)
    results, gradients = compiled(combination)(
        params, *cut_inputs_and_state, np.zeros(rows, np.int32), flags, flags
    )
    expected = jax.tree.map(lambda y: y[:rows, :steps] if y.ndim > 1 else y[:steps], outputs)
    close(results, (expected, jax.tree.map(cut, final) if steps else cut_inputs_and_state[1]), 0)
    if gradients is not None:
        for x in jax.tree.leaves(gradients[0]):
            assert x.dtype == jax.dtypes.float0 or not np.asarray(x, np.float64).any()
