"""Prints a program that runs the recurrent layers of a model of Keras in this library."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from ..._types import Cells
from .._code import code
from .cells import infer_cells, over_time
from .connections import CONV_LSTMS, Config
from .layers import Layer, directions

IDENTITY = (
    "Activation", "ActivityRegularization", "Dropout", "GaussianDropout", "GaussianNoise",
    "InputLayer", "Masking", "SpatialDropout1D",
)  # fmt: skip
"""Layers whose outputs are their inputs, but in training; an `Activation` only if it is linear."""
PASS_MASKS = (
    *IDENTITY, "AlphaDropout", "BatchNormalization", "Bidirectional", "CuDNNGRU", "CuDNNLSTM",
    "Dense", "ELU", "GRU", "LSTM", "LayerNormalization", "LeakyReLU", "PReLU", "RNN", "ReLU",
    "SimpleRNN", "TimeDistributed", *CONV_LSTMS,
)  # fmt: skip
"""Layers that pass the mask of their inputs on."""
MERGES = (
    "Add", "Average", "Concatenate", "Maximum", "Merge", "Minimum", "Multiply", "Subtract",
)  # fmt: skip
"""Layers that make one mask of those of their inputs, in each version in another way."""
NO_CONFIG = (
    "# The file has no configuration, and weights do not say which functions and options layers",
    "# have; these are the defaults of Keras 3. (Before Keras 2.3, and in TF1's tf.keras,",
    "# recurrent_activation is interop.keras.hard_sigmoid by default.) --config model.json, of",
    "# model.to_json(), says them.",
)
REPEATED = """\
def repeated(outputs, mask, axis):
    # Where the mask is False, Keras repeats the outputs of the step before; here they are 0.
    steps = jnp.where(mask, jax.lax.broadcasted_iota(int, mask.shape, axis), -1)
    steps = jax.lax.cummax(steps, axis=axis)
    steps = steps.reshape(mask.shape + (1,) * (outputs.ndim - 2))
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
        self._masks: dict[tuple[tuple[str, ...], bool], str] = {}
        """The variable with a mask, by what `_mask_sources` finds."""
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
                made = layer._replace(cells=infer_cells(layer.weights))
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
        masks, is_changed = self._mask_sources(layer)
        repeats = bool(masks) and _repeats_outputs(layer)
        if repeats and not self._defines_repeated:
            self._defines_repeated = True
            yield from REPEATED
        yield from _function_lines(layer, number, repeats)
        yield ""
        yield ""
        yield from self._inputs(layer, number, masks, is_changed)
        self._outputs[layer.name] = f"outputs_{number}"

    def _inputs(
        self, layer: Layer, number: str, masks: dict[str, Layer], is_changed: bool
    ) -> Iterator[str]:
        """The lines that call the function of a layer, on outputs of others or on a placeholder.

        Args:
            layer: the layer.
            number: its number in the program.
            masks, is_changed: what `_mask_sources` finds.
        """
        source, masking = self._origin(layer)
        lead, axes = _lead(layer)
        if source is not None and source.name in self._outputs:
            yield f"x = {self._outputs[source.name]}"
        elif source is not None and source.class_name == "Embedding" and source.weights:
            self._used.add(source.name)
            yield f"ids = jnp.ones({lead}, int)  # a placeholder, [{axes}]"
            table = next(iter(source.weights))
            yield f"x = jnp.asarray(layers[{source.name!r}].weights[{table!r}])[ids]"
        else:
            features = [next(iter(layer.weights.values())).shape[0]]
            of_cell = getattr(_first(layer.cells), "input_shape", features)
            after = f", for the outputs of {source.name!r}" if source else ""
            what = "features" if of_cell is features else "*input_shape"
            yield f"x = jnp.ones({(*lead, *of_cell)})  # a placeholder, [{axes}, {what}]{after}"
        names = tuple(masks)
        if masks and (names, is_changed) not in self._masks:
            self._masks[names, is_changed] = f"mask_{number}"
            made = None if is_changed else masks[names[0]]
            yield f"mask_{number} = {_mask_code(made, names, source, masking, lead)}"
        given = ["x", self._masks[names, is_changed]] if masks else ["x"]
        state = self._state(layer)
        if state:
            given.append(f"initial_state={state}")
        elif layer.states:
            of = ", ".join(dict.fromkeys(repr(name) for name, _ in layer.states))
            yield f"# Keras starts it from outputs of {of} (of an LSTM h, then c): initial_state="
        run = f"run_{number}"
        for _ in range(layer.outer_axes):
            run = f"jax.vmap({run}, 1, 1)"
        yield f"outputs_{number}, state_{number} = {run}({', '.join(given)})"

    def _state(self, layer: Layer) -> str | None:
        """The variable with the state that a layer starts from, if that is another one's last."""
        names = {name for name, _ in layer.states}
        name = names.pop() if len(names) == 1 else ""
        indices = [index for _, index in layer.states]
        # Output 0 of a layer is its outputs, and the others are its states.
        if name not in self._outputs or indices != [*range(1, len(indices) + 1)]:
            return None
        source = self._layers[name]
        if layer.outer_axes or _state_shapes(source.cells) != _state_shapes(layer.cells):
            return None
        return self._outputs[name].replace("outputs_", "state_")

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

    def _mask_sources(self, layer: Layer) -> tuple[dict[str, Layer], bool]:
        """The layers whose masks reach a recurrent one, and whether they are changed before."""
        found: dict[str, Layer] = {}
        is_changed, seen, left = False, set(), [layer]
        while left and len(seen) < MAX_BELOW:
            above = left.pop()
            for name in above.inputs:
                below = self._layers.get(name)
                if below is None or name in seen:
                    continue
                seen.add(name)
                # A `TimeDistributed` makes one element of a mask of those of all inner steps.
                is_changed |= len(above.inputs) > 1 or below.outer_axes > layer.outer_axes
                if below.class_name == "Masking" or _masks_zero(below):
                    found[name] = below
                elif _passes_mask(below, layer.outer_axes):
                    left.append(below)
        return found, is_changed

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


def _lead(layer: Layer) -> tuple[tuple[int, ...], str]:
    """The sizes of the leading axes of a placeholder for inputs, and what these axes are."""
    if _time_config(layer).get("time_major"):
        return (10, 1), "time, batch"
    return (1, *(5,) * layer.outer_axes, 10), f"batch{', outer time' * layer.outer_axes}, time"


def _first(cells: Cells) -> Any:
    """The first of the cells of a run."""
    return cells[0] if isinstance(cells, tuple) else cells


def _state_shapes(cells: Cells) -> Any:
    """The shapes of the state of a run, in its structure."""
    each = cells if isinstance(cells, tuple) else (cells,)
    return jax.eval_shape(lambda: [cell.zero_state(1) for cell in each])


def _passes_mask(layer: Layer, outer_axes: int) -> bool:
    """Whether a layer passes the mask of its inputs on to one in so many `TimeDistributed`."""
    if layer.class_name not in (*PASS_MASKS, *MERGES):
        return False
    has_no_steps = layer.cells is not None and not _time_config(layer).get("return_sequences")
    return not has_no_steps or layer.outer_axes > outer_axes


def _masks_zero(layer: Layer) -> bool:
    """Whether a layer makes a mask of the ids that are not 0."""
    return layer.class_name == "Embedding" and bool(layer.config.get("mask_zero"))


def _mask_code(
    mask: Layer | None,
    names: tuple[str, ...],
    source: Layer | None,
    masking: Layer | None,
    lead: tuple[int, ...],
) -> str:
    """The code of a mask; a placeholder if its inputs are not in the program.

    Args:
        mask: the layer whose mask it is, unchanged.
        names: of the layers that it is made of.
        source: the layer whose outputs are the inputs `x`, or whose ids are `ids`.
        masking: a `Masking` of `x`.
        lead: the shape of a placeholder.
    """
    value = mask.config.get("mask_value", 0.0) if mask else None
    if mask and mask is masking and isinstance(value, int | float) and math.isfinite(value):
        value = float(value)
        return f"jnp.any(x != {value!r}, -1)  # of {mask.name!r}"
    if mask and mask is source and mask.weights:
        return f"ids != 0  # of {mask.name!r}"
    made = f"{', '.join(map(repr, names))} make{'s' * (len(names) == 1)} it"
    return f"jnp.ones({lead}, bool)  # a placeholder: {made} of its inputs"


def _repeats_outputs(layer: Layer) -> bool:
    """Whether Keras repeats outputs at masked steps."""
    inner = over_time(layer)
    config = inner["config"]
    is_zero = inner["class_name"] == "Bidirectional" or config.get("zero_output_for_mask")
    return bool(config.get("return_sequences")) and not is_zero


def _time_config(layer: Layer) -> Config:
    """The configuration of the layer that runs over time: inside of a `Bidirectional`."""
    inner = over_time(layer)
    return directions(inner)[0]["config"] if _is_pair(inner) else inner.get("config") or {}


def _is_pair(layer: Config) -> bool:
    """Whether a layer runs over time in both directions."""
    return layer["class_name"] == "Bidirectional"


def _description(layer: Layer) -> str:
    """What the configuration says of a layer, for a comment."""
    if not layer.class_name:
        return ", by the shapes of its arrays"
    inner, config = over_time(layer), _time_config(layer)
    kind = inner["class_name"]
    if _is_pair(inner):
        kind = f"Bidirectional({', '.join(x['class_name'] for x in directions(inner))}), "
        kind += f"merge_mode {inner['config'].get('merge_mode', 'concat')!r}"
    kind += ", in TimeDistributed" * layer.outer_axes
    names = ("return_sequences", "return_state", "go_backwards", "stateful", "time_major")
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
    starts = stateful or layer.states
    start = f", initial_state={'(None, None)' if pair else 'None'}" if starts else ""
    yield f"def run_{number}(x, mask=None{start}):"
    if stateful:
        yield "    # The next call of Keras starts from the state: run(x, mask, state)."
    call = f"params_{number}, x, mask=mask{time_major}"
    # Without a configuration, nothing says which of the outputs the layer returns.
    sequences = config.get("return_sequences", not layer.class_name)
    if not pair:
        given = ", initial_state=initial_state" if starts else ""
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
    yield from _pair_lines(number, call, flipped, bool(starts))
    if not sequences:
        last_fw, last_bw = (
            _last(x, s) for x, s in zip(layer.cells, ("state_fw", "state_bw"), strict=True)
        )
        yield f"    fw, bw = {last_fw}, {last_bw}"
    elif flipped:
        yield f"    fw, bw = fw{backwards}, bw{backwards}"
    merged = (
        MERGED[over_time(layer)["config"].get("merge_mode", "concat")]
        if layer.config
        else MERGED["concat"]
    )
    yield f"    return {merged}, (state_fw, state_bw)"


def _pair_lines(number: str, call: str, flipped: bool, starts: bool) -> Iterator[str]:
    """The lines that run both directions of a `Bidirectional`."""
    given = ", initial_state_fw={}, initial_state_bw={}" if starts else ""
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
