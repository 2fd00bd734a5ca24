"""LSTM and GRU block cells agree with TensorFlow's fused kernels, run live."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filled import filled, names
from laws import close, weighted_sum

import jax_dynrnn as rnn

B, T, D, H = 3, 5, 4, 6
RANDOM = np.random.default_rng(0)
INPUTS = RANDOM.normal(size=(B, T, D)).astype(np.float32)
STATE = (0.5 * RANDOM.normal(size=(2, B, H))).astype(np.float32)


@pytest.fixture
def raw_ops(load_oracle):
    return load_oracle("tensorflow").raw_ops


def lstm(use_peephole, cell_clip=None):
    cell = rnn.LSTMBlockCell(H, use_peephole=use_peephole, cell_clip=cell_clip, forget_bias=0.7)
    params = cell.init(jax.random.key(0), INPUTS.shape)
    params["bias"] = jnp.asarray(RANDOM.normal(size=4 * H), jnp.float32)
    return cell, params


def op_arguments(params, cell):
    """The arguments of an LSTM kernel; it always takes peepholes."""
    diagonal = [params.get(f"w_{gate}_diag", np.zeros(H, np.float32)) for gate in "ifo"]
    return dict(zip(("wci", "wcf", "wco"), diagonal, strict=True)) | {
        "w": params["kernel"],
        "b": params["bias"],
        "forget_bias": cell.forget_bias,
        "cell_clip": -1.0 if cell.cell_clip is None else cell.cell_clip,
        "use_peephole": cell.use_peephole,
    }


@pytest.mark.parametrize("use_peephole", [False, True])
@pytest.mark.parametrize("cell_clip", [None, 0.3])
def test_lstm_step(raw_ops, use_peephole, cell_clip):
    """TF's testLSTMBasicToBlockCell and ...Peeping: one step of the kernel `LSTMBlockCell`."""
    cell, params = lstm(use_peephole, cell_clip)
    c, h = STATE
    expected = raw_ops.LSTMBlockCell(
        x=INPUTS[:, 0], cs_prev=c, h_prev=h, **op_arguments(params, cell)
    )
    output, new = cell(params, INPUTS[:, 0], rnn.LSTMStateTuple(*map(jnp.asarray, STATE)))
    close((output, new.c), (expected.h.numpy(), expected.cs.numpy()), 1e-5)


@pytest.mark.parametrize(
    ("use_peephole", "cell_clip"), [(False, None), (True, None), (False, 0.3), (True, 0.3)]
)
def test_lstm_sequence_and_gradients(load_oracle, use_peephole, cell_clip):
    """TF's testLSTMBasicToBlock, ...Peeping, ...CellClip: all steps by the kernel `BlockLSTM`."""
    tf = load_oracle("tensorflow")
    cell, params = lstm(use_peephole, cell_clip)
    start = rnn.LSTMStateTuple(*map(jnp.asarray, STATE))

    def loss(params, inputs, state):
        outputs, final = rnn.dynamic_rnn(cell, params, inputs, None, state)
        return weighted_sum((outputs, final.c)), (outputs, final)

    (_, (outputs, final)), ours = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(
        params, INPUTS, start
    )
    given = {name: tf.constant(np.asarray(x)) if hasattr(x, "shape") else x
             for name, x in op_arguments(params, cell).items()}  # fmt: skip
    x, c, h = tf.constant(INPUTS.transpose(1, 0, 2)), *map(tf.constant, STATE)
    arrays = [given["w"], given["b"], given["wci"], given["wcf"], given["wco"], x, c, h]
    with tf.GradientTape() as tape:
        tape.watch(arrays)
        kernel = tf.raw_ops.BlockLSTM(seq_len_max=np.int64(T), x=x, cs_prev=c, h_prev=h, **given)
        weights = [np.cos(1.0 + i + np.arange(a.size)).reshape(a.shape)
                   for i, a in enumerate((outputs, final.c))]  # fmt: skip
        total = tf.reduce_sum(tf.transpose(kernel.h, [1, 0, 2]) * np.float32(weights[0]))
        total += tf.reduce_sum(kernel.cs[-1] * np.float32(weights[1]))
    close(outputs, kernel.h.numpy().transpose(1, 0, 2), 1e-5)
    close(final, rnn.LSTMStateTuple(kernel.cs.numpy()[-1], kernel.h.numpy()[-1]), 1e-5)
    theirs = [g.numpy() for g in tape.gradient(total, arrays)]
    peepholes = {f"w_{gate}_diag": g for gate, g in zip("ifo", theirs[2:5], strict=True)}
    expected = (
        {"kernel": theirs[0], "bias": theirs[1]} | (peepholes if use_peephole else {}),
        theirs[5].transpose(1, 0, 2),
        rnn.LSTMStateTuple(theirs[6], theirs[7]),
    )
    if cell_clip is None:
        close(ours, expected, 1e-5)
    else:  # TF's kernel ignores its clip in the gradient
        assert np.abs(ours[0]["kernel"] - theirs[0]).max() > 0.1


def test_a_run_with_lengths_equals_a_chain_of_steps():
    """TF's testLSTMFusedSequenceLengths: one run equals steps of length 0 or 1, with gradients."""
    cell, params = lstm(True)
    lengths = np.array([3, 0, 5])

    def whole(params, inputs):
        return rnn.dynamic_rnn(cell, params, inputs, lengths)

    def chain(params, inputs):
        state, outputs = cell.zero_state(B), []
        for t in range(T):
            step = inputs[:, t : t + 1]
            output, state = rnn.dynamic_rnn(cell, params, step, (lengths > t).astype(int), state)
            outputs.append(output)
        return jnp.concatenate(outputs, 1), state

    results = [
        jax.value_and_grad(lambda *a, f=f: weighted_sum(f(*a)), (0, 1))(params, INPUTS)
        for f in (whole, chain)
    ]
    close(whole(params, INPUTS), chain(params, INPUTS), 1e-5)
    close(results[0], results[1], 1e-5)


def test_two_layers():
    """TF's testLSTMBlockCell and testCompatibleNames: numbers and names of two layers."""
    cell = rnn.MultiRNNCell([rnn.LSTMBlockCell(2)] * 2)
    params = cell.init(jax.random.key(0), (2,), jnp.float64)
    assert names(params) == names(rnn.MultiRNNCell([rnn.LSTMCell(2)] * 2).init(KEY, (2,)))
    start = (rnn.LSTMStateTuple(*(jnp.full((1, 2), 0.1),) * 2),) * 2
    output, (lower, upper) = cell(filled(params), jnp.ones((1, 2)), start)
    expected = [0.68967271, 0.44848421, 0.39897051, 0.24024698]
    close([*lower, *upper], [np.full((1, 2), x) for x in expected], 2e-7)
    close(output, upper.h, 0)


KEY = jax.random.key(0)


def gru():
    """A cell, its params, and the arguments of TF's kernel."""
    cell = rnn.GRUBlockCellV2(H)
    params = cell.init(KEY, INPUTS.shape)
    params["candidate"]["bias"] = jnp.asarray(RANDOM.normal(size=H), jnp.float32)
    gates, candidate = params["gates"], params["candidate"]
    given = {"w_ru": gates["kernel"], "b_ru": gates["bias"]}
    return cell, params, given | {"w_c": candidate["kernel"], "b_c": candidate["bias"]}


def test_gru_steps(raw_ops):
    """TF's testBlockGRUToGRUCellSingleStep and ...MultiStep: the kernel `GRUBlockCell`."""
    cell, params, given = gru()
    h, expected = STATE[0], []
    for t in range(T):
        h = raw_ops.GRUBlockCell(x=INPUTS[:, t], h_prev=h, **given).h.numpy()
        expected.append(h)
    outputs, state = rnn.dynamic_rnn(cell, params, INPUTS, None, jnp.asarray(STATE[0]))
    close((outputs, state), (np.stack(expected, 1), h), 1e-5)


def test_gru_gradients(raw_ops):
    """TF's testDerivativeOfBlockGRUToGRUCell..., testGradient: the kernel of the gradient."""
    cell, params, given = gru()
    xs, hs, steps = INPUTS.transpose(1, 0, 2), [STATE[0]], []
    for x in xs:
        steps.append(raw_ops.GRUBlockCell(x=x, h_prev=hs[-1], **given))
        hs.append(steps[-1].h.numpy())
    weights = np.cos(1.0 + np.arange(B * T * H)).reshape(B, T, H).astype(np.float32)
    d_h = np.zeros((B, H), np.float32)
    sums = {name: np.zeros(x.shape, np.float32) for name, x in given.items()}
    d_x = []
    for t in reversed(range(T)):
        r, u, c, _ = steps[t]
        back = raw_ops.GRUBlockCellGrad(
            x=xs[t], h_prev=hs[t], r=r, u=u, c=c, d_h=d_h + weights[:, t], **given
        )
        d_h, d_c, d_ru = (x.numpy() for x in (back.d_h_prev, back.d_c_bar, back.d_r_bar_u_bar))
        d_x.append(back.d_x.numpy())
        sums["w_ru"] += np.concatenate([xs[t], hs[t]], 1).T @ d_ru
        sums["w_c"] += np.concatenate([xs[t], hs[t] * r.numpy()], 1).T @ d_c
        sums["b_ru"] += d_ru.sum(0)
        sums["b_c"] += d_c.sum(0)

    def loss(params, inputs, state):
        return (rnn.dynamic_rnn(cell, params, inputs, None, state)[0] * weights).sum()

    ours = jax.grad(loss, (0, 1, 2))(params, INPUTS, jnp.asarray(STATE[0]))
    expected = (
        {
            "gates": {"kernel": sums["w_ru"], "bias": sums["b_ru"]},
            "candidate": {"kernel": sums["w_c"], "bias": sums["b_c"]},
        },
        np.stack(d_x[::-1], 1),
        d_h,
    )
    close(ours, expected, 1e-5)
