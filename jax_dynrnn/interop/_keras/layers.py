"""The layers of a model of Keras in order, each with its arrays and its configuration."""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from ..._types import Cells, Params
from .connections import (
    CONV_LSTMS,
    RECURRENT,
    Config,
    Connections,
    Reference,
    Shape,
    input_layers,
    inside_time_distributed,
    received,
)
from .stored import WEIGHTS, Stored, layer_scope, natural

AFTER_SLASH = chr(ord("/") + 1)  # sorts after all paths in a group
MAX_NESTED = 16  # models in each other


class Layer(NamedTuple):
    """A layer in a file of Keras; see `read`.

    Attributes:
        name: its name in Keras; that of a layer in a model in the model is `"inner/lstm"`.
        class_name: its class in Keras; empty without a configuration.
        config: its configuration; empty if the file has none.
        weights: its arrays by name, as they are stored, in the order of `layer.get_weights()`.
        inputs: the names of the layers that its inputs come from.
        states: what its initial state comes from: names of layers, and indices of their outputs.
        input_shape: the shape of its inputs, with the batch, if the file states or implies it.
        outer_axes: the number of `TimeDistributed` that it is in: it runs over the last time axis
            of as many more.
        cells: for a recurrent layer: its cells with all options, as a run takes them.
        params: the params of a run of `cells`.
        problem: why a recurrent layer has no cells.

    Example:
        >>> from jax_dynrnn import interop
        >>> interop.keras.Layer("lstm", "LSTM", {"units": 4}, {}).config["units"]
        4
    """

    name: str
    class_name: str
    config: Config
    weights: dict[str, np.ndarray]
    inputs: tuple[str, ...] = ()
    states: tuple[Reference, ...] = ()
    input_shape: Shape = ()
    outer_axes: int = 0
    cells: Cells = None
    params: Params = None
    problem: str = ""


Arrays = dict[str, np.ndarray]


def find_layers(stored: Stored, config: Config | None) -> list[Layer]:
    """The layers of a model, without cells; without a configuration those that have arrays."""
    if config is None:
        return list(_without_config(stored))
    arrays = _ByPath(stored.arrays[""]) if "" in stored.arrays else stored.arrays
    return list(_inside(arrays, config, Place(), Connections()))


class Place(NamedTuple):
    """Where a model is in the whole."""

    prefix: str = ""
    """Of the names of its layers."""
    path: str = ""
    """Of its arrays in a file of Keras 3."""
    inputs: tuple[str, ...] = ()
    """The names of the layers that its inputs come from."""
    outer_axes: int = 0
    """How many `TimeDistributed` it is in."""


class _ByPath(Mapping[str, Arrays]):
    """The arrays of a file of Keras 3 below each path."""

    def __init__(self, arrays: Arrays):
        self._arrays, self._sorted = arrays, sorted(arrays)

    def __getitem__(self, path: str) -> Arrays:
        # Binary search: a configuration may have as many layers as the file has arrays.
        start, end = (bisect.bisect_left(self._sorted, path + c) for c in ("/", AFTER_SLASH))
        return {name: self._arrays[name] for name in self._sorted[start:end]}

    def __iter__(self) -> Iterator[str]:
        return iter(self._sorted)

    def __len__(self) -> int:
        return len(self._sorted)


def _by_scope(arrays: Arrays) -> dict[str, Arrays]:
    """The arrays of a model in a model by each of the scopes in their names."""
    found: dict[str, Arrays] = {}
    for name, array in arrays.items():
        for scope in name.split("/")[:-1]:
            found.setdefault(scope, {})[name] = array
    return found


def _inside(
    arrays: Mapping[str, Arrays], model: Config, place: Place, connections: Connections
) -> Iterator[Layer]:
    """Yields the layers of a model, and of the models in it.

    Args:
        arrays: by the name of their layer, or below a path.
    """
    if place.prefix.count("/") > MAX_NESTED:
        raise ValueError(f"expected at most {MAX_NESTED} models in each other, got more")
    numbers: dict[str, int] = {}
    before = place.inputs
    outer = dict(zip(input_layers(model), place.inputs, strict=False))
    entries = _layer_configs(model)
    names = {_name(entry) for entry in entries}
    for entry in entries:
        name = _name(entry)
        full_name = f"{place.prefix}{name}"
        path = f"{place.path}layers/{_numbered(snake_case(entry['class_name']), numbers)}"
        references, states = received(entry, names)
        inputs = connections.layers(references, place.prefix) or before
        if name in outer:
            inputs = (outer[name],)
        inner, axes = inside_time_distributed(entry)
        if _layer_configs(inner):
            by_path = isinstance(arrays, _ByPath)
            own = arrays if by_path else _of_model(arrays, name, place)
            path += "/layer" * axes
            there = Place(f"{full_name}/", f"{path}/", inputs, place.outer_axes + axes)
            last = yield from _inside(own, inner, there, connections)
            inputs = connections.add_model(full_name, inner, last)
        else:
            layer = _layer(entry, full_name, _arrays_of(entry, arrays, path), inputs, connections)
            states = tuple((connections.layers([x], place.prefix)[0], x[1]) for x in states)
            yield layer._replace(states=states, outer_axes=place.outer_axes + axes)
            inputs = (full_name,)
        before = inputs if is_sequential(model) else ()
    return before


def _of_model(arrays: Mapping[str, Arrays], name: str, place: Place) -> Mapping[str, Arrays]:
    """The arrays of a model in a model by the scopes in their names."""
    # Keras 3 leaves the name of a model that is in two others out of the names of arrays.
    if place.prefix and name not in arrays:
        return arrays
    return _by_scope(arrays.get(name, {}))


def _layer(
    entry: Config, name: str, arrays: Arrays, inputs: tuple[str, ...], connections: Connections
) -> Layer:
    """A layer that is no model."""
    inner, axes = inside_time_distributed(entry)
    shape = connections.input_shape(entry, inputs)
    connections.add_shape(name, entry, shape)
    # A `TimeDistributed` takes away the first axis after the batch.
    shape = shape[:1] + shape[1 + axes :]
    return Layer(name, entry["class_name"], entry.get("config") or {}, arrays, inputs, (), shape)


def _arrays_of(entry: Config, arrays: Mapping[str, Arrays], path: str) -> Arrays:
    """The arrays of a layer that is no model, in Keras's order."""
    if isinstance(arrays, _ByPath):
        return _ordered(entry, arrays[path], path)
    return arrays.get(_name(entry), {})


def _name(layer: Config) -> str:
    """The name of a layer, by which a file of Keras 1 or 2 stores its arrays."""
    config = layer.get("config")
    # The configuration of a Sequential in a model of Keras 1 is a list.
    own = config.get("name") if isinstance(config, dict) else None
    return str(own or layer.get("name") or layer["class_name"].lower())


def is_sequential(model: Config) -> bool:
    """Whether each layer of a model receives the outputs of the one before."""
    return model.get("class_name") == "Sequential"


def _layer_configs(model: Config) -> list[Config]:
    """The configurations of the layers of a model; none of another layer."""
    inner = model.get("config")
    # In Keras 1 and early Keras 2, the configuration of a Sequential was a list.
    found = inner if isinstance(inner, list) else (inner or {}).get("layers", [])
    if not isinstance(found, list):
        return []
    return [x for x in found if isinstance(x, dict) and isinstance(x.get("class_name"), str)]


def _numbered(name: str, numbers: dict[str, int]) -> str:
    """A name as Keras 3 stores it: the second layer of a class has the number 1."""
    number = numbers.get(name, 0)
    numbers[name] = number + 1
    return f"{name}_{number}" if number else name


def snake_case(name: str) -> str:
    """The name of a class as Keras 3 stores it; two capitals together stay together."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name.rpartition(">")[2]))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def _ordered(layer: Config, arrays: Arrays, path: str) -> Arrays:
    """The arrays of a layer in Keras's order, by their names inside of it."""
    groups: dict[str, Arrays] = {}
    for name in sorted(arrays, key=natural):
        inside = name.removeprefix(f"{path}/")
        groups.setdefault(inside.rpartition("vars/")[0].rstrip("/"), {})[inside] = arrays[name]
    scopes = _cell_scopes(layer) or list(groups)
    return {name: x for scope in scopes for name, x in groups.get(scope, {}).items()}


def _cell_scopes(layer: Config) -> list[str]:
    """Where Keras 3 stores the arrays of each cell of a recurrent layer, in order."""
    layer, axes = inside_time_distributed(layer)
    if layer["class_name"] == "Bidirectional":
        names = zip(("forward_layer", "backward_layer"), directions(layer), strict=True)
        found = [f"{name}/{scope}" for name, inner in names for scope in _one_way_scopes(inner)]
    else:
        found = _one_way_scopes(layer)
    return ["layer/" * axes + scope for scope in found]


def _one_way_scopes(layer: Config) -> list[str]:
    """The same of a layer of one direction."""
    cells = stacked_cells(layer)
    if cells:
        numbers: dict[str, int] = {}
        return [f"cell/cells/{_numbered(snake_case(x['class_name']), numbers)}" for x in cells]
    return ["cell"] if layer["class_name"] in (*RECURRENT, *CONV_LSTMS) else []


def directions(layer: Config) -> list[Config]:
    """The two layers of a `Bidirectional`."""
    config = layer["config"]
    forward = config["layer"]
    backward = config.get("backward_layer")
    if backward is None:
        turned = {"go_backwards": not forward["config"].get("go_backwards", False)}
        backward = forward | {"config": forward["config"] | turned}
    return [forward, backward]


def stacked_cells(layer: Config) -> list[Config]:
    """The cells of an `RNN` of several."""
    cell = (layer.get("config") or {}).get("cell")
    if not isinstance(cell, dict) or cell.get("class_name") != "StackedRNNCells":
        return []
    return cell["config"]["cells"]


def _without_config(stored: Stored) -> Iterator[Layer]:
    """Yields the layers of a file without a configuration, in the order of the file."""
    groups: dict[str, dict[str, np.ndarray]] = {}
    for path, array in stored.arrays.get("", {}).items():
        # `layers/NAME/vars/0`; a subclassed model has its attributes' names.
        match = re.match(r"((?:.*?layers/|_layers/)?[^/]+)/(.*)", path)
        scope = match[1] if match else ""
        # Several layers may be in one model, or in a list that is an attribute.
        scope = layer_scope(path) if "/cell/" in path else scope
        groups.setdefault(scope, {})[path.removeprefix(f"{scope}/")] = array
    for name, arrays in (stored.arrays if "" not in stored.arrays else groups).items():
        names = sorted(arrays, key=lambda x: ("backward" in x, natural(x)))
        in_file_order = "" not in stored.arrays
        yield Layer(name, "", {}, {x: arrays[x] for x in (arrays if in_file_order else names)})


def layers_of_names(specs: Mapping[str, Any]) -> dict[str, Layer]:
    """The recurrent layers among arrays by name, whose names are those of Keras's variables.

    Args:
        specs: the shape of each array, by name.
    """
    cells: dict[str, dict[str, str]] = {}
    for name in specs:
        scope, _, last = name.removesuffix(":0").rpartition("/")
        if last in WEIGHTS and specs[name].shape:
            cells.setdefault(scope, {})[last] = name
    layers: dict[str, Layer] = {}
    for scope, names in sorted(cells.items(), key=lambda item: "backward_" in item[0]):
        if {"kernel", "recurrent_kernel"} <= names.keys():
            # The directions of one layer have the same scope around them.
            layer = re.sub(r"(^|/)(for|back)ward_.*", "", scope)
            before = layers.get(layer, Layer(layer, "", {}, {})).weights
            own = {names[last]: specs[names[last]] for last in WEIGHTS if last in names}
            layers[layer] = Layer(layer, "", {}, before | own)
    return layers
