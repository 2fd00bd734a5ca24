"""Files made to exhaust memory or time are refused, or read within the caps."""

import functools
import io
import os
import struct
import zipfile

import numpy as np
import pytest
from caps import MEBIBYTE, address_space, capped

from jax_dynrnn.interop import checkpoint
from jax_dynrnn.interop._formats import budget
from jax_dynrnn.interop._formats.crc32c import crc32c, masked
from jax_dynrnn.interop._formats.graph_nodes import read_nodes
from jax_dynrnn.interop._formats.index import HEADER
from jax_dynrnn.interop._formats.npz import read_npz_specs
from jax_dynrnn.interop._formats.slices import slice_key
from jax_dynrnn.interop._formats.table import (
    FOOTER,
    MAGIC,
    SNAPPY,
    TRAILER,
    block,
    sealed,
    write_table,
)
from jax_dynrnn.interop._formats.wire import field, fixed32_field, to_varint

SMALL = {"fixed_bytes": 3 * MEBIBYTE}
"""The cap that matches the fixture `small_budget`, which allows test files to be small."""
MANY = 1 << 15
FLOAT, FLOAT_BYTES = field(1, 1), 4
BUNDLE_HEADER = field(1, 1) + field(3, field(1, 1))


@pytest.fixture(autouse=True)
def small_budget(monkeypatch):
    """Reduces the fixed part of the memory budget to 1 MiB."""
    assert budget.FIXED_BYTES <= 48 * MEBIBYTE
    monkeypatch.setattr(budget, "FIXED_BYTES", MEBIBYTE)


def shape_field(*shape):
    return field(2, b"".join(field(2, field(1, size)) for size in shape))


def refused(read, path, text, **caps):
    """Asserts that reading raises a `CheckpointError` with the text, within the caps."""
    with capped(os.path.getsize(path), **SMALL, **caps):
        with pytest.raises(checkpoint.CheckpointError, match=text):
            read(path)


# Frozen graphs


def constant(name, value, *, attributes=b""):
    attribute = field(1, b"value") + field(2, field(8, value))
    return field(1, field(1, name) + field(2, b"Const") + field(5, attribute) + attributes)


def graph(tmp_path, content):
    path = tmp_path / "graph.pb"
    path.write_bytes(content)
    return path


def two_floats(*shape):
    """A tensor of two float values, of which the second is repeated to fill the shape."""
    return FLOAT + shape_field(*shape) + field(5, np.float32([1, 2]).tobytes())


NESTED = functools.reduce(lambda message, _: field(1, message), range(5000), b"")
GRAPHS = {
    "one value for 2 GiB": (constant(b"w", two_floats((1 << 29) - 1)), "bytes of memory"),
    "many constants": (
        b"".join(constant(b"w%d" % i, two_floats(1 << 16)) for i in range(100)),
        "bytes of memory",
    ),
    "more values than its shape": (
        constant(b"w", field(1, 9) + shape_field(2) + field(10, b"\1" * 16 * MANY)),
        "bytes of memory",
    ),
    "axes": (
        constant(b"w", FLOAT + field(2, field(2, b"") * MANY)),
        "a shape that NumPy can hold",
    ),
    "attributes": (
        constant(
            b"w", b"", attributes=b"".join(field(5, field(1, b"%d" % i)) for i in range(9999))
        ),
        "TensorFlow's number 0",
    ),
    "small constants": (b"".join(constant(b"%d" % i, FLOAT) for i in range(4000)), "of memory"),
    "nodes": (field(1, b"") * MANY, "constants, got none"),
    "fields": (b"".join(field(20 + i, 0) for i in range(MANY)), "constants, got none"),
    "messages in messages": (NESTED, "constants, got none"),
    "a long name": (constant(b"\1" * 16 * MANY, field(1, 99)), "TensorFlow's number 99"),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_hostile_graphs_are_refused(tmp_path, name):
    """Graphs that would need much memory are refused, within the caps."""
    content, text = GRAPHS[name]
    refused(checkpoint.read_graph_def, graph(tmp_path, content), text)


def test_a_constant_of_one_value_is_a_view(tmp_path):
    """1000 constants of 1 GiB with one value each are read in little memory, as broadcasts."""
    value = FLOAT + shape_field(1 << 28) + field(5, np.float32(3).tobytes())
    content = b"".join(constant(b"w%d" % i, value) for i in range(1000))
    path = graph(tmp_path, content)
    with capped(len(content), **SMALL):
        found = checkpoint.read_graph_def(path)
    assert len(found) == 1000
    assert all(x.shape == (1 << 28,) and x[0] == x[-1] == 3 for x in found.values())


@pytest.mark.parametrize("dtype, number, field_number", [
    ("int64", 9, 10), ("int8", 6, 7), ("float16", 19, 13),
])  # fmt: skip
def test_integers_are_read_in_place(tmp_path, dtype, number, field_number):
    """Integers are decoded into the array, without a list of Python objects."""
    count = MANY
    integers = b"".join(field(field_number, i & 127) for i in range(count // 2))
    integers += field(field_number, bytes(range(128)) * (count // 256))
    path = graph(tmp_path, constant(b"w", field(1, number) + shape_field(count) + integers))
    with capped(path.stat().st_size, count * np.dtype(dtype).itemsize, **SMALL):
        found = checkpoint.read_graph_def(path)["w"]
    assert found.dtype == dtype and found.shape == (count,)
    read = found.view(np.uint16) if dtype == "float16" else found
    np.testing.assert_array_equal(read, (np.arange(count) % 128).astype(read.dtype))


def test_floats_are_read_in_place(tmp_path):
    """Floats in separate fields are decoded into the array."""
    expected = np.arange(MANY, dtype=np.float32)
    values = b"".join(fixed32_field(5, int(x)) for x in expected.view(np.uint32))
    path = graph(tmp_path, constant(b"w", FLOAT + shape_field(MANY) + values))
    with capped(path.stat().st_size, **SMALL):
        found = checkpoint.read_graph_def(path)["w"]
    np.testing.assert_array_equal(found, expected)


def test_a_sparse_graph_is_refused(tmp_path):
    """A sparse file of 1 TiB is refused without reading it."""
    path = tmp_path / "graph.pb"
    with open(path, "wb") as file:
        file.truncate(1 << 40)
    with (
        capped(0, **SMALL),
        pytest.raises(checkpoint.CheckpointError, match="a GraphDef of at most"),
    ):
        checkpoint.read_graph_def(path)


# Indexes


def read_all(path):
    return dict(checkpoint.read_checkpoint(path))


def entry(shared, own, value):
    return to_varint(shared) + to_varint(len(own)) + to_varint(len(value)) + own + value


def one_restart(*entries):
    return b"".join(entries) + bytes(4) + (1).to_bytes(4, "little")


def table(*blocks, handles=None, index=block):
    """A table file of sealed blocks, with an index of them, or of `handles`."""
    data, offsets = b"", []
    for each in blocks:
        offsets.append(to_varint(len(data)) + to_varint(len(each) - TRAILER))
        data += each
    handles = offsets if handles is None else handles(offsets)
    written = sealed(index((b"%08d" % i, handle) for i, handle in enumerate(handles)))
    footer = to_varint(0) * 2 + to_varint(len(data)) + to_varint(len(written) - TRAILER)
    return data + written + footer.ljust(FOOTER - len(MAGIC), b"\0") + MAGIC


def bundle(tmp_path, index, data=b""):
    (tmp_path / "model.index").write_bytes(index)
    (tmp_path / "model.data-00000-of-00001").write_bytes(data)
    return tmp_path / "model.index"


PREFIX = b"a" * MANY
FIRST = entry(0, b"", BUNDLE_HEADER)


def as_key(i):
    return i.to_bytes(3, "big")


def long_keys():
    keys = [entry(MANY, as_key(i), FLOAT) for i in range(1, 2000)]
    return one_restart(FIRST, entry(0, PREFIX, FLOAT), *keys)


def small_entries():
    shared = [0 if i % 256 == 0 else 2 for i in range(MANY // 2)]
    return one_restart(FIRST, *[entry(n, as_key(i)[n:], b"") for i, n in enumerate(shared)])


def long_index(handles):
    """An index block whose keys share a long prefix."""
    (_, handle), *_ = handles
    keys = [entry(MANY, as_key(i), handle) for i in range(1, 2000)]
    return one_restart(entry(0, PREFIX, handle), *keys)


def zeros(size):
    """A block of zeros, compressed 64 bytes to 3 by copies of Snappy."""
    return sealed(to_varint(size + 1) + b"\0\0" + b"\xfe\1\0" * (size // 64), SNAPPY)


def in_table(**entries):
    return write_table({HEADER: BUNDLE_HEADER} | {k.encode(): v for k, v in entries.items()})


ENTRIES = sealed(block([(HEADER, BUNDLE_HEADER), *((b"%06d" % i, FLOAT) for i in range(500))]))
TWICE = sealed(block([(HEADER, BUNDLE_HEADER), (b"w", FLOAT), (b"w", FLOAT)]))
INDEXES = {
    "keys with a long prefix": (lambda: table(sealed(long_keys())), "bytes of memory"),
    "an index with a long prefix": (lambda: table(ENTRIES, index=long_index), "the next block at"),
    "small entries": (lambda: table(sealed(small_entries())), "bytes of memory"),
    "one block many times": (
        lambda: table(ENTRIES, handles=lambda offsets: offsets * 20_000),
        "expected the next block at byte",
    ),
    "one key twice": (lambda: table(TWICE), "expected a key above b'w', got b'w'"),
    "snappy that says it is large": (
        lambda: table(sealed(to_varint(1 << 40) + b"\0\0", SNAPPY)),
        "bytes of memory",
    ),
    "snappy that is large": (lambda: table(zeros(8 * MEBIBYTE)), "bytes of memory"),
    "snappy that is larger than it says": (
        lambda: table(sealed(zeros(8 * MEBIBYTE)[4:-TRAILER].join([to_varint(9), b""]), SNAPPY)),
        "expected 9 bytes compressed",
    ),
    "extents": (
        lambda: in_table(w=FLOAT + field(7, field(1, b"") * MANY)),
        r"a slice at \[\(0, -1\), .*got none",
    ),
    "slices": (lambda: in_table(w=FLOAT + field(7, b"") * MANY), r"a slice at \[\], got none"),
}


@pytest.mark.parametrize("name", INDEXES)
def test_hostile_indexes_are_refused(tmp_path, name):
    """Indexes that would need much memory or time are refused, within the caps."""
    content, text = INDEXES[name]
    refused(read_all, bundle(tmp_path, content()), text)


def compressed_block(key, value, repeated):
    """A compressed block with one entry, whose value is repeated by copies of 64 bytes."""
    size = len(value) + 64 * repeated
    head = to_varint(0) + to_varint(len(key)) + to_varint(size) + key + value
    tail = bytes(4) + (1).to_bytes(4, "little")
    literals = [bytes([len(x) - 1 << 2]) + x for x in (head, tail)]
    length = len(head) + 64 * repeated + len(tail)
    return sealed(to_varint(length) + literals[0] + b"\xfe\1\0" * repeated + literals[1], SNAPPY)


def test_compressed_blocks_share_a_budget(tmp_path):
    """Many blocks, each of which is small enough alone, are refused together."""
    first = sealed(block([(HEADER, BUNDLE_HEADER)]))
    blocks = [compressed_block(b"%03d" % i, b"\x42" * 4, 17 * 100 + 1) for i in range(40)]
    path = bundle(tmp_path, table(first, *blocks[:3]))
    assert len(checkpoint.read_checkpoint(path)) == 3
    refused(read_all, bundle(tmp_path, table(first, *blocks)), "bytes of memory")


def tensor(shape, offset, size, checksum=0):
    return (
        FLOAT + shape_field(*shape) + field(4, offset) + field(5, size) + fixed32_field(6, checksum)
    )


def extents_field(*extents):
    return field(7, b"".join(field(1, field(1, a) + field(2, n)) for a, n in extents))


def test_a_slice_that_is_listed_twice_is_refused(tmp_path):
    """A variable that lists the same slice 2000 times is refused."""
    data = bytes(MANY)
    rows = len(data) // FLOAT_BYTES
    extent = (0, rows)
    whole = FLOAT + shape_field(2000 * rows) + extents_field(extent) * 2000
    index = write_table({
        HEADER: BUNDLE_HEADER, b"w": whole,
        slice_key("w", [extent]): tensor((rows,), 0, len(data), masked(crc32c(data))),
    })  # fmt: skip
    path = bundle(tmp_path, index, data)
    with capped(len(index) + len(data), **SMALL):
        with pytest.raises(checkpoint.CheckpointError, match="twice"):
            read_all(path)


def test_a_slice_that_claims_to_be_large_is_refused(tmp_path):
    """A slice whose shape exceeds its bytes is refused before it is allocated."""
    many = 1 << 40
    index = write_table({
        HEADER: BUNDLE_HEADER, b"w": FLOAT + shape_field(many) + extents_field((0, many)),
        slice_key("w", [(0, many)]): tensor((many,), 0, 0, masked(0)),
    })  # fmt: skip
    refused(read_all, bundle(tmp_path, index), r"expected float32 \[1099511627776\], got 0 bytes")


def test_slices_of_another_dtype_are_refused(tmp_path):
    """A slice must have the dtype of its variable."""
    index = write_table({
        HEADER: BUNDLE_HEADER, b"w": FLOAT + shape_field(1) + extents_field((0, 1)),
        slice_key("w", [(0, 1)]): field(1, 7) + shape_field(1) + field(5, 6),
    })  # fmt: skip
    refused(read_all, bundle(tmp_path, index, b"\1....a"), "a slice of float32, got another")


def test_tensors_that_share_bytes_are_refused(tmp_path):
    """Otherwise a small file could describe many large arrays."""
    index = write_table({HEADER: BUNDLE_HEADER} | {
        b"w%04d" % i: tensor((MANY // 4 - i,), 4 * i, MANY - 4 * i) for i in range(2000)
    })  # fmt: skip
    refused(read_all, bundle(tmp_path, index, bytes(MANY)), "two that share bytes")


def sparse(path, size):
    with open(path, "r+b") as file:
        file.truncate(size)


def test_a_sparse_data_file(tmp_path):
    """In a sparse data file, a small tensor is read, and one of its whole size is refused."""
    size, checksum = 1 << 40, masked(crc32c(bytes(8)))
    index = write_table({
        HEADER: BUNDLE_HEADER, b"all": tensor((size // 4 - 2,), 8, size - 8),
        b"first": tensor((2,), 0, 8, checksum),
    })  # fmt: skip
    path = bundle(tmp_path, index)
    sparse(tmp_path / "model.data-00000-of-00001", size)
    with capped(len(index), **SMALL):
        found = checkpoint.read_checkpoint(path)
        assert found["first"].tolist() == [0, 0]
        assert found.spec("all").shape == (size // 4 - 2,)
    with address_space(MEBIBYTE):
        with pytest.raises(checkpoint.CheckpointError, match="'all': needs more memory than there"):
            found["all"]


def test_a_sparse_index(tmp_path):
    """Only the footer and the blocks that it points to are read, not the hole between them."""
    end = table(ENTRIES)
    path = bundle(tmp_path, end)
    sparse(path, 1 << 40)
    with (
        capped(0, **SMALL),
        pytest.raises(checkpoint.CheckpointError, match="expected a table, which ends"),
    ):
        read_all(path)
    with open(path, "ab") as file:
        file.write(end[-FOOTER:])
    with capped(0, **SMALL):
        assert len(checkpoint.read_checkpoint(path)) == 500


def test_a_sparse_state_file_is_refused(tmp_path):
    """A sparse state file of 1 TiB is refused without reading it."""
    (tmp_path / "checkpoint").write_bytes(b"")
    sparse(tmp_path / "checkpoint", 1 << 40)
    with (
        capped(0, **SMALL),
        pytest.raises(checkpoint.CheckpointError, match="model_checkpoint_path"),
    ):
        read_all(tmp_path)


# Archives of NumPy


def archive(path, members, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def npy(shape, dtype="<f4", data=None):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": dtype, "fortran_order": False, "shape": shape}
    )
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return file.getvalue() + (bytes(size) if data is None else data)


def test_specs_of_archives_need_no_decompression(tmp_path):
    """Shapes are read from the headers of members, without decompressing their data."""
    shape = (16 * MEBIBYTE,)
    path = archive(tmp_path / "zeros.npz", {"a.npy": npy(shape), "b.npy": npy((2, 3))})
    with capped(path.stat().st_size, **SMALL):
        found = read_npz_specs(str(path))
    assert {name: spec.shape for name, spec in found.items()} == {"a": shape, "b": (2, 3)}


def large_header():
    """An .npy header of 32 MiB, which is small when compressed."""
    return b"\x93NUMPY\2\0" + struct.pack("<I", 32 * MEBIBYTE) + b" " * 32 * MEBIBYTE


STORED, DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED
ARCHIVES = {
    "a long header": (lambda: {"a.npy": large_header()}, DEFLATED, "damaged one"),
    "bzip2": (lambda: {"a.npy": npy((2,))}, zipfile.ZIP_BZIP2, "compression 0 or 8, got 12"),
    "truncated": (lambda: {"a.npy": npy((2,), data=b"")}, STORED, r"bytes for float32 \[2\], got"),
    "many members": (lambda: {f"{i}": b"" for i in range(7000)}, STORED, "a list of members"),
    "objects": (lambda: {"a.npy": npy((0,), "|O")}, STORED, "pickled objects"),
    "no array": (lambda: {"a.txt": b""}, STORED, "'a.txt': expected an array"),
    "a shape": (lambda: {"a.npy": npy((1 << 62, 0))}, STORED, "that NumPy can hold"),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_hostile_archives_are_refused(tmp_path, name):
    """Archives with large headers, other compressions, objects or many members are refused."""
    members, compression, text = ARCHIVES[name]
    path = archive(tmp_path / "a.npz", members(), compression)
    refused(lambda path: read_npz_specs(str(path), max_read_bytes=3 * MANY), path, text)


def test_an_archive_that_claims_to_be_large_is_refused(tmp_path):
    """The claimed size of a member is limited by what its compressed bytes can expand to."""
    path = archive(tmp_path / "a.npz", {"a.npy": npy((1 << 38,), data=b"")})
    size = len(npy((1 << 38,), data=b""))
    content = path.read_bytes()
    claimed = struct.pack("<I", (1 << 32) - 2)
    path.write_bytes(content.replace(struct.pack("<I", size), claimed))
    assert path.read_bytes() != content
    refused(lambda path: read_npz_specs(str(path)), path, "compressed bytes to hold those")


@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_damaged_archives(tmp_path, damage):
    """A flipped byte or a truncation at any position raises `CheckpointError` only."""
    path = tmp_path / "a.npz"
    np.savez_compressed(path, kernel=np.arange(40.0), bias=np.ones(3))
    content, outcomes = path.read_bytes(), set()
    expected = read_npz_specs(str(path))
    for at in range(len(content)):
        flipped = content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]
        path.write_bytes(content[:at] if damage == "cut" else flipped)
        try:
            outcomes.add(read_npz_specs(str(path)) == expected)
        except checkpoint.CheckpointError as error:
            assert str(error).startswith(f"{path}: ")
            outcomes.add("error")
    assert "error" in outcomes


# What is not a regular file


READERS = {
    "checkpoint": (checkpoint.read_checkpoint, "model"),
    "index": (lambda path: checkpoint.read_checkpoint(path.with_suffix("")), "model.index"),
    "graph": (checkpoint.read_graph_def, "model.pb"),
    "archive": (lambda path: read_npz_specs(str(path)), "model.npz"),
}


@pytest.mark.parametrize("reader", READERS)
def test_pipes_are_refused(tmp_path, reader):
    """Readers refuse a pipe instead of waiting for data."""
    read, name = READERS[reader]
    os.mkfifo(tmp_path / name)
    with capped(0, **SMALL, seconds=2):
        with pytest.raises(checkpoint.CheckpointError, match="expected a file, got a pipe"):
            read(tmp_path / name)


@pytest.mark.parametrize("reader", ["checkpoint", "graph", "archive"])
def test_devices_are_refused(reader):
    """Readers refuse a device, whose data never end."""
    with capped(0, **SMALL, seconds=2):
        with pytest.raises(checkpoint.CheckpointError, match="or a device"):
            READERS[reader][0](os.path.join("/dev", "zero"))


def function(name, *called, count=1):
    """A function of a graph that calls others, each several times."""
    calls = [
        field(1, b"call_%d_%d" % (i, j)) + field(2, b"While") + field(3, b"x") + body(other)
        for j, other in enumerate(called)
        for i in range(count)
    ]
    signature = field(1, field(1, name) + field(2, field(1, b"x")))
    return field(1, signature + b"".join(field(3, call) for call in calls))


def body(name):
    return field(5, field(1, b"body") + field(2, field(10, field(1, name))))


START = field(1, field(1, b"loop") + field(2, b"While") + field(3, b"x") + body(b"f0"))
LIBRARIES = {
    "a function that calls itself": function(b"f0", b"f0", count=50),
    "functions that call the next": b"".join(
        function(b"f%d" % i, b"f%d" % (i + 1), count=9) for i in range(200)
    ),
    "nested": b"".join(function(b"f%d" % i, b"f%d" % (i + 1)) for i in range(3000)),
    "many functions": b"".join(function(b"f%d" % i) for i in range(3000)),
}


@pytest.mark.parametrize("name", LIBRARIES)
def test_functions_that_call_each_other(tmp_path, name):
    """The functions of a graph are read once, whatever calls them."""
    path = graph(tmp_path, START + field(2, LIBRARIES[name]))
    with capped(os.path.getsize(path), fixed_bytes=16 * MEBIBYTE):
        try:
            assert len(read_nodes(path, ("MatMul",))) < 10_000
        except checkpoint.CheckpointError as error:
            assert "expected fewer" in str(error)
