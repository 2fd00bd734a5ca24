"""CRC-32C (Castagnoli), the checksum of LevelDB's tables and of TensorFlow's bundles.

A checksum is the remainder of a polynomial over GF(2), so a message can be folded: what stands
`n` words before the end counts `x^(32 n)` times, and that product is a linear map of 32 bits,
four look-ups of a byte, which NumPy does for a whole block at a time.
"""

from __future__ import annotations

import functools

import numpy as np

from ..._types import Buffer

POLYNOMIAL = 0x82F63B78  # reflected: bit 31 is the coefficient of x^0
BLOCK = 1 << 16  # in words: 256 KiB, which stays in the cache
ONES = 0xFFFFFFFF


def crc32c(data: Buffer) -> int:
    """The checksum of bytes, or of an array of them."""
    octets = np.frombuffer(data, np.uint8)
    remainder, byte_table = ONES, _power(1)[3]
    rest = len(octets) % 4
    for octet in octets[:rest].tolist():
        remainder = int(byte_table[(remainder ^ octet) & 255]) ^ remainder >> 8
    words = octets[rest:].view("<u4")
    return (_fold(words, remainder) if words.size else remainder) ^ ONES


def masked(crc: int) -> int:
    """As files store it: the checksum of data that has checksums in it would be a poor one."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & ONES


def _fold(words: np.ndarray, remainder: int) -> int:
    """The remainder of all words, after what had this one: blocks, then halves, onto each other."""
    size = min(BLOCK, 1 << (len(words) - 1).bit_length())
    first = (len(words) - 1) % size + 1
    block = np.zeros(size, "<u4")  # zeros in front do not count
    block[-first:] = words[:first]
    block[-first] ^= remainder
    for at in range(first, len(words), size):
        block = _times(_power(size), block) ^ words[at : at + size]
    while size > 1:
        size //= 2
        block = _times(_power(size), block[:size]) ^ block[size:]
    return int(_times(_power(1), block)[0])


@functools.cache
def _power(words: int) -> np.ndarray:
    """Multiplication by `x^(32 words)`, `words` a power of 2: `[4, 256]`, one row for each byte."""
    images = np.uint32(1) << np.arange(32, dtype=np.uint32)
    if words == 1:
        for _ in range(32):
            images = images >> 1 ^ np.uint32(POLYNOMIAL) * (images & 1)
    else:
        for _ in range(2):
            images = _times(_power(words // 2), images)
    tables = np.zeros((4, 1), np.uint32)
    for bit in images.reshape(4, 8).T:
        tables = np.concatenate([tables, tables ^ bit[:, None]], 1)
    return tables


def _times(tables: np.ndarray, words: np.ndarray) -> np.ndarray:
    octets = words.view(np.uint8).reshape(-1, 4)
    product = tables[0].take(octets[:, 0])
    for table, column in zip(tables[1:], octets.T[1:], strict=True):
        product ^= table.take(column)
    return product
