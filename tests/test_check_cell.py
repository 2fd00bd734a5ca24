"""`check_cell`: it passes the cells of the package, and reports each fault under its law."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from broken_cells import CANNOT_RUN, CAUSES, ONE_LAW, BatchNorm, CountsInPython
from cases import CASES, D, H, is_shape
from toys import Duck

import jax_dynrnn as rnn
from jax_dynrnn._testing.compare import assert_close
from jax_dynrnn.testing import CellCheckError, CellReport, check_cell

SHAPE = (2, 5, 3)
LAWS = [
    *("structure", "padding", "garbage", "split", "rows", "vmap"),
    *("jit", "finite", "gradients", "engines", "keys", "pickle"),
]


def named(pairs):
    """Parameters with the class of the cell as id."""
    return [pytest.param(*pair, id=type(pair[0]).__name__) for pair in pairs]


def broken_law(cell, laws, **options):
    """The law by which a cell fails, or `None`."""
    try:
        check_cell(cell, SHAPE, laws=laws, **options)
    except CellCheckError as error:
        return error.law
    return None


@pytest.mark.parametrize("cell, broken", named(ONE_LAW))
def test_a_fault_breaks_one_law(cell, broken):
    """A cell with one fault breaks its law and no other."""
    assert broken_law(cell, [broken]) == broken
    assert broken_law(cell, [name for name in LAWS if name != broken]) is None


@pytest.mark.parametrize("cell, broken", named(CANNOT_RUN))
def test_a_cell_that_cannot_run(cell, broken):
    """For a cell that cannot run, the broken law is reported, even if another one is checked."""
    assert broken_law(cell, [broken]) == broken
    assert broken_law(cell, ["garbage"]) == broken


@pytest.mark.parametrize("cell, checked, broken", [(*row,) for row in CAUSES])
def test_the_more_basic_law_is_reported(cell, checked, broken):
    """If a law fails because a more basic one is broken, the basic one is reported."""
    assert broken_law(cell, [checked]) == broken


def test_a_python_integer_in_the_state_passes():
    """A state may start with a Python integer as a counter."""
    with jax.enable_x64(False):  # JAX makes the count int32, NumPy int64
        assert broken_law(CountsInPython(), ["structure", "padding", "jit"]) is None


def test_equal_infinities_raise_no_warning():
    """Equal infinities are compared, not subtracted, which would give NaN and a warning."""
    result = {"outputs": np.full((2, 2), np.inf)}
    assert_close(result, result, 0, "here", "there")


@pytest.mark.parametrize("broken", ["padding", "rows", "vmap"])
def test_batch_norm_breaks_the_laws_of_rows(broken):
    """A cell that mixes rows breaks each law about rows."""
    assert broken_law(BatchNorm(), [broken]) == broken


def test_batch_norm_breaks_no_other_law():
    """A cell that mixes rows obeys the laws that are not about rows."""
    others = [name for name in LAWS if name not in ("padding", "split", "rows", "vmap")]
    assert broken_law(BatchNorm(), others) is None


EVERYDAY = {
    *("gru", "learned", "zoneout", "plus_one", "norm", "nested", "ids", "duck", "linen"),
}
PASSING = [
    pytest.param(case, id=case.name, marks=[] if case.name in EVERYDAY else [pytest.mark.full])
    for case in CASES
    if not case.memory_sizes
]


@pytest.mark.parametrize("case", PASSING)
def test_cells_of_the_package_pass(case):
    """Every cell without a memory passes all laws that are not skipped for it."""
    shapes = jax.tree.map(lambda s: (2, 7, *s), case.features, is_leaf=is_shape)
    laws = [name for name in LAWS if case.has_exact_gradient or name != "gradients"]
    report = check_cell(case.cell, shapes, laws=laws)
    assert {*report.passed, *report.skipped} == {*laws}
    assert {*report.skipped} <= {"engines", "keys", "pickle"}
    if case.core:
        assert "engines" in report.passed
    if case.keyed:
        assert "keys" in report.passed


@pytest.mark.parametrize("dtype, cell", [("float64", Duck(H)), ("bfloat16", rnn.BasicRNNCell(H))])
def test_other_dtypes(dtype, cell):
    """`check_cell` works in float64 and bfloat16."""
    passed = check_cell(cell, SHAPE, dtype=dtype).passed
    assert {*LAWS} - {*passed} <= {"keys", "engines"} and passed[:4] == tuple(LAWS[:4])


def test_the_error_message():
    """It has the law and its meaning, the element, both values, a remedy, and how to reproduce."""
    with pytest.raises(CellCheckError) as error:
        check_cell(BatchNorm(), SHAPE, key=jax.random.key(3), laws=["rows"])
    law, found, fix, again = str(error.value).split("\n")
    assert law == "the law 'rows' is broken by BatchNorm(): no row depends on another one."
    number = r"-?\d\.\d+(e-\d+)?"
    where = rf"outputs at row [012], step \d, element \(\d,\): {number}"
    pattern = rf"  Found: {where} after the inputs of row 3 alone were changed, {number} before"
    assert re.fullmatch(pattern, found), found
    assert fix.startswith("  Fix: Compute each row from its own inputs and state;")
    assert again == (
        "  Reproduce: check_cell(cell, (2, 5, 3), key=key, dtype='float32', laws=['rows'])"
    )


def test_the_error_is_reproduced_by_its_key():
    """The same key finds the same values, and another key finds others."""

    def text(seed):
        with pytest.raises(CellCheckError) as error:
            check_cell(BatchNorm(), SHAPE, key=jax.random.key(seed), laws=["rows"])
        return str(error.value)

    assert text(1) == text(1) != text(2)


def test_a_wrong_gradient_is_reported_with_its_leaf():
    """The error names the params or inputs whose gradient is wrong."""
    cell = next(cell for cell, _ in ONE_LAW if type(cell).__name__ == "WrongDerivative")
    with pytest.raises(CellCheckError, match="gradient with respect to params.'w'.|to inputs: "):
        check_cell(cell, SHAPE, laws=["gradients"])


@pytest.mark.parametrize(
    "cell, name",
    [
        (rnn.BasicRNNCell(H, activation=lambda x: jnp.tanh(x)), "<lambda>"),
        (rnn.MultiRNNCell([rnn.GRUCell(2, activation=lambda x: x)]), "<lambda>"),
        (type("Local", (rnn.GRUCell,), {})(4), "Local"),
    ],
)
def test_pickle_is_skipped_without_an_importable_name(cell, name):
    """A lambda or local class cannot be pickled: the law is skipped, with that reason."""
    report = check_cell(cell, SHAPE, laws=["pickle"])
    reason = report.skipped["pickle"]
    assert report.passed == () and str(report) == f"pickle  skipped: {reason}"
    assert reason.startswith("a function or class of it has no importable name: ")
    assert name in reason


def test_engines_is_skipped_if_only_scan_runs_the_cell():
    """The report says why the law `engines` was skipped."""
    report = check_cell(Duck(H), SHAPE, laws=["engines"])
    assert "only scan can run it" in report.skipped["engines"]


def test_the_report_of_passed_laws():
    """Laws are reported in their own order, one per line."""
    report = check_cell(rnn.GRUCell(H), SHAPE, laws=("rows", "structure"))
    assert report == CellReport(("structure", "rows"), {})
    assert str(report) == "structure  passed\nrows       passed"


ATTENTION = rnn.AttentionWrapper(rnn.GRUCell(H), rnn.LuongAttention(H))
BAD = [
    ((rnn.GRUCell, SHAPE), {}, TypeError, "got the class GRUCell itself"),
    ((object(), SHAPE), {}, TypeError, "expected a cell"),
    ((rnn.GRUCell(H), D), {}, TypeError, "input_shape: expected a shape .*, got 3"),
    ((rnn.GRUCell(H), "abc"), {}, TypeError, "input_shape: expected a shape .*, got 'abc'"),
    ((rnn.GRUCell(H), None), {}, TypeError, "input_shape: expected a shape .*, got None"),
    ((rnn.GRUCell(H), (2, 5, 0.5)), {}, TypeError, "input_shape: expected a shape"),
    ((rnn.GRUCell(H), ()), {}, TypeError, "input_shape: expected a shape"),
    ((rnn.GRUCell(H), np.ones(SHAPE)), {}, TypeError, r"got an array; give its .shape, \(2, 5, 3"),
    ((SHAPE, rnn.GRUCell(H)), {}, TypeError, "cell: expected a cell"),
    ((rnn.GRUCell(H), SHAPE), {"laws": ["row"]}, ValueError, "names among structure, .*'row'"),
    ((rnn.GRUCell(H), SHAPE), {"dtype": "int32"}, TypeError, "dtype: expected a real floating"),
    ((rnn.GRUCell(H), SHAPE), {"key": 3}, ValueError, "key: expected one key"),
    ((ATTENTION, SHAPE), {}, NotImplementedError, "attends to a memory; check the cell inside"),
]  # fmt: skip


@pytest.mark.parametrize("arguments, options, error, message", BAD)
def test_invalid_arguments_of_check_cell(arguments, options, error, message):
    """Invalid cells, shapes, laws, dtypes and keys are refused."""
    with pytest.raises(error, match=message):
        check_cell(*arguments, **options)
