"""CRC-32C (Castagnoli), the checksum of LevelDB's tables and of TensorFlow's bundles.

A checksum is the remainder of a polynomial over GF(2), so a message can be folded: a word that is
`n` words before the end contributes its product with `x^(32 n)`. This product is a linear map of
32 bits, computed by one table lookup for each byte, which NumPy does for a whole block at a time.
"""

from __future__ import annotations

import functools

import numpy as np

from ..._types import Buffer

POLYNOMIAL = 0x82F63B78  # reflected: bit 31 is the coefficient of x^0
BLOCK = 1 << 16  # words: 256 KiB, which fit into the cache
ALL_ONES = 0xFFFFFFFF


def crc32c(data: Buffer) -> int:
    """The checksum of bytes, or of an array of bytes."""
    octets = np.frombuffer(data, np.uint8)
    remainder, byte_lookup = ALL_ONES, _shift_lookups(1)[3]
    num_leading = len(octets) % 4
    # The first bytes are processed one by one, so that whole words remain.
    for octet in octets[:num_leading].tolist():
        remainder = int(byte_lookup[(remainder ^ octet) & 255]) ^ remainder >> 8
    words = octets[num_leading:].view("<u4")
    return (_fold(words, remainder) if words.size else remainder) ^ ALL_ONES


def masked(crc: int) -> int:
    """The masked checksum, as files store it.

    LevelDB masks checksums because the CRC of data that contains CRCs is a poor one.
    """
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & ALL_ONES


def _fold(words: np.ndarray, remainder: int) -> int:
    """The remainder after all words, given the one before them.

    Blocks are folded onto each other, then the halves of the last block, until one word is left.
    """
    size = min(BLOCK, 1 << (len(words) - 1).bit_length())
    num_first = (len(words) - 1) % size + 1
    block = np.zeros(size, "<u4")  # leading zeros do not change a remainder
    block[-num_first:] = words[:num_first]
    block[-num_first] ^= remainder
    for at in range(num_first, len(words), size):
        block = _multiply(_shift_lookups(size), block) ^ words[at : at + size]
    while size > 1:
        size //= 2
        block = _multiply(_shift_lookups(size), block[:size]) ^ block[size:]
    return int(_multiply(_shift_lookups(1), block)[0])


@functools.cache
def _shift_lookups(words: int) -> np.ndarray:
    """Lookup tables for multiplication by `x^(32 words)`, where `words` is a power of 2.

    They are `[4, 256]`: one row for each byte of a word.
    """
    images = np.uint32(1) << np.arange(32, dtype=np.uint32)
    # `images[i]` is the product of the word whose only bit is bit i.
    if words == 1:
        for _ in range(32):
            images = images >> 1 ^ np.uint32(POLYNOMIAL) * (images & 1)
    else:
        # Twice a shift by half as many words.
        for _ in range(2):
            images = _multiply(_shift_lookups(words // 2), images)
    lookups = np.zeros((4, 1), np.uint32)
    # The map is linear: the entry of a byte is the xor of the images of its bits.
    for bit in images.reshape(4, 8).T:
        lookups = np.concatenate([lookups, lookups ^ bit[:, None]], 1)
    return lookups


def _multiply(lookups: np.ndarray, words: np.ndarray) -> np.ndarray:
    """The product of each word, given the lookup tables of the factor."""
    octets = words.view(np.uint8).reshape(-1, 4)
    product = lookups[0].take(octets[:, 0])
    for lookup, column in zip(lookups[1:], octets.T[1:], strict=True):
        product ^= lookup.take(column)
    return product
