"""`hard_sigmoid` of Keras 1 and 2: layers of `tf_keras`, in float64, and our cells agree."""

import functools

import jax
import numpy as np
import pytest
from weights_agree import D, H, assert_agrees, factors, randomized

import jax_dynrnn as rnn
from jax_dynrnn import interop

HARD = {"recurrent_activation": interop.keras.hard_sigmoid}
CASES = {
    "LSTM": ({}, rnn.LSTMCell(H, forget_bias=0.0, **HARD)),
    "GRU": ({"reset_after": True}, rnn.CudnnCompatibleGRUCell(H, **HARD)),
    "GRU of TF1": ({"reset_after": False}, rnn.GRUCell(H, **HARD)),
}
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


@pytest.mark.parametrize("name", CASES)
def test_layers_with_hard_gates(name, load_oracle):
    """Outputs, states and gradients, by the weights and by the inputs."""
    keras, tf = load_oracle("tf_keras"), load_oracle("tensorflow")
    options, cell = CASES[name]
    layer = getattr(keras.layers, name.split()[0])(
        H, recurrent_activation="hard_sigmoid", return_sequences=True, return_state=True,
        dtype="float64", **options,
    )  # fmt: skip
    layer.build((None, None, D))
    # Large enough that some gates are saturated.
    weights = randomized([np.asarray(x) for x in layer.get_weights()], scale=1.5)

    def there(weights, x):
        layer.set_weights([np.asarray(w) for w in weights])
        x = tf.constant(np.asarray(x))
        with tf.GradientTape() as tape:
            tape.watch(x)
            outputs, *states = layer(x)
            leaves = [outputs, *states[::-1]]  # an LSTM's are (h, c), ours (c, h)
            total = sum(tf.reduce_sum(leaf * factors(leaf.numpy())) for leaf in leaves)
        *by_weights, by_x = tape.gradient(total, [*layer.trainable_variables, x])
        as_arrays = functools.partial(jax.tree.map, lambda tensor: tensor.numpy())
        return as_arrays(leaves), as_arrays(by_weights), by_x.numpy()

    assert_agrees(
        there,
        weights,
        functools.partial(interop.keras.import_params, **HARD),
        functools.partial(interop.keras.export_params, **HARD),
        cell,
    )
