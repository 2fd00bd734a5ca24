"""What the layers of a model of Keras receive: outputs of others, initial states, and shapes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Config = dict[str, Any]
"""A configuration as Keras serialises it: `{"class_name": "LSTM", "config": {"units": 4}}`."""
Reference = tuple[str, int]
"""The name of a layer, and the index of one of its outputs."""
Shape = tuple[int | None, ...]
"""With the batch; empty where it is unknown."""

RECURRENT = ("SimpleRNN", "LSTM", "GRU", "CuDNNLSTM", "CuDNNGRU", "RNN")
"""Classes of layers that run a cell over time, on vectors."""
CONV_LSTMS = {"ConvLSTM1D": 1, "ConvLSTM2D": 2, "ConvLSTM3D": 3}
"""The same on images, by the number of their dimensions."""
SAME_SHAPE = (
    "Activation", "ActivityRegularization", "AlphaDropout", "BatchNormalization", "Dropout", "ELU",
    "GaussianDropout", "GaussianNoise", "InputLayer", "LayerNormalization", "LeakyReLU", "Masking",
    "PReLU", "ReLU", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D",
)  # fmt: skip
"""Layers whose outputs have the shape of their inputs."""


def _own(layer: Config) -> Config:
    """The options of a layer or a model; none of a `Sequential` of Keras 1, which has a list."""
    config = layer.get("config")
    return config if isinstance(config, dict) else {}


def inside_time_distributed(layer: Config) -> tuple[Config, int]:
    """The layer inside of each `TimeDistributed`, and how many there are around it."""
    count = 0
    while layer["class_name"] == "TimeDistributed":
        inner = _own(layer).get("layer")
        if not isinstance(inner, dict) or not isinstance(inner.get("class_name"), str):
            break
        layer, count = inner, count + 1
    return layer, count


def runs_over_time(layer: Config) -> bool:
    """Whether a layer runs a cell over time, in one direction or both."""
    return layer["class_name"] in (*RECURRENT, *CONV_LSTMS, "Bidirectional")


def received(layer: Config, names: set[str]) -> tuple[list[Reference], list[Reference]]:
    """What a layer of a functional model receives: its inputs, and its initial state.

    Args:
        names: of the layers of the model; others are parts of arguments.
    """
    nodes = layer.get("inbound_nodes")
    nodes = nodes if isinstance(nodes, list) else []
    calls = [[x for x in _references(node) if x[0] in names] for node in nodes]
    calls = [call for call in calls if call]
    if not calls or not runs_over_time(inside_time_distributed(layer)[0]):
        return [reference for call in calls for reference in call], []
    # A layer that is shared is called more than once; its state may differ from call to call.
    states = calls[0][1:] if all(call[1:] == calls[0][1:] for call in calls) else []
    return [call[0] for call in calls], states


def _references(node: Any) -> Iterator[Reference]:
    """Yields the outputs of other layers in a description of a call, the first argument first."""
    # Keras 3 writes `{"keras_history": [name, 0, 0]}`, Keras 1 and 2 `[name, 0, 0, {}]`.
    if isinstance(node, list) and len(node) > 2 and isinstance(node[0], str):
        yield node[0], node[2] if isinstance(node[2], int) else 0
        node = node[3:]
    if isinstance(node, dict):
        # Keras 3 computes the mask of an embedding by a layer of its own, beside the inputs.
        node = [inner for key, inner in node.items() if key != "mask"]
    if isinstance(node, list):
        for inner in node:
            yield from _references(inner)


class Connections:
    """The outputs of models in a model, and shapes, of the layers that were met."""

    def __init__(self) -> None:
        self._outputs: dict[str, tuple[str, ...]] = {}
        """The layers whose outputs are those of a model, by its name."""
        self._shapes: dict[str, Shape] = {}
        """The shape of a layer's outputs, by its name."""

    def layers(self, references: list[Reference], prefix: str) -> tuple[str, ...]:
        """The layers that outputs are of; of a model, those that they are of inside of it."""
        return tuple(dict.fromkeys(self._layer(f"{prefix}{name}", i) for name, i in references))

    def _layer(self, name: str, index: int) -> str:
        outputs = self._outputs.get(name, ())
        return outputs[index] if 0 <= index < len(outputs) else name

    def add_model(self, name: str, model: Config, last: tuple[str, ...]) -> tuple[str, ...]:
        """Adds a model, and returns the layers whose outputs are its own.

        Args:
            name: of the model.
            model: its configuration.
            last: the last layer of a `Sequential`.
        """
        named = list(_references(_own(model).get("output_layers")))
        self._outputs[name] = self.layers(named, f"{name}/") or last
        return self._outputs[name]

    def input_shape(self, layer: Config, inputs: tuple[str, ...]) -> Shape:
        """The shape of a layer's inputs, which it states, or those before it imply."""
        config = _own(layer)
        built = layer.get("build_config")
        stated = [built.get("input_shape")] if isinstance(built, dict) else []
        stated += [config.get("batch_input_shape"), config.get("batch_shape")]
        found = (_as_shape(shape) for shape in stated)
        implied = self._shapes.get(inputs[0], ()) if len(inputs) == 1 else ()
        return next(filter(None, found), implied)

    def add_shape(self, name: str, layer: Config, shape: Shape) -> None:
        """Notes the shape of a layer's outputs, where it is known from that of its inputs."""
        if layer["class_name"] in SAME_SHAPE:
            self._shapes[name] = shape
        elif layer["class_name"] in CONV_LSTMS and shape:
            filters = layer["config"].get("filters")
            if layer["config"].get("return_sequences") and isinstance(filters, int):
                # Of strides and padding that change the sizes, no cell is made.
                self._shapes[name] = (*shape[:-1], filters)


def _as_shape(shape: Any) -> Shape:
    """A shape of a configuration; empty if there is none."""
    is_shape = isinstance(shape, list) and all(isinstance(n, int | None) for n in shape)
    return tuple(shape) if is_shape else ()


def input_layers(model: Config) -> list[str]:
    """The names of the input layers of a functional model."""
    return [name for name, _ in _references(_own(model).get("input_layers"))]
