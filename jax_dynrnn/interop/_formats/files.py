"""Finds and opens the files of a checkpoint."""

from __future__ import annotations

import glob
import io
import os
import re
import stat
from typing import BinaryIO

from .._escape import escaped, quoted
from .error import CheckpointError
from .table import MAGIC

STATE_FILE = "checkpoint"  # TensorFlow records the newest checkpoint of a folder in it
SAVED_MODEL = "saved_model.pb"  # beside the folder with its variables
MAX_PATH_BYTES = 4096  # no system opens longer ones
MAX_STATE_BYTES = 1 << 16  # of the state file, whose first line names the newest checkpoint
MODEL_PATH = re.compile(rb'^model_checkpoint_path: "((?:[^"\\]|\\.)*)"', re.MULTILINE)
MAX_READ_BYTES = 3 << 20
"""Of the list of members: `zipfile` makes objects of it that take twenty times its size."""
ESCAPE = re.compile(rb"\\(?:([0-7]{1,3})|(.))")  # a byte in octal digits, or one as it is


def index_file(prefix: str) -> str:
    """The path of the index."""
    return prefix + ".index"


def data_file(prefix: str, shard: int = 0, shards: int = 1) -> str:
    """The path of a data file."""
    return f"{prefix}.data-{shard:05d}-of-{shards:05d}"


def without_suffix(path: str | os.PathLike[str]) -> str:
    """The prefix of a checkpoint, from itself or the path of one of its files."""
    return re.sub(r"\.(index|meta|data-\d{5}-of-\d{5})$", "", os.fspath(path))


def open_file(path: str | os.PathLike[str]) -> BinaryIO:
    """Opens a regular file for reading: opening a pipe would block, and a device may never end.

    Callers read no further than the size of the file: some files in Linux' `/proc`, of size 0,
    never end.
    """
    check_regular(path)
    return open(path, "rb")


class BoundedFile(io.FileIO):
    """A file that refuses large reads, whatever size its contents declare."""

    def __init__(self, path: str, max_read_bytes: int = MAX_READ_BYTES):
        super().__init__(path)
        self._max_read_bytes = max_read_bytes

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            size = file_size(self) - self.tell()
        if size > self._max_read_bytes:
            raise CheckpointError(
                f"expected a list of members of at most {self._max_read_bytes} bytes, got {size}"
            )
        return super().read(size) or b""


def file_size(file: BinaryIO) -> int:
    """The size of an open file, in bytes."""
    return os.fstat(file.fileno()).st_size


def check_regular(path: str | os.PathLike[str]) -> None:
    """Raises for pipes, sockets and devices; for a folder, `open` itself raises."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise CheckpointError(
            f"{escaped(os.fspath(path))}: expected a file, got a pipe, a socket or a device; "
            "store its contents in a file first"
        )


def find_prefix(path: str | os.PathLike[str]) -> str:
    """The prefix of the checkpoint at `path`: a prefix, one of its files, or a folder."""
    prefix = without_suffix(path)
    for file in (os.fspath(path), index_file(prefix)):
        if os.path.exists(file):
            check_regular(file)
    if os.path.isfile(index_file(prefix)):
        return prefix
    if os.path.isdir(path):
        return _newest_checkpoint(os.fspath(path))
    _refuse_without_index(os.fspath(path), prefix)
    raise FileNotFoundError(
        f"{escaped(index_file(prefix))}: no such file; expected the prefix of a checkpoint's "
        f"files, its .index, or a folder{_nearby(os.path.dirname(prefix))}"
    )


def graph_file(path: str | os.PathLike[str]) -> tuple[str, str]:
    """The file with the graph of a checkpoint, which may not exist, and its form."""
    prefix = find_prefix(path)
    folder, inner = os.path.split(os.path.dirname(prefix))
    saved_model = os.path.join(folder, SAVED_MODEL)
    if inner == "variables" and os.path.isfile(saved_model):
        return saved_model, "saved_model"
    return f"{prefix}.meta", "meta"


def _refuse_without_index(path: str, prefix: str) -> None:
    """Raises if there are files of a checkpoint, or another file, but no index."""
    for file in [path, *glob.glob(glob.escape(prefix.split("-?????-of-")[0]) + "-?????-of-?????")]:
        if os.path.isfile(file):
            raise CheckpointError(f"{escaped(file)}: {_describe_stray_file(file)}")


def _describe_stray_file(file: str) -> str:
    """The error message for a file without an index."""
    with open_file(file) as opened:
        size = file_size(opened)
        # Checkpoints of format V1 are LevelDB tables, which end in this number.
        opened.seek(max(size - len(MAGIC), 0))
        if opened.read(min(size, len(MAGIC))) != MAGIC:
            return "expected a checkpoint, which has an .index beside it, got another file"
    return (
        "a checkpoint of format V1, which this library does not read; read it with "
        "tf.train.load_checkpoint of TensorFlow 2 and store the arrays with write_checkpoint"
    )


def _newest_checkpoint(folder: str) -> str:
    """The prefix that a folder's state file names, or that of a SavedModel.

    The folder may have been moved since: files of that name beside the state file count too.
    """
    state = os.path.join(folder, STATE_FILE)
    if not os.path.isfile(state):
        # A SavedModel keeps its variables in a checkpoint of this name.
        saved_model = os.path.join(folder, "variables", "variables")
        if os.path.isfile(index_file(saved_model)):
            return saved_model
        found = glob.glob(os.path.join(glob.escape(folder), "*.index"))
        if len(found) == 1:
            return without_suffix(found[0])
        raise FileNotFoundError(f"{escaped(state)}: no such file{_nearby(folder)}")
    with open_file(state) as opened:
        match = MODEL_PATH.search(opened.read(min(file_size(opened), MAX_STATE_BYTES)))
    if not match:
        raise CheckpointError(f"{escaped(state)}: expected a line model_checkpoint_path, got none")
    prefix = os.fsdecode(ESCAPE.sub(_unescaped_byte, match[1]))
    if len(prefix) > MAX_PATH_BYTES or "\0" in prefix:
        raise CheckpointError(f"{escaped(state)}: expected a path, got {quoted(prefix)}")
    candidates = [os.path.join(folder, prefix), os.path.join(folder, os.path.basename(prefix))]
    for candidate in candidates:
        if os.path.isfile(index_file(candidate)):
            return candidate
    for candidate in candidates:
        _refuse_without_index(candidate, candidate)
    raise FileNotFoundError(
        f"{escaped(state)} names {quoted(prefix)}, but there is no .index{_nearby(folder)}"
    )


def _unescaped_byte(escape: re.Match[bytes]) -> bytes:
    """The byte that an escape sequence of the state file stands for."""
    return escape[2] or bytes([int(escape[1], 8) & 255])


def _nearby(folder: str) -> str:
    """The end of an error message: a list of the checkpoints in a folder and its subfolders."""
    patterns = (os.path.join(glob.escape(folder), inner, "*.index") for inner in ("", "*"))
    prefixes = sorted(without_suffix(file) for each in patterns for file in glob.glob(each))
    return f"; there are {prefixes[:8]}" if prefixes else ""
