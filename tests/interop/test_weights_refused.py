"""Cells that a framework cannot represent, and weights that do not fit, are refused."""

import inspect
import subprocess
import sys

import jax
import numpy as np
import pytest
from weights_agree import D, H, assert_close, random_params

import jax_dynrnn as rnn
from jax_dynrnn import interop

LSTM, GRU, RNN = rnn.LSTMCell(H), rnn.CudnnCompatibleGRUCell(H), rnn.BasicRNNCell(H)
RELU = rnn.BasicRNNCell(H, activation=jax.nn.relu)
MODULES = ["torch", "keras", "flax", "haiku", "equinox", "cudnn"]

CELLS = {
    "a TF1 GRU in torch": ("torch", rnn.GRUCell(H), "before the matmul.*CudnnCompatibleGRUCell"),
    "a TF1 GRU in flax": ("flax", rnn.GRUCell(H), "before the matmul.*CudnnCompatibleGRUCell"),
    "a TF1 GRU in equinox": ("equinox", rnn.GRUCell(H), "before the matmul"),
    "a TF1 GRU in cuDNN": ("cudnn", rnn.GRUCell(H), "only BasicLSTMCell, LSTMCell, LSTMBlockCell"),
    "cuDNN's GRU in haiku": ("haiku", GRU, "after the matmul.*GRU of Haiku is GRUCell"),
    "a GRU in jax.experimental.rnn": ("cudnn", GRU, "only BasicLSTMCell"),
    "a plain RNN in equinox": ("equinox", RNN, "only BasicLSTMCell.*CudnnCompatibleGRUCell"),
    "peepholes": ("torch", rnn.LSTMCell(H, use_peepholes=True), "no peepholes"),
    "peepholes of a block": ("keras", rnn.LSTMBlockCell(H, use_peephole=True), "no peepholes"),
    "cell_clip": ("keras", rnn.LSTMCell(H, cell_clip=3.0), "no cell_clip.*cell_clip=3.0"),
    "proj_clip": ("torch", rnn.LSTMCell(H, num_proj=2, proj_clip=1.0), "no proj_clip"),
    "a projection": ("flax", rnn.LSTMCell(H, num_proj=2), "no num_proj"),
    "relu in torch": ("torch", RELU, "activation is relu.*nonlinearity='relu'"),
    "relu of an LSTM": (
        "torch",
        rnn.LSTMCell(H, activation=jax.nn.relu),
        "relu, and that of PyTorch is tanh",
    ),
    "hard gates in torch": (
        "torch",
        rnn.LSTMCell(H, recurrent_activation=interop.keras.hard_sigmoid),
        "recurrent_activation is hard_sigmoid, and that of PyTorch is sigmoid",
    ),
    "hard gates in keras": (
        "keras",
        rnn.GRUCell(H, recurrent_activation=interop.keras.hard_sigmoid),
        "recurrent_activation is hard_sigmoid.*give recurrent_activation=",
    ),
    "relu in keras": ("keras", RELU, "activation is relu.*activation="),
    "relu in flax": ("flax", RELU, "activation is relu.*activation_fn"),
    "tanh in haiku": ("haiku", RNN, "activation is tanh, and that of Haiku is relu"),
    "layer norm": ("torch", rnn.LayerNormBasicLSTMCell(H), "expected one of BasicLSTMCell"),
    "a wrapper with variables": ("keras", rnn.OutputProjectionWrapper(LSTM, 2), "the cell inside"),
    "in a stack": ("torch", rnn.MultiRNNCell([LSTM, rnn.GRUCell(H)]), "cells, cell_1: rnn.GRUCell"),
    "unlike layers": ("torch", rnn.MultiRNNCell([LSTM, rnn.LSTMCell(2)]), "alike.*one by one"),
    "unlike directions": ("cudnn", (LSTM, rnn.LSTMCell(2)), "alike.*one by one"),
    "stacks apart": ("torch", (rnn.MultiRNNCell([LSTM] * 2),) * 2, "no pair of stacks.*'fw'"),
    "stacks apart in flax": ("flax", (rnn.MultiRNNCell([LSTM] * 2),) * 2, "no pair of stacks"),
    "lists of two lengths": ("torch", ([LSTM], [LSTM, LSTM]), "as many forward as backward"),
}


@pytest.mark.parametrize("name", CELLS)
def test_unsupported_cells(name):
    """Import and export refuse a cell with the reason, before any weights are examined."""
    module, cells, message = CELLS[name]
    module = getattr(interop, module)
    size = {"input_size": D} if module is interop.cudnn else {}
    with pytest.raises(ValueError, match=message):
        module.import_params(cells, {}, **size)
    with pytest.raises(ValueError, match=message):
        module.export_params(cells, {})


@pytest.mark.parametrize("cells", [[LSTM, LSTM], (LSTM,), (LSTM, [LSTM])], ids=str)
def test_invalid_cells(cells):
    """Lists of cells, tuples of one, and mixed pairs are refused."""
    with pytest.raises(TypeError, match="cells: expected"):
        interop.torch.import_params(cells, {})


def relu(x):
    return jax.nn.relu(x)


def test_an_activation_of_the_same_name_is_not_the_same():
    """Activations are compared by identity, and the error says that the names are equal."""
    with pytest.raises(ValueError, match="is relu, and that of Keras is another function, also"):
        interop.keras.import_params(RELU, [], activation=relu)
    cell = rnn.LSTMCell(H, recurrent_activation=interop.keras.hard_sigmoid)
    with pytest.raises(ValueError, match="of Keras is another function, also hard_sigmoid"):
        interop.keras.import_params(cell, [], recurrent_activation=jax.nn.hard_sigmoid)


@pytest.mark.parametrize("module, option", [("torch", "bias"), ("keras", "use_bias"),
                                            ("equinox", "use_bias")])  # fmt: skip
def test_layers_without_biases(module, option):
    """Layers without biases can represent cells with biases and forget bias of 0 only."""
    module, cell = getattr(interop, module), rnn.LSTMCell(H, forget_bias=0.0)
    zero = random_params(cell) | {"bias": np.zeros(4 * H)}
    weights = module.export_params(cell, zero, **{option: False})
    assert len(weights) == 2
    assert_close(module.import_params(cell, weights), zero, 0)
    for other, params in ((cell, random_params(cell)), (LSTM, zero)):
        with pytest.raises(ValueError, match="biases of 0, and forget_bias=0.0, .* got .*bias"):
            module.export_params(other, params, **{option: False})


@pytest.mark.parametrize("weights", [None, [np.ones(3)]], ids=["None", "list"])
def test_weights_that_are_not_a_state_dict(weights):
    """PyTorch's weights must be a mapping."""
    with pytest.raises(TypeError, match="the state_dict.. of a module, got (NoneType|list)"):
        interop.torch.import_params(LSTM, weights)


def test_two_biases_of_a_candidate():
    """NNX's GRU has one bias of the candidate: the second one must be 0."""
    params = random_params(GRU)
    with pytest.raises(ValueError, match="candidate/hidden_projection/bias to be 0, since NNX"):
        interop.flax.export_params(GRU, params, layout="nnx")


def test_single_cell_of_a_stack():
    """`single_cell=True` refuses stacks, and cells that PyTorch's single cells lack."""
    with pytest.raises(ValueError, match="one cell.*got 2 layers"):
        interop.torch.export_params(rnn.MultiRNNCell([LSTM] * 2), {}, single_cell=True)
    projected = rnn.LSTMCell(H, num_proj=2)
    with pytest.raises(ValueError, match="nn.LSTMCell.*no num_proj"):
        interop.torch.export_params(projected, random_params(projected), single_cell=True)


def test_weights_of_a_single_cell_for_a_stack():
    """Weights without layer numbers do not fit a stack."""
    weights = interop.torch.export_params(LSTM, random_params(LSTM), single_cell=True)
    with pytest.raises(KeyError, match="missing: weight_ih_l0.*unexpected: weight_ih, weight_hh"):
        interop.torch.import_params(rnn.MultiRNNCell([LSTM] * 2), weights)


def torch_weights(**changed):
    weights = interop.torch.export_params(LSTM, random_params(LSTM)) | changed
    return {name: array for name, array in weights.items() if array is not None}


ARRAYS = {
    "missing": ({"weight_hh_l0": None}, KeyError, "missing: weight_hh_l0; unexpected: none"),
    "one bias of two": ({"bias_hh_l0": None}, KeyError, "missing: bias_hh_l0; unexpected: none"),
    "left over": (
        {"weight_ih_l1": np.ones(1), "weight_hr_l0": np.ones(1)},
        KeyError,
        "missing: none; unexpected: weight_ih_l1, weight_hr_l0",
    ),
    "a GRU's": (
        {"weight_hh_l0": np.ones((3 * H, H)), "bias_ih_l0": np.ones(3 * H)},
        ValueError,
        r"expected weight_hh_l0 of shape \(16, 4\), got \(12, 4\), bias_ih_l0 of .* for rnn.LSTM",
    ),
    "no matrix": ({"weight_ih_l0": np.ones(4)}, ValueError, r"weight_ih_l0 .* got \(4,\)"),
    "another module's": ({"head.bias": np.ones(1)}, KeyError, "head.bias; .*prefix="),
    "integers": ({"bias_ih_l0": np.ones(16, int)}, TypeError, "bias_ih_l0 to be floating.*int64"),
    "no array": ({"bias_ih_l0": "bias"}, TypeError, "bias_ih_l0 to be floating, got str"),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_invalid_arrays(name):
    """Missing, unexpected and misshapen arrays raise errors that name them."""
    changed, error, message = ARRAYS[name]
    with pytest.raises(error, match=message):
        interop.torch.import_params(LSTM, torch_weights(**changed))


def test_input_size_of_an_upper_layer():
    """The input size of a layer must be the output size of the one below, unless unknown."""
    cells = rnn.MultiRNNCell([GRU, GRU])
    weights = interop.torch.export_params(cells, random_params(cells))
    weights["weight_ih_l1"] = np.ones((3 * H, H + 1))
    with pytest.raises(ValueError, match=r"weight_ih_l1 of shape \(12, 4\).*got \(12, 5\)"):
        interop.torch.import_params(cells, weights)
    summed = rnn.ResidualWrapper(GRU, residual_fn=lambda x, y: np.concatenate([y, y], -1))
    changed = rnn.MultiRNNCell([summed, GRU])  # the output size of a custom residual_fn is unknown
    assert interop.torch.import_params(changed, weights)["cell_1"]["gates"]["kernel"].shape == (
        9,
        8,
    )


def test_both_directions_have_the_same_input_size():
    """A backward kernel for another number of features is refused."""
    weights = interop.torch.export_params((GRU, GRU), random_params((GRU, GRU)))
    weights["weight_ih_l0_reverse"] = np.ones((3 * H, D + 1))
    with pytest.raises(ValueError, match=r"weight_ih_l0_reverse of shape \(12, 3\).*got \(12, 4\)"):
        interop.torch.import_params((GRU, GRU), weights)


def test_params_that_do_not_fit():
    """`export_params` checks the names and shapes of the params."""
    params = random_params(LSTM)
    with pytest.raises(
        KeyError, match="params: expected kernel, bias of jax_dynrnn; missing: bias"
    ):
        interop.keras.export_params(LSTM, {"kernel": params["kernel"]})
    with pytest.raises(ValueError, match=r"params: expected bias of shape \(16,\)"):
        interop.keras.export_params(LSTM, params | {"bias": params["bias"][1:]})


OF_ONE_FRAMEWORK = {
    "reset_after=True": (
        lambda: interop.keras.import_params(
            rnn.GRUCell(H), [np.ones((D, 3 * H)), np.ones((H, 3 * H)), np.ones((2, 3 * H))]
        ),
        "reset_after=True, which is CudnnCompatibleGRUCell",
    ),
    "reset_after=False": (
        lambda: interop.keras.import_params(
            GRU, [np.ones((D, 3 * H)), np.ones((H, 3 * H)), np.ones(3 * H)]
        ),
        "reset_after=False, which is GRUCell",
    ),
    "too many arrays": (
        lambda: interop.keras.import_params(RNN, [np.ones(1)] * 4),
        "expected 3 arrays, kernel, recurrent_kernel, bias, or all but.*got 4",
    ),
    "too many layers": (
        lambda: interop.keras.import_params(rnn.MultiRNNCell([RNN]), [[], []]),
        "each of 1 layers.*got 2",
    ),
    "paths of a stack": (
        lambda: interop.keras.import_params(
            rnn.MultiRNNCell([RNN] * 2),
            {"rnn/cell/kernel": np.ones(1), "rnn_1/cell/kernel": np.ones(1)},
        ),
        "of a stack give a list",
    ),
    "an unknown layout": (
        lambda: interop.flax.export_params(RNN, {}, layout="haiku"),
        "layout: expected one of linen, nnx, nnx_optimized, got 'haiku'",
    ),
    "an unknown nonlinearity": (
        lambda: interop.torch.export_params(RNN, {}, nonlinearity="selu"),
        "expected 'tanh' or 'relu', got 'selu'",
    ),
    "modules of other layers": (
        lambda: interop.haiku.export_params((LSTM, LSTM), {}, modules=["lstm"]),
        "modules: expected a list of 2 names.*got",
    ),
    "a vector of another length": (
        lambda: interop.cudnn.import_params(LSTM, np.ones(100), input_size=D),
        r"expected a vector of 144 .* size 3, got shape \(100,\)",
    ),
}


@pytest.mark.parametrize("name", OF_ONE_FRAMEWORK)
def test_invalid_arguments_of_one_framework(name):
    """Errors about options and formats that only one framework has."""
    call, message = OF_ONE_FRAMEWORK[name]
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    "cells, weights, message",
    [
        ((GRU, GRU), {}, "expected a pair where the cells have fw, got dict"),
        (rnn.MultiRNNCell([GRU] * 3), [{}] * 2, "a list of 3 where the cells have cell_0.* of 2"),
    ],
)
def test_equinox_weights_must_have_the_structure_of_the_cells(cells, weights, message):
    """Pairs and lists of modules must match the directions and layers of the cells."""
    with pytest.raises(TypeError, match=message):
        interop.equinox.import_params(cells, weights)


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("function", ["import_params", "export_params"])
def test_is_documented_with_an_example(module, function):
    """Docstrings of import and export have all sections, and an example."""
    text = inspect.getdoc(getattr(getattr(interop, module), function))
    assert text.splitlines()[0].endswith(".")
    assert all(part in text for part in ("Args:", "Returns:", "Raises:", ">>> "))


def test_no_framework_is_imported():
    """`interop` and `import_params` import no other framework."""
    program = """
import sys
import numpy as np
import jax_dynrnn as rnn
from jax_dynrnn import interop
weights = {"weight_ih": np.ones((8, 3)), "weight_hh": np.ones((8, 2)), "bias": np.ones(8)}
interop.equinox.import_params(rnn.LSTMCell(2), weights)
print(*{"flax", "torch", "keras", "haiku", "equinox", "tensorflow"} & set(sys.modules))
"""
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == ""
