"""Files of TensorFlow 1: the printed programs compute what the graphs do."""

import numpy as np
import pytest
from keras_files import identifier, pairwise, printed

OPTIONS = {
    "cell": (
        "BasicRNNCell", "BasicLSTMCell", "LSTMCell", "LSTMCell, all options", "GRUCell",
        "CudnnCompatibleGRUCell", "LSTMBlockCell", "ClippedLSTMBlockCell", "UGRNNCell",
        "LayerNormBasicLSTMCell", "CoupledInputForgetGateLSTMCell", "IndRNNCell",
    ),
    "activation": ("tanh", "relu", "softsign", "leaky", "identity", "none", "elu", "sigmoid"),
    "forget_bias": (1.0, 0.0, 0.7),
    "run": (
        "one", "bidirectional", "stack", "stacked", "residual", "static", "attention", "fused",
    ),
    "initial": ("zeros", "tiled", "row", "product"),
    "output_attention": (True, False),
    "time_major": (False, True),
    "lengths": (False, True),
    "shards": (0, 2),
    "averages": ("none", "beside", "only"),
    "variables": ("resource", "reference"),
    "control_flow": ("v1", "v2"),
    "scope": ("", "model", "tower_0/net"),
    "form": ("checkpoint", "folder", "frozen", "saved_model"),
}  # fmt: skip
"""What a model can be."""
DEFAULTS = {name: values[0] for name, values in OPTIONS.items()}
FIXED = ("LSTMBlockCell", "ClippedLSTMBlockCell")
"""Cells whose activation is tanh."""


def is_valid(case):
    """Whether TF1 has the combination, without options that change nothing."""

    def default(*names):
        return all(case[name] == DEFAULTS[name] for name in names)

    if case["cell"] in FIXED and not default("activation"):
        return False
    if case["cell"] in ("BasicRNNCell", "GRUCell", "CudnnCompatibleGRUCell", "IndRNNCell"):
        if not default("forget_bias"):
            return False
    if case["run"] == "fused" and not (
        case["time_major"] and default("cell", "activation", "initial", "lengths")
    ):
        return False
    if case["run"] in ("static", "stacked") and not default("time_major", "lengths"):
        return False
    if case["run"] not in ("one", "stack", "residual") and not default("initial"):
        return False
    if case["cell"] == "IndRNNCell" and not default("initial"):
        return False
    if case["run"] != "attention" and not default("output_attention"):
        return False
    return case["form"] in ("checkpoint", "folder") or default("averages")


PAIRWISE = pairwise(0, OPTIONS, None, is_valid)
EVERYDAY = 40
"""The first cases, which have most of the pairs."""
CASES = [
    pytest.param(case, id=identifier(case), marks=pytest.mark.full if i >= EVERYDAY else [])
    for i, case in enumerate(PAIRWISE)
]
pytestmark = [
    pytest.mark.usefixtures("jax_defaults"),
    # Warnings of TensorFlow's own code.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning"),
]


@pytest.mark.parametrize("case", CASES)
def test_printed_programs(case, tmp_path, load_oracle):
    """A graph in a file, the printed program, and TensorFlow's own run agree."""
    load_oracle("tensorflow")
    from tf1_files import B, D, Model, T, run_printed

    model, draw = Model(case), np.random.default_rng(1)
    x = draw.normal(size=(T, B, D) if case["time_major"] else (B, T, D)).astype(np.float32)
    memory = draw.normal(size=(B, 5, 6)).astype(np.float32)
    with model.session() as session:
        path = model.save(session, tmp_path)
        expected = model.run(session, x, memory)
    program = printed(path)
    assert "add them to the cell" not in program and "initial_state=" not in program
    got = run_printed(program, x, memory, case["run"] == "attention")
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5)
