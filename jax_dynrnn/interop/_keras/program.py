"""Prints a program that runs the recurrent layers of a model of Keras in this library."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from .._code import code
from .cells import infer_cells
from .layers import Config, Layer, directions

IDENTITY = (
    "Activation", "ActivityRegularization", "Dropout", "GaussianDropout", "GaussianNoise",
    "InputLayer", "Masking", "SpatialDropout1D",
)  # fmt: skip
"""Layers whose outputs are their inputs, but in training; an `Activation` only if it is linear."""
PASS_MASKS = (
    *IDENTITY, "AlphaDropout", "BatchNormalization", "Bidirectional", "CuDNNGRU", "CuDNNLSTM",
    "Dense", "ELU", "GRU", "LSTM", "LayerNormalization", "LeakyReLU", "PReLU", "RNN", "ReLU",
    "SimpleRNN", "TimeDistributed",
)  # fmt: skip
"""Layers that pass the mask of their inputs on."""
NO_CONFIG = (
    "# The file has no configuration, and weights do not say which functions and options layers",
    "# have; these are the defaults of Keras 3. (Before, recurrent_activation was hard_sigmoid by",
    "# default: interop.keras.hard_sigmoid.) --config model.json, of model.to_json(), says them.",
)
REPEATED = """\
def repeated(outputs, mask, axis):
    # Where the mask is False, Keras repeats the outputs of the step before; here they are 0.
    steps = jnp.where(mask, jax.lax.broadcasted_iota(int, mask.shape, axis), -1)
    steps = jax.lax.cummax(steps, axis=axis)[..., None]
    found = jnp.take_along_axis(outputs, jnp.maximum(steps, 0), axis=axis)
    return jnp.where(steps < 0, 0, found)


""".splitlines()
"""A function of the program, for outputs in the order in which the steps were processed."""
MAX_LISTED = 1000
MAX_BELOW = 100  # layers below a recurrent one, among which its inputs are looked for
MERGED = {
    "concat": "jnp.concatenate([fw, bw], -1)",
    "sum": "fw + bw",
    "mul": "fw * bw",
    "ave": "(fw + bw) / 2",
    None: "(fw, bw)",
}
"""How `Bidirectional` joins the outputs of its directions, by `merge_mode`."""


def program_lines(
    layers: Mapping[str, Layer], read_code: str, *, by_name: bool = False
) -> Iterator[str]:
    """Yields the lines of the program.

    Args:
        layers: of the model.
        read_code: the code that reads them; with `by_name`, all arrays by their names.
    """
    body = list(_Program(layers, by_name).lines())
    if any("functools." in line for line in body):
        yield "import functools"
        yield ""
    yield from ("import jax", "import jax.numpy as jnp", "", "import jax_dynrnn as rnn")
    yield "from jax_dynrnn import interop"
    if by_name:
        yield from ("import numpy as np", "from jax_dynrnn.interop import checkpoint")
    yield from ("", f"{'weights' if by_name else 'layers'} = {read_code}")
    if not any(layer.class_name for layer in layers.values()):
        yield from NO_CONFIG
    yield from body


class _Program:
    """The part of the program for each layer, and the names that it has defined."""

    def __init__(self, layers: Mapping[str, Layer], by_name: bool):
        self._layers, self._by_name = layers, by_name
        self._outputs: dict[str, str] = {}
        """The variable with the outputs of a recurrent layer, by its name."""
        self._masks: dict[str, str] = {}
        """The variable with the mask that a layer makes, by its name."""
        self._used: set[str] = set()
        self._defines_repeated = False

    def lines(self) -> Iterator[str]:
        """Yields all lines but the imports."""
        for layer in self._layers.values():
            if len(self._outputs) == MAX_LISTED:
                yield f"# there are more recurrent layers than these {MAX_LISTED}"
                break
            made = layer
            if not layer.class_name:
                made = layer._replace(cells=infer_cells(list(layer.weights.values())))
            if layer.problem:
                self._used.add(layer.name)
                yield ""
                yield f"# {layer.name!r}, {layer.class_name}: left out, since {layer.problem}"
            elif made.cells is not None:
                self._used.add(layer.name)
                yield from self._layer(made, str(len(self._outputs) + 1))
        if not self._outputs:
            yield ""
            yield "# no recurrent layers that this library has cells for"
        yield from self._left_out()

    def _layer(self, layer: Layer, number: str) -> Iterator[str]:
        """The lines of one recurrent layer."""
        yield ""
        yield f"# {layer.name!r}{_description(layer)}"
        yield f"cells_{number} = {code(layer.cells)}"
        of_file = f"layers[{layer.name!r}]"
        if layer.class_name:
            yield f"params_{number} = {of_file}.params"
        else:
            weights = f"list({of_file}.weights.values())"
            if self._by_name:
                weights = f"[{', '.join(f'weights[{name!r}]' for name in layer.weights)}]"
            yield f"params_{number} = interop.keras.import_params(cells_{number}, {weights})"
        yield ""
        yield ""
        repeats = self._mask_source(layer) is not None and _repeats_outputs(layer)
        if repeats and not self._defines_repeated:
            self._defines_repeated = True
            yield from REPEATED
        yield from _function_lines(layer, number, repeats)
        yield ""
        yield ""
        yield from self._inputs(layer, number)
        self._outputs[layer.name] = f"outputs_{number}"

    def _inputs(self, layer: Layer, number: str) -> Iterator[str]:
        """The lines that call the function of a layer, on outputs of others or on a placeholder."""
        source, masking = self._origin(layer)
        config = _time_config(layer)
        lead = (10, 1) if config.get("time_major") else (1, 10)
        if source is not None and source.name in self._outputs:
            yield f"x = {self._outputs[source.name]}"
        elif source is not None and source.class_name == "Embedding" and source.weights:
            self._used.add(source.name)
            yield f"ids = jnp.ones({lead}, int)  # a placeholder, [{_axes(config)}]"
            table = next(iter(source.weights))
            yield f"x = jnp.asarray(layers[{source.name!r}].weights[{table!r}])[ids]"
        else:
            features = next(iter(layer.weights.values())).shape[0]
            after = f", for the outputs of {source.name!r}" if source else ""
            shape = (*lead, features)
            yield f"x = jnp.ones({shape})  # a placeholder, [{_axes(config)}, features]{after}"
        mask = self._mask_source(layer)
        if mask is not None and mask.name not in self._masks:
            self._masks[mask.name] = f"mask_{number}"
            yield f"mask_{number} = {_mask_code(mask, source, masking, lead)}"
        given = f", {self._masks[mask.name]}" if mask else ""
        yield f"outputs_{number}, state_{number} = run_{number}(x{given})"

    def _origin(self, layer: Layer) -> tuple[Layer | None, Layer | None]:
        """The layer whose outputs another one receives unchanged, and a `Masking` between them."""
        masking, seen = None, set()
        while len(layer.inputs) == 1 and len(seen) < MAX_BELOW and layer.name not in seen:
            seen.add(layer.name)
            layer = self._layers.get(layer.inputs[0], Layer("", "", {}, {}))
            masking = layer if layer.class_name == "Masking" and masking is None else masking
            is_linear = layer.config.get("activation", "linear") == "linear"
            if layer.class_name not in IDENTITY or not is_linear:
                return (layer if layer.name else None), masking
        return None, masking

    def _mask_source(self, layer: Layer) -> Layer | None:
        """The layer whose mask a recurrent layer receives."""
        seen = set()
        while len(layer.inputs) == 1 and len(seen) < MAX_BELOW and layer.name not in seen:
            seen.add(layer.name)
            layer = self._layers.get(layer.inputs[0], Layer("", "", {}, {}))
            if layer.class_name == "Masking" or _masks_zero(layer):
                return layer
            returns = layer.cells is None or _time_config(layer).get("return_sequences", True)
            if layer.class_name not in PASS_MASKS or not returns:
                return None
        return None

    def _left_out(self) -> Iterator[str]:
        """Comments on the layers with arrays that the program does not run, by class."""
        others: dict[str, list[str]] = {}
        for layer in self._layers.values():
            if layer.weights and layer.name not in self._used:
                shapes = ", ".join(str(list(x.shape)) for x in layer.weights.values())
                same_class = others.setdefault(layer.class_name or "other arrays", [])
                same_class.append(f"{layer.name!r} {shapes}")
        if others:
            yield ""
            yield "# What this program leaves out, in layers[name].weights:"
        for class_name, names in others.items():
            more = f"; and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
            yield f"#   {class_name}: {'; '.join(names[:MAX_LISTED])}{more}"


def _axes(config: Config) -> str:
    """The axes of inputs, for a comment."""
    return "time, batch" if config.get("time_major") else "batch, time"


def _masks_zero(layer: Layer) -> bool:
    """Whether a layer makes a mask of the ids that are not 0."""
    return layer.class_name == "Embedding" and bool(layer.config.get("mask_zero"))


def _mask_code(
    mask: Layer, source: Layer | None, masking: Layer | None, lead: tuple[int, int]
) -> str:
    """The code of a mask; a placeholder if its inputs are not in the program."""
    value = mask.config.get("mask_value", 0.0)
    if mask is masking and isinstance(value, int | float) and math.isfinite(value):
        value = float(value)
        return f"jnp.any(x != {value!r}, -1)  # of {mask.name!r}"
    if mask is source and mask.weights:
        return f"ids != 0  # of {mask.name!r}"
    return f"jnp.ones({lead}, bool)  # a placeholder: {mask.name!r} makes it of its inputs"


def _repeats_outputs(layer: Layer) -> bool:
    """Whether Keras repeats outputs at masked steps."""
    config = layer.config
    is_zero = layer.class_name == "Bidirectional" or config.get("zero_output_for_mask")
    return bool(config.get("return_sequences")) and not is_zero


def _time_config(layer: Layer) -> Config:
    """The configuration of the layer that runs over time: inside of a `Bidirectional`."""
    if layer.class_name == "Bidirectional":
        return directions({"class_name": "Bidirectional", "config": layer.config})[0]["config"]
    return layer.config


def _description(layer: Layer) -> str:
    """What the configuration says of a layer, for a comment."""
    if not layer.class_name:
        return ", by the shapes of its arrays"
    config, kind = _time_config(layer), layer.class_name
    if kind == "Bidirectional":
        kind = f"Bidirectional({layer.config['layer']['class_name']}), merge_mode "
        kind += repr(layer.config.get("merge_mode", "concat"))
    names = ("return_sequences", "go_backwards", "stateful", "time_major")
    flags = "".join(f", {name}" for name in names if config.get(name))
    rates = [name for name in ("dropout", "recurrent_dropout") if config.get(name)]
    training = f"; in training also {', '.join(rates)}: rnn.DropoutWrapper" if rates else ""
    return f": {kind}{flags}{training}"


def _function_lines(layer: Layer, number: str, repeats: bool) -> Iterator[str]:
    """The function that runs a layer, and returns its outputs and the state.

    With `repeats`, outputs are repeated where the mask is False.
    """
    config, pair = _time_config(layer), isinstance(layer.cells, tuple)
    stateful, flipped = config.get("stateful"), bool(config.get("go_backwards"))
    time_major = ", time_major=True" if config.get("time_major") else ""
    backwards = "[::-1]" if time_major else "[:, ::-1]"
    start = f", initial_state={'(None, None)' if pair else 'None'}" if stateful else ""
    yield f"def run_{number}(x, mask=None{start}):"
    if stateful:
        yield "    # The next call of Keras starts from the state: run(x, mask, state)."
    call = f"params_{number}, x, mask=mask{time_major}"
    # Without a configuration, nothing says which of the outputs the layer returns.
    sequences = config.get("return_sequences", not layer.class_name)
    if not pair:
        given = ", initial_state=initial_state" if stateful else ""
        reverse = ", reverse=True" if flipped else ""
        yield f"    outputs, state = rnn.dynamic_rnn(cells_{number}, {call}{reverse}{given})"
        if flipped and sequences:
            yield f"    outputs = outputs{backwards}"
        if repeats:
            yield "    if mask is not None:"
            axis = 0 if time_major else 1
            given = f"mask{backwards if flipped else ''}, {axis}"
            yield f"        outputs = repeated(outputs, {given})"
        last = _last(layer.cells, "state")
        yield f"    return {'outputs' if sequences else last}, state"
        return
    yield from _pair_lines(layer, number, call, flipped, stateful)
    if not sequences:
        last_fw, last_bw = (
            _last(x, s) for x, s in zip(layer.cells, ("state_fw", "state_bw"), strict=True)
        )
        yield f"    fw, bw = {last_fw}, {last_bw}"
    elif flipped:
        yield f"    fw, bw = fw{backwards}, bw{backwards}"
    yield f"    return {MERGED[layer.config.get('merge_mode', 'concat')]}, (state_fw, state_bw)"


def _pair_lines(
    layer: Layer, number: str, call: str, flipped: bool, stateful: Any
) -> Iterator[str]:
    """The lines that run both directions of a `Bidirectional`."""
    given = ", initial_state_fw={}, initial_state_bw={}" if stateful else ""
    start = ["initial_state[0]", "initial_state[1]"]
    run = "rnn.bidirectional_dynamic_rnn"
    if not flipped:
        yield "    (fw, bw), (state_fw, state_bw) = " + run + "("
        yield f"        *cells_{number}, {call}{given.format(*start)}"
    else:
        # Keras's forward layer is the one that goes backwards.
        call = call.replace(f"params_{number}", "params")
        yield f"    params = {{'fw': params_{number}['bw'], 'bw': params_{number}['fw']}}"
        yield "    (bw, fw), (state_bw, state_fw) = " + run + "("
        yield f"        *cells_{number}[::-1], {call}{given.format(*start[::-1])}"
    yield "    )"


def _last(cell: Any, state: str) -> str:
    """The code of the output at the last valid step, which the state holds."""
    while hasattr(cell, "cells"):
        cell, state = cell.cells[-1], f"{state}[-1]"
    return f"{state}.h" if hasattr(cell, "forget_bias") else state
