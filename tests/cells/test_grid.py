"""Grid LSTMs: equivalences of blocks and directions, names, states, errors."""

import copy
import pickle
import re

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from filled import names
from laws import close

import jax_dynrnn as rnn

KEY = jax.random.key(0)
INPUTS = np.random.default_rng(0).normal(size=(2, 4, 4))
OPTIONS = {"feature_size": 2, "use_peepholes": True, "cell_clip": 0.3}


def of_block(params, block):
    """The params of one block, with the names that a cell of one block has."""
    matches = [re.fullmatch(r"(.+?)_(\d)(_0)?", name) for name in params]
    return {
        f"{match[1]}_0{match[3] or ''}": x
        for match, x in zip(matches, params.values(), strict=True)
        if match[2] == str(block)
    }


def test_blocks_are_grids():
    """TF's testGridLSTMCellWithFrequencyBlocks: each block equals a grid over its features."""
    blocks = {"start_freqindex_list": [0, 1], "end_freqindex_list": [2, 4]}
    cell = rnn.GridLSTMCell(3, num_frequency_blocks=[1, 2], **blocks, **OPTIONS)
    params = cell.init(KEY, INPUTS.shape, jnp.float64)
    outputs, state = rnn.dynamic_rnn(cell, params, INPUTS, [4, 3])
    features = (slice(0, 2), slice(1, 4))
    expected, states = [], []
    for b in (0, 1):
        grid = rnn.GridLSTMCell(3, num_frequency_blocks=[b + 1], **OPTIONS)
        own = rnn.dynamic_rnn(grid, of_block(params, b), INPUTS[..., features[b]], [4, 3])
        expected.append(own[0])
        states += own[1]
    close(outputs, jnp.concatenate(expected, -1), 1e-14)
    close(tuple(state), tuple(states), 1e-14)
    assert state._fields[2:] == tuple(f"state_f0{k}_b01_{part}" for k in (0, 1) for part in "cm")
    assert all(float(jnp.linalg.norm(x[0] - x[1])) > 1e-6 for x in (outputs, *state))


def test_directions_are_grids():
    """Each direction equals a grid; the second one has the features in reverse order."""
    cell = rnn.BidirectionalGridLSTMCell(3, num_frequency_blocks=[3], **OPTIONS)
    grid = rnn.GridLSTMCell(3, num_frequency_blocks=[3], **OPTIONS)
    params = cell.init(KEY, INPUTS.shape, jnp.float64)
    assert not np.allclose(params["fwd"]["W_f_0_0"], params["bwd"]["W_f_0_0"])
    outputs, state = rnn.dynamic_rnn(cell, params, INPUTS)
    up = rnn.dynamic_rnn(grid, params["fwd"], INPUTS)
    reversed_rows = {
        name: jnp.concatenate([x[1::-1], x[2:]]) if name[0] == "W" and x.ndim == 2 else x
        for name, x in params["bwd"].items()
    }
    down = rnn.dynamic_rnn(grid, reversed_rows, INPUTS[..., ::-1])
    close(outputs, jnp.concatenate([up[0], down[0]], -1), 1e-14)
    close(tuple(state), (*up[1], *down[1]), 1e-14)
    assert state._fields[0] == "fwd_state_f00_b00_c" and state._fields[-1] == "bwd_state_f02_b00_m"


@pytest.mark.parametrize("offset", [-5, -2, 0, 1, 9])
def test_offsets_are_padded_with_zeros(offset):
    """Windows before or behind the features contain zeros."""
    shared = {"feature_size": 2, "num_frequency_blocks": [3]}
    cell = rnn.BidirectionalGridLSTMCell(3, **shared, backward_slice_offset=offset)
    plain = rnn.BidirectionalGridLSTMCell(3, **shared)
    params = cell.init(KEY, INPUTS.shape, jnp.float64)
    shifted = np.zeros_like(INPUTS)
    for k in range(4):
        if 0 <= k + offset < 4:
            shifted[..., k] = INPUTS[..., k + offset]
    expected = rnn.dynamic_rnn(plain, params, shifted)[0][..., 18:]
    close(rnn.dynamic_rnn(cell, params, INPUTS)[0][..., 18:], expected, 1e-14)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("coupled", [False, True])
def test_names_and_shapes_of_params(shared, coupled):
    """Names and shapes are TF1's, with shared weights, coupled gates, and in both directions."""
    options = {"share_time_frequency_weights": shared, "couple_input_forget_gates": coupled}
    cell = rnn.GridLSTMCell(
        4, feature_size=2, num_frequency_blocks=[3], use_peepholes=True, **options
    )
    size = 12 if coupled else 16
    expected = {"W_f_0_0": (10, size), "B_f_0": (size,)}
    expected |= {} if shared else {"W_t_0_0": (10, size), "B_t_0": (size,)}
    for gate in "IO" if coupled else "IFO":
        for lstm in ("freq",) if shared else ("freq", "time"):
            expected |= {f"W_{gate}_diag_{lstm}{of}_0": (4,) for of in "ft"}
    assert names(cell.init(KEY, INPUTS.shape)) == expected
    both = rnn.BidirectionalGridLSTMCell(
        4, feature_size=2, num_frequency_blocks=[3], use_peepholes=True, **options
    )
    assert names(both.init(KEY, INPUTS.shape)) == {
        f"{direction}/{name}": shape
        for direction in ("fwd", "bwd")
        for name, shape in expected.items()
    }


def test_states_are_named_tuples():
    """States of equal grids have the same named tuple type, which can be pickled and exported."""

    def make(**options):
        return rnn.GridLSTMCell(2, feature_size=2, num_frequency_blocks=[3], **options)

    cell = make()
    state = cell.zero_state(2)
    assert type(state) is type(make(use_peepholes=True).zero_state(2))
    assert (
        type(state)
        is not rnn.BidirectionalGridLSTMCell(
            2, feature_size=2, num_frequency_blocks=[3]
        ).state_tuple_type
    )
    for same in (pickle.loads(pickle.dumps(state)), copy.deepcopy(state)):
        assert type(same) is type(state) and jax.tree.structure(same) == jax.tree.structure(state)
    assert repr(type(state)(*range(6))).startswith("GridLSTMStateTuple(state_f00_b00_c=0, ")

    params = cell.init(KEY, INPUTS.shape, jnp.float64)
    run = jax.jit(lambda params, inputs: rnn.dynamic_rnn(cell, params, inputs))
    exported = jax.export.export(run)(params, jnp.asarray(INPUTS))
    read = jax.export.deserialize(exported.serialize())
    close(read.call(params, jnp.asarray(INPUTS)), run(params, jnp.asarray(INPUTS)), 1e-14)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_frequency_blocks": None}, "num_frequency_blocks to be a list of ints >= 1.*None"),
        ({"num_frequency_blocks": []}, r"num_frequency_blocks to be a list of ints >= 1.*\[\]"),
        ({"num_frequency_blocks": [1, 2]}, r"one number in num_frequency_blocks, or.*\(1, 2\)"),
        ({"start_freqindex_list": [0]}, "end_freqindex_list to be a list.*got None"),
        (
            {"start_freqindex_list": [0, 1], "end_freqindex_list": [2, 4]},
            r"start_freqindex_list to be a list .* one for each block, got \[0, 1\]",
        ),
        (
            {"start_freqindex_list": [1], "end_freqindex_list": [4]},
            r"num_frequency_blocks\[0\] to be 2, the windows of feature_size=2 in 3 features with "
            "frequency_skip=1, got 3",
        ),
        ({"cell_clip": -1.0}, "expected cell_clip >= 0"),
        ({"feature_size": 0}, "feature_size should be a positive int"),
    ],
)
def test_configurations_are_checked(options, message):
    """The constructor raises the errors of TF."""
    for make in (rnn.GridLSTMCell, rnn.BidirectionalGridLSTMCell):
        with pytest.raises(ValueError, match=f"{make.__name__}: .*{message}"):
            make(2, **{"feature_size": 2, "num_frequency_blocks": [3]} | options)
    with pytest.raises(TypeError, match="backward_slice_offset to be an int, got 0.5"):
        rnn.BidirectionalGridLSTMCell(
            2, feature_size=2, num_frequency_blocks=[3], backward_slice_offset=0.5
        )


def test_inputs_must_fit_the_number_of_windows():
    """`init` and a call refuse inputs with another number of windows than configured."""
    whole = rnn.GridLSTMCell(2, feature_size=2, num_frequency_blocks=[3])
    with pytest.raises(ValueError, match=r"to be 4, the windows of .* in 5 features.*got 3"):
        whole.init(KEY, (5,))
    with pytest.raises(ValueError, match="to be 2, the windows of .* in 3 features.*got 3"):
        whole(whole.init(KEY, (4,)), jnp.ones(3, jnp.float32), whole.zero_state())
    part = rnn.GridLSTMCell(
        2,
        feature_size=2,
        num_frequency_blocks=[2],
        start_freqindex_list=[1],
        end_freqindex_list=[4],
    )
    assert part.init(KEY, (7,))["W_f_0_0"].shape == (6, 8)
    with pytest.raises(ValueError, match=r"at least 4 features.*\(4,\), got 3"):
        part.init(KEY, (3,))
