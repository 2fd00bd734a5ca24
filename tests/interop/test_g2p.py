"""A real model of TensorFlow 1, ported by examples/port_tf1_g2p.py, agrees with its own graph."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import close

import jax_dynrnn as rnn
from jax_dynrnn.interop import tf1

EXAMPLES = Path(__file__).parents[2] / "examples"


pytestmark = pytest.mark.usefixtures("jax_defaults")


@pytest.fixture(scope="module")
def g2p(load_oracle):
    """The module of the example, with its params loaded."""
    load_oracle("tqdm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(EXAMPLES), *sys.path])
        import port_tf1_g2p
    try:
        port_tf1_g2p.params = port_tf1_g2p.load()
        port_tf1_g2p.dictionary()
    except RuntimeError as error:
        pytest.skip(str(error))
    return port_tf1_g2p


def test_pronunciations_and_errors(g2p, capsys):
    """Pronunciations and the error rate are those of TensorFlow's graph."""
    assert g2p.main(smoke=True)[1]["value"] == RATE
    assert capsys.readouterr().out.splitlines()[:4] == [
        "activationist -> AE2 K T AH0 V EY1 SH AH0 N IH0 S T",
        "recurrent -> R IY0 K ER1 AH0 N T",
        "sequence -> S IY1 K W AH0 N S",
        "tensorflow -> T EH1 N S ER0 F L OW2",
    ]


RATE = 0.51
"""The error rate of TensorFlow's graph; on the 2,000 words of the example it is 0.4165."""


def their_logits_and_gradients(path, letters, phones):
    """The logits and gradients of g2p-en's own graph (its `.meta` file), on given phones.

    The gradients of the mean cross-entropy are the inputs of the graph's Adam operations.
    """
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default() as graph, v1.Session() as session:
        v1.train.import_meta_graph(str(path), clear_devices=True).restore(
            session, str(path.with_suffix(""))
        )
        steps = [op for op in graph.get_operations() if op.type == "ApplyAdam"]
        gradients = {op.inputs[0].op.name: op.inputs[-1] for op in steps}
        fed = {"grapheme:0": letters, "phoneme:0": phones}
        return session.run(("dense/BiasAdd:0", gradients), fed)


def test_logits_and_gradients_agree_with_tensorflow(g2p, load_oracle, default_fusion):
    """Logits, and gradients with respect to all variables, with given phones as in training."""
    load_oracle("tensorflow")
    letters, lengths = g2p.encoded(["attention", "a", "don't", "uncharacteristically"])
    phones = np.random.default_rng(0).integers(len(g2p.PHONES), size=letters.shape, dtype=np.int32)

    def loss(params):
        before = np.pad(phones, [(0, 0), (1, 0)])[:, :-1]
        memory = g2p.memory(params, letters, lengths)
        attended = g2p.DECODER.attend(params["decoder"], memory, lengths)
        outputs, _ = rnn.dynamic_rnn(g2p.DECODER, attended, g2p.EMBED(before))
        logits = g2p.logits(params, outputs)
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), phones[..., None], -1)
        return -chosen.mean(), logits

    by_params, logits = jax.jit(jax.grad(loss, has_aux=True), **default_fusion)(g2p.params)
    meta = g2p.package_file("g2p-en==1.0.1", "g2p_en/logdir/model_epoch_14_gs_27956.meta")
    expected, gradients = their_logits_and_gradients(meta, letters, phones)
    close(logits, expected, 1e-5)
    ours = tf1.export_params(g2p.ENCODER, by_params["encoder"])
    ours |= tf1.export_params(g2p.DECODER, by_params["decoder"])
    ours |= {f"dense/{name}": x for name, x in by_params["dense"].items()}
    close(ours, gradients, 1e-5)
