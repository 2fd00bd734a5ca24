"""TensorFlow 1 checkpoints without TensorFlow: variables as NumPy arrays by name, and back.

>>> import tempfile, numpy as np
>>> from jax_dynrnn.interop import checkpoint
>>> with tempfile.TemporaryDirectory() as folder:
...     checkpoint.write_checkpoint(f"{folder}/model.ckpt", {"rnn/gru_cell/gates/bias": np.ones(4)})
...     variables = checkpoint.read_checkpoint(f"{folder}/model.ckpt")
...     list(variables), variables["rnn/gru_cell/gates/bias"].tolist()
(['rnn/gru_cell/gates/bias'], [1.0, 1.0, 1.0, 1.0])

A checkpoint of format V2 is an `.index`, which locates each variable, and one or more files
`.data-00000-of-00001` with their values. A frozen graph (`.pb`) has its weights as constants.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

from ._formats import tensors
from ._formats.bundle import Checkpoint as Checkpoint
from ._formats.crc32c import crc32c, masked
from ._formats.error import CheckpointError as CheckpointError
from ._formats.files import data_file, find_prefix, index_file, without_suffix
from ._formats.graph_def import read_graph_def as read_graph_def
from ._formats.index import Entry, write_index
from ._formats.safetensors import read_safetensors as read_safetensors
from ._tf1.kinds import kind as kind
from ._tf1.kinds import moving_averages as moving_averages

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "kind",
    "moving_averages",
    "read_checkpoint",
    "read_graph_def",
    "read_safetensors",
    "write_checkpoint",
]


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Opens a checkpoint: a mapping from names to variables, each of which is read on access.

    Partitioned variables are joined. All data that is read is checked against its CRC-32C.

    Args:
        path: the prefix of its files (`"model.ckpt-100"`), one of these files, a folder whose
            file `checkpoint` (TensorFlow writes it) names the newest one or that has only one, or a
            SavedModel's folder.

    Returns:
        `Checkpoint`, sorted by name; `dict(checkpoint)` reads all variables, and
        `checkpoint.spec(name)` returns a variable's shape and dtype without reading its values.

    Raises:
        CheckpointError: the index is truncated, corrupt, or of another format (a V1 checkpoint),
            or data files are missing, or `path` is a pipe or a device. Damaged data raises the
            same error when it is read.
        FileNotFoundError: there is no checkpoint at `path`; those nearby are listed.

    Reference: `tf.train.load_checkpoint`.

    Example:
        >>> import tempfile, numpy as np
        >>> from jax_dynrnn.interop import checkpoint
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     saved = {"w": np.eye(2), "w/Adam": np.zeros((2, 2))}
        ...     checkpoint.write_checkpoint(f"{folder}/model", saved)
        ...     variables = checkpoint.read_checkpoint(f"{folder}/model")
        ...     {name: variables[name].tolist() for name in variables
        ...      if checkpoint.kind(name) == "weight"}
        {'w': [[1.0, 0.0], [0.0, 1.0]]}
    """
    return Checkpoint(find_prefix(path))


def write_checkpoint(path: str | os.PathLike[str], variables: Mapping[str, Any]) -> None:
    """Writes a checkpoint that TensorFlow restores: an `.index` and one `.data-00000-of-00001`.

    Args:
        path: the prefix of its files; existing files are replaced.
        variables: `{name: array}`, of any dtype that `tf.train.load_checkpoint` reads; strings as
            object arrays of `bytes`.

    Raises:
        ValueError: a name is empty or begins with a NUL.
        TypeError: a name is not a string, or TensorFlow has no such dtype.

    Reference: `tf.compat.v1.train.Saver.save`; `tf.train.load_checkpoint` reads it.

    Example:
        >>> import pathlib, tempfile, jax.numpy as jnp
        >>> from jax_dynrnn.interop import checkpoint
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     checkpoint.write_checkpoint(f"{folder}/model", {"bias": jnp.ones(4, jnp.bfloat16)})
        ...     sorted(path.name for path in pathlib.Path(folder).iterdir())
        ['model.data-00000-of-00001', 'model.index']
    """
    arrays = {_checked_name(name): _checked_array(name, value) for name, value in variables.items()}
    # Files get their final names when they are complete, so that an interrupted write leaves no
    # partial file under these names.
    prefix, partial = without_suffix(path), f".{os.getpid()}"
    data, index = data_file(prefix), index_file(prefix)
    with open(data + partial, "wb") as file:
        entries = {name: _write_tensor(file, array) for name, array in arrays.items()}
    with open(index + partial, "wb") as file:
        file.write(write_index(entries))
    for file in (data, index):
        os.replace(file + partial, file)


def _checked_name(name: Any) -> str:
    """A variable's name, or an error if a checkpoint cannot hold it."""
    if not isinstance(name, str):
        raise TypeError(f"expected names of variables, strings, got {name!r}")
    # In an index, the empty key is the header, and keys of slices begin with NUL.
    if not name or name[0] == "\0":
        raise ValueError(f"expected a name that a checkpoint can hold, got {name!r}")
    return name


def _checked_array(name: str, value: Any) -> np.ndarray:
    """A variable as an array of a dtype that TensorFlow has, or an error."""
    array = np.asarray(value)
    # A file has one byte order for all tensors; an array may have the other.
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    not_bytes = (
        [x for x in array.ravel() if not isinstance(x, bytes)] if array.dtype.hasobject else []
    )
    if array.dtype.name not in tensors.NUMBERS or not_bytes:
        got = f"objects, {not_bytes[0]!r:.80} among them" if not_bytes else f"dtype {array.dtype}"
        raise TypeError(
            f"variable {name!r}: expected an array of a dtype that TensorFlow has, or of bytes "
            f"objects for its strings, got {got}"
        )
    return array


def _write_tensor(file: BinaryIO, array: np.ndarray) -> Entry:
    """Appends a tensor to the data file; returns its entry of the index."""
    if array.dtype.hasobject:
        data, checked = tensors.write_strings(array.ravel().tolist())
    else:
        data = checked = array.tobytes()
    offset, number = file.tell(), tensors.NUMBERS[array.dtype.name]
    file.write(data)
    return Entry(number, array.shape, 0, offset, len(data), masked(crc32c(checked)))
