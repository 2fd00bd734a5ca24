"""Models of Keras whose layers are in others, or connected in other ways than one after another.

The printed program runs on the inputs of the model, and its outputs are those of Keras's layers.
"""

import importlib
import re

import numpy as np
import pytest
from keras_files import printed
from weights_agree import as_there

from jax_dynrnn import interop

T, N, D, H = 4, 3, 3, 2
IDS = np.array([[1, 2, 0, 0], [3, 1, 2, 6]])
WORDS = np.array(
    [[[1, 2, 0, 0], [3, 0, 0, 0], [0] * 4], [[4, 5, 6, 1], [2, 2, 2, 0], [1, 0, 0, 0]]]
)
# Warnings of Keras's own code.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


def images(*sizes):
    return np.random.default_rng(1).normal(size=(2, T, *sizes)).astype(np.float32)


def conv(dimensions, **options):
    """Two convolutional LSTMs, the sizes of the second of which only the first implies."""

    def build(keras):
        layers = keras.layers
        kind = getattr(layers, f"ConvLSTM{dimensions}D")
        return keras.Sequential([
            layers.Input((T, *(4, 5, 3)[:dimensions], D)),
            kind(H, 3, padding="same", return_sequences=True, name="under", **options),
            layers.Dropout(0.5),
            kind(1, [2] * dimensions, padding="same", name="over", **options),
        ])  # fmt: skip

    return build


def both_ways(keras):
    layers = keras.layers
    inner = layers.ConvLSTM1D(H, 3, padding="same", return_sequences=True)
    return keras.Sequential([
        layers.Input((T, 5, D)), layers.Bidirectional(inner, merge_mode="ave", name="over")
    ])  # fmt: skip


def nested(keras):
    """The mask goes into a model, and out of it."""
    layers = keras.layers
    lower = layers.LSTM(H, return_sequences=True, name="lower")
    inner = keras.Sequential([lower, layers.GRU(H, return_sequences=True, name="upper")], name="in")
    return keras.Sequential([
        layers.Input((T,)), layers.Embedding(7, D, mask_zero=True, name="words"), inner,
        layers.GRU(H, name="over"),
    ])  # fmt: skip


def functional(keras):
    """Models in models, each with an input layer of its own."""
    layers = keras.layers
    x = layers.Input((T, D))
    innermost = keras.Model(x, layers.LSTM(H, return_sequences=True, name="lower")(x), name="a")
    y = layers.Input((T, D))
    inner = keras.Model(y, layers.Dropout(0.5)(innermost(y)), name="b")
    z = layers.Input((T, D))
    return keras.Model(z, layers.GRU(H, name="over")(inner(layers.Masking(name="m")(z))))


def distributed(keras):
    layers = keras.layers
    inner = layers.Bidirectional(layers.GRU(H), merge_mode="sum")
    return keras.Sequential([
        layers.Input((N, T)), layers.Embedding(7, D, mask_zero=True, name="words"),
        layers.TimeDistributed(inner, name="under"), layers.LSTM(H, name="over"),
    ])  # fmt: skip


def distributed_model(keras):
    layers = keras.layers
    inner = keras.Sequential([
        layers.Input((T, D)), layers.LSTM(H, return_sequences=True, name="lower"),
        layers.SimpleRNN(H, name="upper"),
    ])  # fmt: skip
    return keras.Sequential([
        layers.Input((N, T, D)), layers.TimeDistributed(inner, name="each"),
        layers.LSTM(H, name="over"),
    ])  # fmt: skip


def two_sequences(keras):
    """The second layer starts from the state of the first."""
    layers = keras.layers
    x, y = layers.Input((T, D)), layers.Input((T, D))
    _, h, c = layers.LSTM(H, return_state=True, name="under")(x)
    over = layers.LSTM(H, return_sequences=True, name="over")
    return keras.Model([x, y], over(y, initial_state=[h, c]))


def two_directions(keras):
    layers = keras.layers
    x, y = layers.Input((T, D)), layers.Input((T, D))
    _, *states = layers.Bidirectional(layers.LSTM(H, return_state=True), name="under")(x)
    over = layers.Bidirectional(layers.LSTM(H, return_sequences=True), name="over")
    return keras.Model([x, y], over(y, initial_state=states))


def own_backward_layer(keras):
    layers = keras.layers
    forward = layers.RNN([layers.LSTMCell(H), layers.GRUCell(H)], return_sequences=True)
    backward = layers.GRU(
        H, activation="relu", reset_after=False, go_backwards=True, return_sequences=True
    )
    both = layers.Bidirectional(forward, backward_layer=backward, merge_mode="mul", name="over")
    return keras.Sequential([layers.Input((T, D)), both])


def steps_first(keras):
    layers = keras.layers
    x = layers.Input((None, D))
    over = layers.LSTM(H, time_major=True, return_sequences=True, go_backwards=True, name="over")
    return keras.Model(x, over(x))


MODELS = {
    "ConvLSTM1D": (conv(1, use_bias=False), [images(4, D)]),
    "ConvLSTM2D": (conv(2, recurrent_activation="hard_sigmoid"), [images(4, 5, D)]),
    "ConvLSTM3D": (conv(3, go_backwards=True), [images(4, 5, 3, D)]),
    "Bidirectional(ConvLSTM1D)": (both_ways, [images(5, D)]),
    "nested": (nested, [IDS]),
    "functional": (functional, [images(D) * (IDS > 0)[..., None]]),
    "distributed": (distributed, [WORDS]),
    "distributed model": (distributed_model, [images(T, D)[:, :N]]),
    "two sequences": (two_sequences, [images(D), 2 * images(D)]),
    "two directions": (two_directions, [images(D), 2 * images(D)]),
    "own backward layer": (own_backward_layer, [images(D)]),
    "steps first": (steps_first, [images(D)]),
}
FORMS = [("keras", "keras"), ("tf_keras", "h5"), ("keras", "h5"), ("tf_keras", "keras")]
CASES = [
    pytest.param(name, *form, marks=[] if (i + j) % 4 < 1 else [pytest.mark.full])
    for i, name in enumerate(MODELS)
    for j, form in enumerate(FORMS)
    if name != "steps first" or form[0] == "tf_keras"
]


def built(keras, name):
    """A model with random weights."""
    keras.backend.clear_session()
    model = MODELS[name][0](keras)
    draw = np.random.default_rng(0)
    model.set_weights([0.5 * draw.normal(size=x.shape) for x in model.get_weights()])
    return model


def run_on(program, inputs):
    """The outputs of the last layer of a printed program, on inputs in place of its placeholders.

    Another placeholder is a mask of the layers below, of whole sequences of ids.
    """
    given = [*inputs, *((x > 0).any(-1) for x in inputs)]
    names = {"given": given}
    replaced = re.sub(r"(?m)^(x|ids|mask_\d+) = jnp.ones.*$", r"\1 = given.pop(0)", program)
    exec(replaced, names)
    return names[sorted(name for name in names if re.fullmatch(r"outputs_\d", name))[-1]]


@pytest.mark.parametrize("name, framework, form", CASES)
def test_models(name, framework, form, tmp_path, load_oracle):
    """A model in a file, the program that is printed for it, and the framework's run agree."""
    load_oracle(framework)
    keras = importlib.import_module(framework)
    model, inputs = as_there(built)(keras, name), MODELS[name][1]
    path = str(tmp_path / f"model.{form}")
    as_there(model.save)(path)
    got = run_on(printed(path), inputs)
    expected = as_there(model)(inputs if len(inputs) > 1 else inputs[0])
    np.testing.assert_allclose(got, np.asarray(expected), atol=2e-5, rtol=2e-4)


def subclassed(keras):
    """A model of one's own; two alike layers in a list are not the directions of one."""
    layers = keras.layers

    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.encoder = layers.LSTM(H, return_sequences=True)
            self.many = [layers.LSTM(H, return_sequences=True) for _ in range(2)]
            self.both = layers.Bidirectional(layers.GRU(H))

        def call(self, x):
            for layer in (self.encoder, *self.many):
                x = layer(x)
            return self.both(x)

    model = Own()
    model(images(H))
    return model


@pytest.mark.parametrize("framework, form", [
    ("keras", ".weights.h5"), ("tf_keras", ".weights.h5"), ("tf_keras", ".h5"), ("tf_keras", ""),
])  # fmt: skip
def test_subclassed_models(framework, form, tmp_path, load_oracle):
    """Weights without a configuration, by the attributes of a model: each layer is found."""
    load_oracle(framework)
    model = as_there(subclassed)(importlib.import_module(framework))
    path = str(tmp_path / f"model{form}")
    model.save_weights(path)
    found = [list(layer.weights.values()) for layer in interop.keras.read(path).values()]
    for layer in (model.encoder, *model.many, model.both):
        weights = layer.get_weights()
        assert any(
            len(x) == len(weights) and all(map(np.array_equal, x, weights)) for x in found
        ), layer.name
    program = printed(path)
    cells = re.findall(r"(?m)^cells_\d = (.*)$", program)
    lstm, gru = "rnn.LSTMCell(2, forget_bias=0.0)", "rnn.CudnnCompatibleGRUCell(2)"
    assert sorted(cells) == sorted([lstm, lstm, lstm, f"({gru}, {gru})"])
    exec(program, {})
