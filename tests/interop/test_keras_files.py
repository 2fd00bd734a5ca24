"""Files of Keras: the printed programs compute what the models of the framework do."""

import numpy as np
import pytest
from keras_files import (
    OPTIONS,
    SAVED_MODEL,
    B,
    D,
    Model,
    T,
    identifier,
    pairwise,
    printed,
    run_printed,
)
from weights_agree import as_there

# Saving a SavedModel takes seconds, so all but one are left to `--full`.
EVERYDAY = OPTIONS | {"format": OPTIONS["format"][:-1]}
CASES = [
    *(pytest.param(case, id=identifier(case)) for case in pairwise(0, EVERYDAY)),
    pytest.param(SAVED_MODEL, id=identifier(SAVED_MODEL)),
    *(
        pytest.param(case, id=identifier(case), marks=pytest.mark.full)
        for case in pairwise(1, OPTIONS, 520)
    ),
]
pytestmark = [
    # With x64 the biases that a GRU of Keras 3 lacks are zeros in float64, which its scan refuses.
    pytest.mark.usefixtures("jax_defaults"),
    # Warnings of Keras's own code.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning"),
]


@pytest.mark.parametrize("case", CASES)
def test_printed_programs(case, tmp_path, load_oracle):
    """A model in a file, the printed program, and the framework's own run agree."""
    load_oracle(case["framework"])
    model = as_there(Model)(case["framework"], case)
    program = printed(*model.save(tmp_path))
    draw = np.random.default_rng(1)
    x = draw.normal(size=(B, T, D)).astype(np.float32)
    mask = np.ones((B, T), bool)
    if case["mask"] != "none" and case["stateful"]:
        # Where the first steps are masked, stateful layers of Keras 3 return the state, and those
        # of `tf_keras` zeros; the program has zeros.
        mask[0, 2] = False
    elif case["mask"] != "none":
        mask[0, 3:], mask[1, 0] = False, False
    x = np.where(mask[..., None], x, 0).astype(np.float32)
    there = here = x
    if case["mask"] == "mask_zero":
        there = np.where(mask, draw.integers(1, 7, (B, T)), 0)
        words = next(x for x in model.model.layers if x.name == "words")
        here = np.asarray(words.get_weights()[0])[there]
    expected = as_there(model.outputs)(there)
    given = mask if case["mask"] != "none" else None
    for got, right in zip(
        run_printed(program, here, given, case["stateful"]), expected, strict=True
    ):
        for a, b in zip(got, right, strict=True):
            if case["framework"] == "keras" and "[" in case["layer"] and case["return_sequences"]:
                # Where masked, Keras 3 returns the state of the first cell of a stack.
                steps = mask[:, ::-1] if case["go_backwards"] else mask
                a, b = a[steps], b[steps]
            np.testing.assert_allclose(a, b, atol=2e-5, rtol=2e-4)
