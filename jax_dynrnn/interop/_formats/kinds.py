"""Knows the format of a file by its first bytes."""

from __future__ import annotations

import os
import re
import zipfile

from .._escape import escaped
from .error import CheckpointError, error_context
from .files import BoundedFile, file_size, open_file

HDF5, KERAS_ZIP, NPZ, SAFETENSORS, GRAPH_DEF = "hdf5", "keras", "npz", "safetensors", "graph"
CHECKPOINT = "checkpoint"
"""All else: a prefix, a folder, an index, a MetaGraph beside a checkpoint."""

ARRAYS_BY_NAME = (
    "arrays by name, for safetensors.numpy.save_file (of PyTorch: load it with torch.load(path, "
    "weights_only=True), and save its state_dict with safetensors.torch.save_file)"
)
REFUSED = {
    "pickle": (
        f"expected a file of arrays, got a pickle, which is never loaded; make {ARRAYS_BY_NAME}"
    ),
    "torch": (
        f"expected a file of arrays, got one of torch.save, a pickle, which is never loaded; make "
        f"{ARRAYS_BY_NAME}"
    ),
    "tflite": (
        "expected weights by name, got a TFLite model, whose weights are quantised, fused and "
        "unnamed; read the model that it was converted from"
    ),
    "saved_model": (
        "expected weights, got the graph of a SavedModel; its weights are in the folder variables/ "
        "beside it: give the folder that holds both"
    ),
}  # fmt: skip
"""Why formats that are known are not read, and what to do."""
HEAD_BYTES = 4096
NODE = re.compile(rb"\n[\x80-\xff]*[\0-\x7f]\n([\0-\x7f])")
"""How a GraphDef begins: a node of any length, and the length of its name."""


def file_kind(path: str | os.PathLike[str]) -> str:
    """The format of a file; raises `CheckpointError` for those that are refused."""
    if not os.path.isfile(path):
        return CHECKPOINT
    with open_file(path) as file, error_context(escaped(os.fspath(path))):
        found = _kind(os.fspath(path), file.read(HEAD_BYTES), file_size(file))
        if found in REFUSED:
            raise CheckpointError(REFUSED[found])
        return found


def _kind(path: str, head: bytes, size: int) -> str:
    """The format of a file that begins with `head`."""
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return HDF5
    if head.startswith((b"PK\3\4", b"PK\5\6")):
        return _zip_kind(path)
    if head[4:8] == b"TFL3":
        return "tflite"
    # Protocol 2 and later; the older ones are text, and end in a dot.
    if head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5"):
        return "pickle"
    header = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and header <= size - 8:
        return SAFETENSORS
    if head.startswith(b"\x08\x01\x12") and path.endswith(".pb"):
        return "saved_model"
    # Names of files decide where the first bytes cannot: a damaged file is refused by its reader.
    if path.endswith(".npz"):
        return NPZ
    return GRAPH_DEF if path.endswith(".pb") or _begins_with_node(head) else CHECKPOINT


def _zip_kind(path: str) -> str:
    """The format of a zip, by the names of its members."""
    try:
        with BoundedFile(path) as file, zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except Exception:  # zipfile documents no types; the reader of arrays says what is wrong
        return NPZ
    if "config.json" in names and "model.weights.h5" in names:
        return KERAS_ZIP
    return "torch" if any(name.endswith("data.pkl") for name in names) else NPZ


def _begins_with_node(head: bytes) -> bool:
    """Whether a file begins like a GraphDef: with a node, that is a name, then an operation."""
    match = NODE.match(head)
    # A MetaGraph begins with a message too, but with none that has a name and an operation.
    operation = head[match.end() + match[1][0] :][:3] if match else b""
    return operation[:1] == b"\x12" and operation[2:].isalpha()
