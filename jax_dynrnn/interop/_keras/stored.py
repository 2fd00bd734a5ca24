"""Reads the arrays and the configuration in a file of Keras."""

from __future__ import annotations

import io
import json
import os
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .._escape import escaped, quoted
from .._formats.budget import Budget
from .._formats.bundle import Checkpoint
from .._formats.error import CheckpointError, error_context
from .._formats.files import file_size, find_prefix, open_file
from .._formats.kinds import HDF5, KERAS_ZIP, file_kind
from .._formats.tensors import check_shape
from .._formats.wire import Message
from .._tf1.kinds import kind

OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
"""The variable of a checkpoint that says which object has which other ones."""
KERAS_MEMBERS = ("metadata.json", "config.json", "model.weights.h5")
"""What is in a `.keras`."""
VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
"""The end of the key of a variable in a checkpoint."""
NUMBERED = ("layer_with_weights-", "layer-", "variables/")
"""The beginnings of the keys of a model that is not subclassed."""
METADATA = "keras_metadata.pb"
MAX_JSON_BYTES = 2 << 20  # Python's objects take twenty times as many
ARRAY_BYTES = 1000  # of Python's and NumPy's objects for an array and its name
WEIGHTS = ("kernel", "recurrent_kernel", "bias")
"""Of a cell, in the order of `get_weights()`."""
SCOPE_BYTES = 400  # of the same for a scope in a name
MAX_DEPTH = 32  # of groups in each other


class Stored(NamedTuple):
    """What a file of Keras holds."""

    arrays: dict[str, dict[str, np.ndarray]]
    """By the name of their layer, then by their own, in the order of `get_weights()`; or, in the
    files of Keras 3, by the empty name, then by their path."""
    config: dict[str, Any] | None
    """The configuration of the model, if the file has one."""
    version: str
    """Of Keras, if the file says it."""


def read_stored(path: str | os.PathLike[str]) -> Stored:
    """Reads a file, of the format that its first bytes show."""
    if file_kind(path) not in (HDF5, KERAS_ZIP):
        return _read_bundle(path)
    with open_file(path) as file, error_context(escaped(os.fspath(path))):
        budget = Budget(file_size(file))
        try:
            if file_kind(path) == HDF5:
                return _read_hdf5(file, budget)
            return _read_zip(file, budget)
        except (CheckpointError, MemoryError, ImportError):
            raise
        except Exception as error:  # h5py, zipfile and json document no types for damaged files
            raise CheckpointError(
                f"expected a model or weights of Keras, got a damaged file: {escaped(error)}"
            ) from None


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads the configuration of a model, the JSON of `model.to_json()`."""
    with open_file(path) as file, error_context(escaped(os.fspath(path))):
        return parse_config(file.read(MAX_JSON_BYTES + 1))


def parse_config(text: str | bytes) -> dict[str, Any]:
    """Parses the configuration of a model."""
    config = _parsed(text)
    if not isinstance(config.get("config"), dict | list):
        raise CheckpointError("expected a configuration, as of model.to_json(), got other JSON")
    return config


def _parsed(text: str | bytes) -> dict[str, Any]:
    """An object in JSON."""
    if len(text) > MAX_JSON_BYTES:
        raise CheckpointError(f"expected a configuration of at most {MAX_JSON_BYTES} bytes")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"expected a configuration in JSON: {escaped(error)}") from None
    return found if isinstance(found, dict) else {}


def _read_zip(file: Any, budget: Budget) -> Stored:
    """Reads a `.keras`: a zip of the configuration, the version and an HDF5 file."""
    # `file_kind` has read the list of members already, within a bound.
    with zipfile.ZipFile(file) as archive:
        members = {name: _read_member(archive, name, budget) for name in KERAS_MEMBERS}
    stored = _read_hdf5(io.BytesIO(members["model.weights.h5"]), budget)
    version = _parsed(members["metadata.json"]).get("keras_version", "")
    return stored._replace(config=parse_config(members["config.json"]), version=str(version))


def _read_member(archive: zipfile.ZipFile, name: str, budget: Budget) -> bytes:
    """The contents of a file in a zip, which may be compressed."""
    try:
        size = archive.getinfo(name).file_size
    except KeyError:
        raise CheckpointError(f"expected {name} in the zip, got none") from None
    budget.take(size)
    with archive.open(name) as member:
        return member.read(size)


def _read_hdf5(file: Any, budget: Budget) -> Stored:
    """Reads an HDF5 file: a model or the weights of one, of any version of Keras."""
    with _h5py().File(file, "r") as opened:
        # A model of Keras 1 or 2 has its weights in a group beside the configuration.
        has_model = "model_weights" in opened
        root = _hard(opened, "model_weights") if has_model else opened
        config = opened.attrs.get("model_config")
        version = root.attrs.get("keras_version", opened.attrs.get("keras_version", ""))
        if _attribute_names(root, "layer_names") is None:
            arrays = {"": dict(_all_arrays(root, "", budget))}
        else:
            arrays = _arrays_by_layer(root, budget)
        return Stored(arrays, None if config is None else parse_config(config), _text(version))


def write_stored(path: str, layers: Mapping[str, Sequence[np.ndarray]]) -> None:
    """Writes arrays by layer as Keras 2 does."""
    with _h5py().File(path, "w") as file:
        file.attrs["layer_names"] = [name.encode() for name in layers]
        # Otherwise Keras takes the arrays for those of Keras 1, and converts some.
        file.attrs["keras_version"] = b"2.15.0"
        file.attrs["backend"] = b"tensorflow"
        for layer, arrays in layers.items():
            group = file.create_group(layer)
            names = [f"{layer}/weight_{i}:0" for i in range(len(arrays))]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, array in zip(names, arrays, strict=True):
                group.create_dataset(name, data=np.asarray(array))


def _h5py() -> Any:
    """The library that reads and writes HDF5."""
    try:
        import h5py
    except ImportError:
        raise ImportError(
            "expected h5py, which reads and writes files of Keras (HDF5), got none: pip install "
            "h5py, or pip install 'jax_dynrnn[keras]'"
        ) from None
    return h5py


def _hard(group: Any, name: str) -> Any:
    """A member of a group; a link to another file, which h5py would open, is refused."""
    h5py = _h5py()
    if isinstance(group, h5py.Group) and isinstance(
        group.get(name, getlink=True), h5py.ExternalLink
    ):
        raise CheckpointError(f"expected {quoted(name)} in this file, got a link to another")
    return group[name]


def _arrays_by_layer(root: Any, budget: Budget) -> dict[str, dict[str, np.ndarray]]:
    """The arrays of each layer of Keras 1 and 2, in the order that attributes list."""
    arrays = {}
    for layer in _attribute_names(root, "layer_names") or ():
        group = _hard(root, layer)
        names = _attribute_names(group, "weight_names") or []
        budget.take(SCOPE_BYTES * sum(name.count("/") for name in names))
        arrays[layer] = {name: _read_array(_member(group, name), name, budget) for name in names}
    return arrays


def _member(group: Any, path: str) -> Any:
    """A member of a group inside of groups."""
    for name in path.strip("/").split("/"):
        group = _hard(group, name)
    return group


def _attribute_names(group: Any, name: str) -> list[str] | None:
    """A list of names among the attributes; a long one is stored in parts with numbers."""
    if name in group.attrs:
        return [_text(x) for x in np.ravel(group.attrs[name])]
    if f"{name}0" not in group.attrs:
        return None
    parts = []
    while f"{name}{len(parts)}" in group.attrs:
        parts.append(np.ravel(group.attrs[f"{name}{len(parts)}"]))
    return [_text(x) for part in parts for x in part]


def _text(value: Any) -> str:
    """A string, whether it is stored as text or as bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _all_arrays(group: Any, path: str, budget: Budget) -> Iterator[tuple[str, np.ndarray]]:
    """Yields every array below a group by its path, without the optimizer's."""
    if path.count("/") > MAX_DEPTH:
        raise CheckpointError(f"expected at most {MAX_DEPTH} groups in each other, got more")
    for name in group:
        # In Keras 2.12 the list of layers had another name.
        renamed = name.replace("\\", "/").replace("_layer_checkpoint_dependencies", "layers")
        inner = f"{path}/{renamed}".lstrip("/")
        if inner in ("optimizer", "optimizer_weights"):
            continue
        budget.take(ARRAY_BYTES)
        member = _hard(group, name)
        if isinstance(member, _h5py().Group):
            yield from _all_arrays(member, inner, budget)
        else:
            yield inner, _read_array(member, inner, budget)


def _read_array(dataset: Any, name: str, budget: Budget) -> np.ndarray:
    """The values of a dataset."""
    if not isinstance(dataset, _h5py().Dataset):
        raise CheckpointError(f"expected an array at {quoted(name)}, got a group")
    if dataset.external or dataset.is_virtual:
        raise CheckpointError(f"expected {quoted(name)} in this file, got a link to another")
    if dataset.dtype.kind not in "biuf" or dataset.shape is None:
        raise CheckpointError(f"expected numbers at {quoted(name)}, got {dataset.dtype}")
    check_shape(dataset.shape)
    # A dataset may declare any size, without values or compressed.
    budget.take(ARRAY_BYTES + dataset.size * dataset.dtype.itemsize)
    return np.asarray(dataset[()])


def _read_bundle(path: str | os.PathLike[str]) -> Stored:
    """Reads the weights of a checkpoint that Keras 2 wrote, or a SavedModel."""
    checkpoint = Checkpoint(find_prefix(path))
    if OBJECT_GRAPH not in checkpoint:
        raise CheckpointError(
            f"{escaped(os.fspath(path))}: expected weights of Keras, got a checkpoint of variables "
            "by name, for checkpoint.read_checkpoint and tf1.import_params"
        )
    names = _full_names(checkpoint[OBJECT_GRAPH].item())
    keys = [key for key in checkpoint if key != OBJECT_GRAPH and kind(key) == "weight"]
    # The keys of a subclassed model have its attributes' names; those of others are numbers.
    names = {key: name for key, name in names.items() if key.startswith(NUMBERED)}
    named = {key: names.get(key, key.removesuffix(VALUE)) for key in keys}
    arrays: dict[str, dict[str, np.ndarray]] = {}
    for key in _in_weights_order(named):
        scope = named[key].partition("/")[0] if key in names else layer_scope(named[key])
        arrays.setdefault(scope, {})[named[key]] = checkpoint[key]
    # Only Keras 2 writes this format.
    return Stored(arrays, _saved_model_config(os.path.join(os.fspath(path), METADATA)), "2")


def _saved_model_config(path: str) -> dict[str, Any] | None:
    """The configuration of the model that Keras 2 writes beside a SavedModel, if there is one.

    Reference: keras/protobuf/saved_metadata.proto.
    """
    if not os.path.isfile(path):
        return None
    with open_file(path) as file, error_context(escaped(path)):
        for node in Message(file.read(MAX_JSON_BYTES)).messages(1):
            if node.text(3) == "root":
                metadata = _parsed(node.text(5))
                # A subclassed model has no configuration.
                return metadata if isinstance(metadata.get("config"), dict | list) else None
    return None


def is_keras(checkpoint: Checkpoint) -> bool:
    """Whether Keras 2 wrote a checkpoint."""
    ends = tuple(f"cell/{name}{VALUE}" for name in WEIGHTS)
    return OBJECT_GRAPH in checkpoint and any(
        key.startswith(NUMBERED) or key.endswith(ends) for key in checkpoint
    )


def _in_weights_order(named: dict[str, str]) -> list[str]:
    """Keys of a checkpoint in the order of `get_weights()`; `named` has the variables' names."""
    # The keys have numbers, of layers and cells or of variables; backward comes last.
    keys = sorted(named, key=lambda key: ("backward" in named[key], natural(key)))
    scopes = list(dict.fromkeys(named[key].rpartition("/")[0] for key in keys))

    def place(key: str) -> tuple[int, int]:
        scope, _, last = named[key].rpartition("/")
        return scopes.index(scope), WEIGHTS.index(last) if last in WEIGHTS else len(WEIGHTS)

    return sorted(keys, key=place)


def layer_scope(path: str) -> str:
    """The layer of an array by its path, `both/forward_layer/cell/kernel`, whatever it is in."""
    match = re.match(r"(.+?)/(?:(?:for|back)ward_layer/)?cell/", path)
    return match[1] if match else path.partition("/")[0]


def natural(name: str) -> list[str]:
    """A key that sorts numbers in names by their value."""
    return [x.zfill(20) if x.isdigit() else x for x in re.split(r"(\d+)", name)]


def _full_names(graph: bytes) -> dict[str, str]:
    """The names of variables by their keys in a checkpoint.

    Reference: tensorflow/core/protobuf/trackable_object_graph.proto.
    """
    attributes = (a for node in Message(graph).messages(1) for a in node.messages(2))
    named = ((a.text(3), a.text(2)) for a in attributes)
    return {key: name for key, name in named if name}
