"""Which files a checkpoint is made of."""

from __future__ import annotations

import glob
import os
import re
import stat
from typing import BinaryIO

from .._escape import escaped, quoted
from .error import CheckpointError
from .table import MAGIC

STATE = "checkpoint"  # the file in which TensorFlow notes the newest one of a folder
MOST_PATH_BYTES = 4096  # longer ones, no system opens
MOST_STATE_BYTES = 1 << 16  # of the state file, which names the newest in its first line
NAMED = re.compile(rb'^model_checkpoint_path: "((?:[^"\\]|\\.)*)"', re.MULTILINE)
ESCAPE = re.compile(rb"\\(?:([0-7]{1,3})|(.))")  # a byte in octal digits, or one as it is


def index_file(prefix: str) -> str:
    return prefix + ".index"


def data_file(prefix: str, shard: int = 0, shards: int = 1) -> str:
    return f"{prefix}.data-{shard:05d}-of-{shards:05d}"


def without_suffix(path: str | os.PathLike[str]) -> str:
    """The prefix of a checkpoint's files, of which `path` may be one."""
    return re.sub(r"\.(index|meta|data-\d{5}-of-\d{5})$", "", os.fspath(path))


def open_file(path: str | os.PathLike[str]) -> BinaryIO:
    """A file for reading. To open a pipe would wait for a writer, and a device may never end.

    Nothing behind the size of a file may be read: some in Linux' `/proc`, of size 0, never end.
    """
    check_regular(path)
    return open(path, "rb")


def file_size(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


def check_regular(path: str | os.PathLike[str]) -> None:
    """Refuses pipes, sockets and devices; `open` itself refuses a folder."""
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
        return _newest(os.fspath(path))
    _check_not_alone(os.fspath(path), prefix)
    raise FileNotFoundError(
        f"{escaped(index_file(prefix))}: no such file; expected the prefix of a checkpoint's "
        f"files, its .index, or a folder{_nearby(os.path.dirname(prefix))}"
    )


def _check_not_alone(path: str, prefix: str) -> None:
    """Refuses a file without an index."""
    for file in [path, *glob.glob(glob.escape(prefix.split("-?????-of-")[0]) + "-?????-of-?????")]:
        if os.path.isfile(file):
            raise CheckpointError(f"{escaped(file)}: {_why_not(file)}")


def _why_not(file: str) -> str:
    """What to say of a file that stands alone."""
    with open_file(file) as opened:
        size = file_size(opened)
        opened.seek(max(size - len(MAGIC), 0))
        if opened.read(min(size, len(MAGIC))) != MAGIC:
            return "expected a checkpoint, which has an .index beside it, got another file"
    return (
        "a checkpoint of format V1, which this library does not read; tf.train.load_checkpoint of "
        "TensorFlow 2 does, without its graph, and write_checkpoint stores what that reads"
    )


def _newest(folder: str) -> str:
    """What the folder's state file names, beside which it may have been moved; a SavedModel's."""
    state = os.path.join(folder, STATE)
    if not os.path.isfile(state):
        inside = os.path.join(folder, "variables", "variables")  # of a SavedModel
        if os.path.isfile(index_file(inside)):
            return inside
        raise FileNotFoundError(f"{escaped(state)}: no such file{_nearby(folder)}")
    with open_file(state) as opened:
        named = NAMED.search(opened.read(min(file_size(opened), MOST_STATE_BYTES)))
    if not named:
        raise CheckpointError(f"{escaped(state)}: expected a line model_checkpoint_path, got none")
    prefix = os.fsdecode(
        ESCAPE.sub(lambda escape: escape[2] or bytes([int(escape[1], 8) & 255]), named[1])
    )
    if len(prefix) > MOST_PATH_BYTES or "\0" in prefix:
        raise CheckpointError(f"{escaped(state)}: expected a path, got {quoted(prefix)}")
    found = [os.path.join(folder, prefix), os.path.join(folder, os.path.basename(prefix))]
    for candidate in found:
        if os.path.isfile(index_file(candidate)):
            return candidate
    for candidate in found:
        _check_not_alone(candidate, candidate)
    raise FileNotFoundError(
        f"{escaped(state)} names {quoted(prefix)}, but there is no .index{_nearby(folder)}"
    )


def _nearby(folder: str) -> str:
    """A list of the checkpoints in a folder, to choose one from."""
    patterns = (os.path.join(glob.escape(folder), inner, "*.index") for inner in ("", "*"))
    found = sorted(without_suffix(file) for each in patterns for file in glob.glob(each))
    return f"; there are {found[:8]}" if found else ""
