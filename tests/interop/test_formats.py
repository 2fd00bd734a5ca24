"""Parts of TensorFlow's file formats: checksums, Snappy, varints, protocol buffer messages."""

import numpy as np
import pytest
from bundles import EVERY_DTYPE, assert_same, load

from jax_dynrnn.interop import checkpoint
from jax_dynrnn.interop._formats import table
from jax_dynrnn.interop._formats.budget import Budget
from jax_dynrnn.interop._formats.crc32c import BLOCK, POLYNOMIAL, crc32c, masked
from jax_dynrnn.interop._formats.error import CheckpointError
from jax_dynrnn.interop._formats.snappy import decompress as budgeted_decompress
from jax_dynrnn.interop._formats.tensors import read_strings
from jax_dynrnn.interop._formats.wire import Message, field, to_varint, varint


def decompress(data):
    return budgeted_decompress(data, Budget(len(data)))


def integers(data):
    return Message(data).integers(1, np.int64, Budget(len(data))).tolist()


@pytest.mark.parametrize(("data", "expected"), [
    (b"", 0), (b"123456789", 0xE3069283), (bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E), (bytes(range(31, -1, -1)), 0x113FDB5C),
])  # fmt: skip
def test_checksums_of_the_standard(data, expected):
    """CRC-32C of the examples in RFC 3720, B.4."""
    assert crc32c(data) == expected


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 8, 1000, 4 * BLOCK + 3, 12 * BLOCK + 6])
def test_checksums_by_single_bits(size):
    """CRC-32C agrees with its definition by long division, for all kinds of sizes."""
    data = np.random.default_rng(size).bytes(min(size, 1000))
    data += bytes(size - len(data))
    remainder = 0xFFFFFFFF
    for octet in data[:1000]:
        remainder ^= octet
        for _ in range(8):
            remainder = remainder >> 1 ^ (POLYNOMIAL if remainder & 1 else 0)
    table = [crc_of_byte(octet) for octet in range(256)]
    for _ in range(size - min(size, 1000)):
        remainder = table[remainder & 255] ^ remainder >> 8
    assert crc32c(data) == crc32c(np.frombuffer(data, np.uint8)) == remainder ^ 0xFFFFFFFF


def crc_of_byte(octet):
    for _ in range(8):
        octet = octet >> 1 ^ (POLYNOMIAL if octet & 1 else 0)
    return octet


def compress(data):
    """A small Snappy compressor, with all three kinds of copies and both kinds of literals."""
    out, literal, at, last_position = to_varint(len(data)), b"", 0, {}
    while at < len(data):
        start = last_position.get(data[at : at + 4], at)
        last_position[data[at : at + 4]] = at
        length = 0
        while length < 60 and at + length < len(data) and data[start + length] == data[at + length]:
            length += 1
        if start == at or length < 4:
            literal, at = literal + data[at : at + 1], at + 1
            continue
        out += as_literal(literal) + as_copy(at - start, length)
        literal, at = b"", at + length
    return out + as_literal(literal)


def as_literal(data):
    if not data:
        return b""
    size = len(data) - 1
    extra = b"" if size < 60 else size.to_bytes(1 + (size > 255), "little")
    return bytes([(size if size < 60 else 59 + len(extra)) << 2]) + extra + data


def as_copy(offset, length):
    if length < 12 and offset < 2048:
        return bytes([offset >> 8 << 5 | length - 4 << 2 | 1, offset & 255])
    kind, size = (2, 2) if length % 2 and offset < 1 << 16 else (3, 4)
    return bytes([length - 1 << 2 | kind]) + offset.to_bytes(size, "little")


def test_snappy_blocks(load_oracle, tmp_path, monkeypatch):
    """An index with compressed blocks, which TensorFlow can read, is read."""
    tf, sealed = load_oracle("tensorflow"), table.sealed
    written = []

    def compressed(content):
        written.append((content, compress(content)))
        return sealed(written[-1][1], table.SNAPPY)

    monkeypatch.setattr(table, "sealed", compressed)
    names = {f"{name}/{i}": array for i in range(30) for name, array in EVERY_DTYPE.items()}
    checkpoint.write_checkpoint(tmp_path / "model", names)
    assert len(written[0][1]) < len(written[0][0]) / 2
    assert_same(load(tf, tmp_path / "model"), names)
    assert_same(dict(checkpoint.read_checkpoint(tmp_path / "model")), names)


def test_snappy_decompression():
    """Round trips, known bytes, and damaged data, which gives errors or a bounded output."""
    random = np.random.default_rng(0)
    data = b"abcabcabcabcabcabcabc" + random.bytes(70) + random.bytes(300) + b"a" * 100
    assert decompress(compress(data)) == data
    assert decompress(b"\x05\x10hello") == b"hello"
    assert decompress(b"\x0a\x00a\x15\x01") == b"a" * 10  # a copy with offset 1 repeats a byte
    for wrong in (
        b"\x05\x10hell",
        b"\x04\x10hell",
        b"\x02\x10hello",
        b"\x09\x00a\x11\x02",
        b"\x09\x00a\x11",
        b"",
    ):
        with pytest.raises(CheckpointError):
            decompress(wrong)
    for _ in range(200):
        wrong = bytearray(compress(data))
        wrong[random.integers(len(wrong))] ^= 1 << int(random.integers(8))
        try:
            assert len(decompress(bytes(wrong))) <= 1 << 21
        except CheckpointError:
            pass


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 2**31, 2**63 - 1, -1, -(2**63)])
def test_integers(load_oracle, value):
    """Packed and unpacked integers are read as TensorFlow writes them in an Int64List."""
    tf = load_oracle("tensorflow")
    written = tf.train.Feature(int64_list={"value": [value, 7]}).int64_list.SerializeToString()
    assert integers(written) == [value, 7]  # packed
    assert integers(field(1, value) + field(1, 7)) == [value, 7]
    assert varint(to_varint(value), 0) == (value, len(to_varint(value)))
    assert written.endswith(to_varint(value) + b"\x07")


@pytest.mark.parametrize(("data", "text"), [
    (b"\x08", "an integer at byte 1, got the end"),
    (b"\x08" + b"\xff" * 11, "an integer of at most 10 bytes"),
    (b"\x0a\x05abc", "expected 5 bytes at byte 2, got 3"),
    (b"\x0d\x00", "expected 4 bytes at byte 1, got 1"),
    (b"\x0a" + to_varint(-1), "expected -1 bytes"),
    (b"\x0b", "one of type 3"),
    (b"\x0a\x01a", "field 1: expected wire type 0, got 2"),
])  # fmt: skip
def test_invalid_messages(data, text):
    """Truncated and malformed protocol buffer messages raise `CheckpointError`."""
    with pytest.raises(CheckpointError, match=text):
        Message(data).integer(1)


def test_invalid_floats_strings_and_entries():
    """Values of impossible sizes, and entries with impossible prefixes, are refused."""
    with pytest.raises(CheckpointError, match="field 5: expected float32, got 5 bytes"):
        Message(field(5, b"12345")).floats(5, np.dtype("float32"), Budget(0))
    with pytest.raises(CheckpointError, match="expected 2 strings in 15 bytes"):
        read_strings(to_varint(-1) + to_varint(1) + bytes(4), 2)
    with pytest.raises(CheckpointError, match="an entry before byte 3"):
        # The first entry claims to share a prefix with one before it.
        list(table.block_entries(b"\x01\x01\x00a" + bytes(4), Budget(8)))


def test_masked_checksums_agree_with_tensorflow(load_oracle, tmp_path):
    """The masked checksums in a TFRecord file are those that we compute."""
    tf = load_oracle("tensorflow")
    with tf.io.TFRecordWriter(str(tmp_path / "record")) as writer:
        writer.write(b"123456789")
    written = (tmp_path / "record").read_bytes()
    assert written[8:12] == masked(crc32c(written[:8])).to_bytes(4, "little")
    assert written[-4:] == masked(0xE3069283).to_bytes(4, "little")
