"""A damaged checkpoint gives a `CheckpointError` or the right arrays, in little memory."""

import io
import shutil
import tracemalloc

import numpy as np
import pytest
from bundles import assert_same, random_array

from jax_dynrnn.interop import checkpoint
from jax_dynrnn.interop._formats.budget import Budget
from jax_dynrnn.interop._formats.crc32c import masked
from jax_dynrnn.interop._formats.index import HEADER
from jax_dynrnn.interop._formats.slices import slice_key
from jax_dynrnn.interop._formats.table import block, write_table
from jax_dynrnn.interop._formats.table import block_entries as budgeted_entries
from jax_dynrnn.interop._formats.table import read_table as table_entries
from jax_dynrnn.interop._formats.wire import field, fixed32_field

DTYPES = ("float32", "int64", "bfloat16", "bool", "object")
ARRAYS = {f"rnn/cell_{i}/{name}": random_array(name) for i in range(4) for name in DTYPES}
SLICED, EXTENTS = "rnn/cell_0/float32", [[(0, 2), (0, 5)], [(2, 1), (0, 5)]]
"""A variable that is stored in two slices, and their extents."""
MAX_MEMORY = 1 << 20  # bytes; the arrays have 9 kB
INDEX, DATA = "model.index", "model.data-00000-of-00001"


def read_table(content):
    return dict(table_entries(io.BytesIO(content)))


def block_entries(content):
    return budgeted_entries(content, Budget(len(content)))


def shape_field(*shape):
    return field(2, b"".join(field(2, field(1, size)) for size in shape))


def slice_field(extents):
    bounds = (field(1, field(1, start) + field(2, length)) for start, length in extents)
    return field(7, b"".join(bounds))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A checkpoint with one variable in two slices."""
    folder = tmp_path_factory.mktemp("written")
    parts = [ARRAYS[SLICED][:2], ARRAYS[SLICED][2:]]
    checkpoint.write_checkpoint(
        folder / "model", {**ARRAYS, "part_0": parts[0], "part_1": parts[1]}
    )
    table = read_table((folder / INDEX).read_bytes())
    slices = b""
    for i, extent in enumerate(EXTENTS):
        table[slice_key(SLICED, extent)] = table.pop(f"part_{i}".encode())
        slices += slice_field(extent)
    table[SLICED.encode()] += slices
    (folder / INDEX).write_bytes(write_table(table))
    assert_same(dict(checkpoint.read_checkpoint(folder / "model")), ARRAYS)
    return folder


def damaged(random, content):
    """The content with a flipped bit, or bytes changed, truncated, removed, doubled or appended."""
    at = int(random.integers(len(content)))
    end = at + int(random.integers(1, 9))
    flipped = bytes([content[at] ^ 1 << int(random.integers(8))])
    return {
        "flip": content[:at] + flipped + content[at + 1 :],
        "change": content[:at] + random.bytes(len(content[at:end])) + content[end:],
        "cut": content[:at],
        "lose": content[:at] + content[end:],
        "double": content[:end] + content[at:],
        "add": content + content[at:end],
    }[random.choice(["flip", "flip", "change", "cut", "lose", "double", "add"])]


def outcome(read):
    """The result of `read`, or the text of its error; asserts that it takes little memory."""
    tracemalloc.start()
    try:
        return read()
    except checkpoint.CheckpointError as error:
        return str(error)
    finally:
        assert tracemalloc.get_traced_memory()[1] < MAX_MEMORY
        tracemalloc.stop()


@pytest.fixture
def copied(written, tmp_path):
    """A copy of the checkpoint that a test may damage."""
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.mark.parametrize("file", [INDEX, DATA])
def test_damage_is_an_error_or_harmless(copied, file):
    """Each of 200 random damages is an error that names the file or variable, or has no effect."""
    errors, content, random = 0, (copied / file).read_bytes(), np.random.default_rng(0)
    for _ in range(200):
        (copied / file).write_bytes(damaged(random, content))
        found = outcome(lambda: dict(checkpoint.read_checkpoint(copied / "model")))
        if isinstance(found, str):
            assert file in found or "variable 'rnn" in found, found
            errors += 1
        else:
            assert_same(found, ARRAYS)
    assert 150 < errors < 200  # appended bytes, and a few bytes of the footer, have no effect


def test_damage_with_valid_checksums_raises_no_other_error(copied):
    """Entries damaged before checksums are computed, as by a faulty writer."""
    errors, random = 0, np.random.default_rng(1)
    table = read_table((copied / INDEX).read_bytes())
    for _ in range(200):
        key = sorted(table)[random.integers(len(table))]
        faulty = {**table, key: damaged(random, table[key])}
        if random.integers(4) == 0:
            faulty[damaged(random, b"\0" + key)] = faulty.pop(key)
        (copied / INDEX).write_bytes(write_table(faulty))
        errors += isinstance(
            outcome(lambda: dict(checkpoint.read_checkpoint(copied / "model"))), str
        )
    assert 100 < errors < 200


def test_a_damaged_block_raises_no_other_error():
    """Entries of a damaged block are read, or raise `CheckpointError`."""
    content = block((name.encode(), b"value") for name in ARRAYS)
    assert dict(block_entries(content)) == {name.encode(): b"value" for name in ARRAYS}
    random = np.random.default_rng(2)
    outcomes = [outcome(lambda: list(block_entries(damaged(random, content)))) for _ in range(200)]
    assert 100 < sum(isinstance(found, str) for found in outcomes) < 200


def test_undamaged_variables_are_read(copied):
    """Variables are read on access, and an error names the one that is damaged."""
    content = (copied / DATA).read_bytes()
    found = checkpoint.read_checkpoint(copied / "model")
    (copied / DATA).write_bytes(content[:-1])
    assert_same({"": found["rnn/cell_1/bool"]}, {"": ARRAYS["rnn/cell_1/bool"]})
    with pytest.raises(checkpoint.CheckpointError, match="cell_0/float32': .* file of .*truncated"):
        found[SLICED]  # its slices are the last in the file
    first = 3 * 5 * 4  # the byte after the first variable, which its slices replace
    (copied / DATA).write_bytes(
        content[:first] + bytes([content[first] ^ 1]) + content[first + 1 :]
    )
    with pytest.raises(checkpoint.CheckpointError, match="cell_0/int64': .*checksum .*: corrupt"):
        found["rnn/cell_0/int64"]
    assert_same({"": found[SLICED]}, {"": ARRAYS[SLICED]})


FLOAT = field(1, 1)
FAULTS = {
    "expected a header": {HEADER: None},
    "little-endian machine": {HEADER: field(1, 1) + field(2, 1)},
    "format version 1, got a later one": {HEADER: field(1, 1) + field(3, field(2, 2))},
    r"tensors in 0 data files, got \[0\]": {HEADER: b""},
    "a name in UTF-8": {b"\xff": b""},
    "a shape that is known": {b"w": FLOAT + field(2, field(3, 1))},  # of unknown rank
    r"a shape that is known, got \[-1\]": {b"w": FLOAT + shape_field(-1)},
    r"a shape that NumPy can hold, got \[1, 1": {b"w": FLOAT + shape_field(*[1] * 65)},
    f"a shape that NumPy can hold, got .0, {1 << 62}": {b"w": FLOAT + shape_field(0, 1 << 62)},
    "TensorFlow's number 99": {b"w": field(1, 99)},
    r"expected float32 \[2\], got 0 bytes": {b"w": FLOAT + shape_field(2)},
    r"a slice at \[\(0, 2\), \(0, 5\)\], got none": {slice_key(SLICED, EXTENTS[0]): None},
    r"one slice at \[\(0, 2\), \(0, 5\)\], got it twice": {
        SLICED.encode(): FLOAT + shape_field(3, 5) + slice_field(EXTENTS[0]) * 2
    },
    rf"its 1 slices do not fill \[{1 << 40}\]": {
        b"w": FLOAT + shape_field(1 << 40) + slice_field([(0, 0)]),
        slice_key("w", [(0, 0)]): FLOAT + shape_field(0) + fixed32_field(6, masked(0)),
    },
    r"a slice of \[0\], got \[1, 0\] at \[\(0, 0\)\]": {
        b"w": FLOAT + shape_field(0) + slice_field([(0, 0)]),
        slice_key("w", [(0, 0)]): FLOAT + shape_field(1, 0) + fixed32_field(6, masked(0)),
    },
    r"a slice of \[0\], got one at \[\(0, 0\), \(0, 0\)\]": {
        b"w": FLOAT + shape_field(0) + slice_field([(0, 0)] * 2),
        slice_key("w", [(0, 0)] * 2): FLOAT + shape_field(0) + fixed32_field(6, masked(0)),
    },
}
"""Error messages, and the index entries that are replaced to cause them."""


@pytest.mark.parametrize("text", FAULTS)
def test_error_messages(copied, text):
    """Each fault in the index raises the error that names it."""
    table = {**read_table((copied / INDEX).read_bytes()), **FAULTS[text]}
    table = {key: value for key, value in table.items() if value is not None}
    (copied / INDEX).write_bytes(write_table(table))
    with pytest.raises(checkpoint.CheckpointError, match=text):
        dict(checkpoint.read_checkpoint(copied / "model"))
