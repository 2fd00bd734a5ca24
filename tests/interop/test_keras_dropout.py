"""Recurrent dropout agrees with that of Keras's layers, if all gates have the same mask."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from weights_agree import (
    B,
    D,
    H,
    as_there,
    assert_close,
    differentiated,
    random_inputs,
    randomized,
)

import jax_dynrnn as rnn
from jax_dynrnn import interop

KEEP, KEY = 0.6, jax.random.key(5)
LAYERS = {
    "lstm": ("LSTM", {}, rnn.LSTMCell(H, forget_bias=0.0)),
    "gru": ("GRU", {}, rnn.CudnnCompatibleGRUCell(H)),
    "tf1 gru": ("GRU", {"reset_after": False}, rnn.GRUCell(H)),
}
# A warning of Keras's own code, which converts variables to arrays.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:keras")


@pytest.mark.parametrize("name", LAYERS)
def test_recurrent_dropout(name, load_oracle):
    """Outputs, final state and all gradients agree with Keras, given our mask."""
    keras = load_oracle("keras")
    kind, options, cell = LAYERS[name]
    dropped = rnn.DropoutWrapper(cell, recurrent_keep_prob=KEEP)
    x = random_inputs(np.float32)

    options = {"return_sequences": True, "return_state": True, **options}
    layer = getattr(keras.layers, kind)(H, recurrent_dropout=1 - KEEP, **options)
    as_there(layer.build)((None, None, D))
    weights = randomized([v.numpy() for v in layer.weights])
    importer = functools.partial(interop.keras.import_params, cell)
    prepare_key = jax.random.fold_in(KEY, 2**31 - 1)
    prepared = dropped.prepare(importer(weights), key=prepare_key, batch_shape=(B,))
    mask = jnp.where(prepared.recurrent, jnp.float32(1 / KEEP), 0)
    assert 0 < prepared.recurrent.sum() < B * H
    layer.cell.get_recurrent_dropout_mask = lambda h: [mask] * layer.cell.dropout_mask_count

    def there(weights, x):
        seeds = [v.value for v in layer.non_trainable_variables]
        (outputs, *state), _ = layer.stateless_call(weights, seeds, x, training=True)
        return outputs, state

    def here(weights, x):
        outputs, state = rnn.dynamic_rnn(dropped, importer(weights), x, key=KEY)
        return outputs, [state.h, state.c] if kind == "LSTM" else [state]

    expected = as_there(differentiated(there))(weights, x)
    assert_close(differentiated(here)(weights, x), expected, 1e-5)
