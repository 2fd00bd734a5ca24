"""Weights of PyTorch's modules (float64): its modules and our runs compute the same."""

import functools

import jax
import numpy as np
import pytest
from weights_agree import B, D, H, assert_agrees, assert_close, factors, random_inputs, randomized

import jax_dynrnn as rnn
from jax_dynrnn import interop

LSTM = rnn.LSTMCell(H, forget_bias=0.0)
STORED = rnn.LSTMCell(H, forget_bias=1.0)
PROJECTED = rnn.LSTMCell(H, num_proj=2, forget_bias=0.0)
GRU = rnn.CudnnCompatibleGRUCell(H)
RNN = rnn.BasicRNNCell(H)
RELU = rnn.BasicRNNCell(H, activation=jax.nn.relu)
BOTH = {"bidirectional": True}

CASES = {
    "lstm": ("LSTM", {}, LSTM),
    "forget bias": ("LSTM", {}, STORED),
    "no bias": ("LSTM", {"bias": False}, LSTM),
    "projection": ("LSTM", {"proj_size": 2}, PROJECTED),
    "gru": ("GRU", {}, GRU),
    "gru, no bias": ("GRU", {"bias": False}, GRU),
    "rnn": ("RNN", {}, RNN),
    "relu": ("RNN", {"nonlinearity": "relu"}, RELU),
    "stack": ("GRU", {"num_layers": 2}, rnn.MultiRNNCell([rnn.DropoutWrapper(GRU, 0.9), GRU])),
    "both": ("RNN", BOTH, (RNN, RNN)),
    "stack both": ("LSTM", {"num_layers": 2, "proj_size": 2, **BOTH}, ([PROJECTED] * 2,) * 2),
}


@pytest.fixture(scope="module")
def torch(load_oracle):
    return load_oracle("torch")


def states_in_order(states):
    """States `[layers * directions, B, H]` as a list, with c before h."""
    if not isinstance(states, tuple):
        return list(states)
    h, c = states
    return [leaf for pair in zip(c, h, strict=True) for leaf in pair]


def results_there(torch, module):
    """A function `(weights, x)` that returns PyTorch's outputs, states, and gradients by both."""

    def run(weights, x):
        module.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
        module.zero_grad()
        x = torch.from_numpy(x).requires_grad_()
        outputs, states = module(x)
        leaves = [outputs, *states_in_order(states)]
        weighed = [
            (leaf * torch.from_numpy(factors(leaf.detach().numpy()))).sum() for leaf in leaves
        ]
        sum(weighed).backward()
        gradients = {name: p.grad.numpy().copy() for name, p in module.named_parameters()}
        return [leaf.detach().numpy() for leaf in leaves], gradients, x.grad.numpy()

    return run


def weights_of(module):
    return randomized({name: array.numpy() for name, array in module.state_dict().items()})


@pytest.mark.parametrize("name", CASES)
def test_layers(torch, name):
    """PyTorch's modules and our cells agree, in results and gradients."""
    kind, options, cells = CASES[name]
    module = getattr(torch.nn, kind)(D, H, batch_first=True, dtype=torch.float64, **options)
    ours = {"nonlinearity": "relu"} if name == "relu" else {}
    bias = {"bias": False} if "bias" in options else {}
    assert_agrees(
        results_there(torch, module),
        weights_of(module),
        functools.partial(interop.torch.import_params, **ours),
        functools.partial(interop.torch.export_params, **ours, **bias),
        cells,
    )


SINGLE = {"LSTMCell": LSTM, "GRUCell": GRU, "RNNCell": RNN}


@pytest.mark.parametrize("kind", SINGLE)
def test_single_cells(torch, kind):
    """One step of `nn.LSTMCell` etc. agrees; their weight names have no layer number."""
    module, cell = getattr(torch.nn, kind)(D, H, dtype=torch.float64), SINGLE[kind]
    x, weights = random_inputs(), weights_of(module)
    module.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    params = interop.torch.import_params(cell, weights)
    state, output = cell.zero_state(B, np.float64), module(torch.from_numpy(x[:, 0]))
    expected = output[0] if isinstance(output, tuple) else output
    assert_close(cell(params, x[:, 0], state)[0], expected.detach().numpy(), 1e-12)
    exported = interop.torch.export_params(cell, params, single_cell=True)
    module.load_state_dict({name: torch.from_numpy(array) for name, array in exported.items()})
    assert_close(module(torch.from_numpy(x[:, 0])), output, 1e-12)


def test_prefix(torch):
    """`prefix` selects the weights of one module of a model, in import and export."""
    model = torch.nn.ModuleDict({"encoder": torch.nn.GRU(D, H), "head": torch.nn.Linear(H, 2)})
    weights = {name: array for name, array in model.state_dict().items()}
    params = interop.torch.import_params(GRU, weights, prefix="encoder")
    assert_close(interop.torch.import_params(GRU, weights, prefix="encoder."), params, 0)
    alone = interop.torch.import_params(GRU, model["encoder"].state_dict())
    assert_close(params, alone, 0)
    exported = interop.torch.export_params(GRU, params, prefix="encoder")
    model.load_state_dict({n: torch.from_numpy(x) for n, x in exported.items()}, strict=False)
    assert_close(interop.torch.import_params(GRU, model["encoder"].state_dict()), alone, 0)


def test_imported_params_are_copies(torch):
    """Params do not change if the module is trained further."""
    module = torch.nn.LSTM(D, H, proj_size=2)
    params = interop.torch.import_params(PROJECTED, module.state_dict())
    before = jax.tree.map(np.array, params)
    for parameter in module.parameters():
        parameter.data.zero_()
    assert_close(params, before, 0)


def test_bfloat16_through_dlpack(torch):
    """NumPy has no bfloat16: such tensors are refused with advice, and imported via dlpack."""
    weights = torch.nn.GRU(D, H, dtype=torch.bfloat16).state_dict()
    with pytest.raises(TypeError, match="from_dlpack"):
        interop.torch.import_params(GRU, weights)
    arrays = {name: jax.numpy.from_dlpack(tensor) for name, tensor in weights.items()}
    params = interop.torch.import_params(GRU, arrays)
    assert {str(x.dtype) for x in jax.tree.leaves(params)} == {"bfloat16"}


def test_parameters_that_require_gradients_are_refused(torch):
    """Parameters that require gradients are refused with advice, as NumPy cannot read them."""
    weights = dict(torch.nn.GRU(D, H).named_parameters())
    with pytest.raises(TypeError, match="requires grad.*state_dict"):
        interop.torch.import_params(GRU, weights)
