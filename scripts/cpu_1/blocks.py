"""Weights as GGUF files hold them, taken apart into what the products of docs/numerics.md need.

The block formats are ggml's. Each function gets blocks as bytes, [blocks, bytes of a block], and gives quants, scales and
minima; the table at the end says how many numbers and bytes a block has.
"""

import functools
from dataclasses import dataclass

import numpy as np

from arithmetic import F32


@dataclass
class Plain:
    """F32 and F16, widened: numbers [n, k]."""

    numbers: np.ndarray

    def row(self, n):
        return self.numbers[n]


@dataclass
class Bf16(Plain):
    """BF16, widened."""


@dataclass
class By32:
    """quants [n, k]; scales dw [n, k / step] and minima mw [n, k / 32]. The step is 32, for NVFP4 16."""

    quants: np.ndarray
    scales: np.ndarray
    minima: np.ndarray | None
    step: int = 32

    def row(self, n):
        values = np.repeat(self.scales[n], self.step) * self.quants[n].astype(F32)
        return values if self.minima is None else values + np.repeat(self.minima[n], 32)


@dataclass
class By256:
    """quants and, spread over all that they apply to, sc and mn: [n, k]; scales dw and minima dmin: [n, k / 256]."""

    quants: np.ndarray
    scales: np.ndarray
    sub_scales: np.ndarray
    minima: np.ndarray | None = None
    sub_minima: np.ndarray | None = None

    def row(self, n):
        scales = np.repeat(self.scales[n], 256) * self.sub_scales[n].astype(F32)
        values = scales * self.quants[n].astype(F32)
        if self.minima is None:
            return values
        return values - np.repeat(self.minima[n], 256) * self.sub_minima[n].astype(F32)


def halves(raw):
    """f16 numbers, widened."""
    return np.ascontiguousarray(raw).view("<f2").astype(F32)


def nibbles(raw, group):
    """Of each group of bytes all lower nibbles, then all upper ones."""
    raw = raw.reshape(len(raw), -1, 1, group)
    return (raw >> np.array([0, 4], dtype=np.uint8)[:, None] & 15).reshape(len(raw), -1).astype(np.int32)


def bit_pairs(raw):
    """Of each 32 bytes the lowest two bits, then the next, up to the uppermost."""
    raw = raw.reshape(len(raw), -1, 1, 32)
    return (raw >> np.array([0, 2, 4, 6], dtype=np.uint8)[:, None] & 3).reshape(len(raw), -1).astype(np.int32)


def bits(raw):
    """The bits of a little-endian number, the lowest first."""
    return np.unpackbits(raw, axis=1, bitorder="little").astype(np.int32)


# Blocks of 32: (quants, scale, minimum or None).


def q4_0(b):
    return nibbles(b[:, 2:], 16) - 8, halves(b[:, :2]), None


def q4_1(b):
    return nibbles(b[:, 4:], 16), halves(b[:, :2]), halves(b[:, 2:4])


def q5_0(b):
    return (nibbles(b[:, 6:], 16) | bits(b[:, 2:6]) << 4) - 16, halves(b[:, :2]), None


def q5_1(b):
    return nibbles(b[:, 8:], 16) | bits(b[:, 4:8]) << 4, halves(b[:, :2]), halves(b[:, 2:4])


def q8_0(b):
    return b[:, 2:].view(np.int8).astype(np.int32), halves(b[:, :2]), None


IQ4 = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113])
FP4 = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12])


def iq4_nl(b):
    return IQ4[nibbles(b[:, 2:], 16)], halves(b[:, :2]), None


def mxfp4(b):
    if np.any(b[:, 0] == 255):
        raise ValueError("MXFP4 with a scale of 255 is refused")
    return FP4[nibbles(b[:, 1:], 16)], np.ldexp(F32(1), b[:, :1].astype(np.int32) - 128), None


def nvfp4(b):
    """64 numbers: four scales, then for each the nibbles of 16 numbers."""
    e, m = (b[:, :4] >> 3 & 15).astype(np.int32), (b[:, :4] & 7).astype(F32)
    scales = np.where(e == 0, m * F32(2.0**-9), np.ldexp(F32(1) + m / F32(8), e - 7)) / F32(2)
    scales = np.where(b[:, :4] == 0x7F, F32(0), scales)
    return FP4[nibbles(b[:, 4:], 8)], scales, None


# Blocks of 256: (quants, scale, sc, minimum, mn).


def q2_k(b):
    sub = b[:, :16]
    return bit_pairs(b[:, 16:80]), halves(b[:, 80:82]), sub & 15, halves(b[:, 82:84]), sub >> 4


def q3_k(b):
    high = bits_across(b[:, :32])
    low, upper = b[:, 96:104], b[:, 104:108]
    sub = np.concatenate([low & 15, low >> 4], axis=1) | (bit_pairs_of(upper) << 4)
    return bit_pairs(b[:, 32:96]) + 4 * high - 4, halves(b[:, 108:110]), sub.astype(np.int32) - 32, None, None


def bits_across(raw):
    """Of 32 bytes the lowest bit of all, then the next."""
    return (raw[:, None, :] >> np.arange(8, dtype=np.uint8)[:, None] & 1).reshape(len(raw), -1).astype(np.int32)


def bit_pairs_of(raw):
    """Of four bytes the lowest two bits of all, then the next."""
    return (raw[:, None, :] >> np.array([0, 2, 4, 6], dtype=np.uint8)[:, None] & 3).reshape(len(raw), -1)


def scales_of_k(b):
    """The eight scales and minima of 6 bits, in 12 bytes."""
    scale = np.concatenate([b[:, :4] & 63, b[:, 8:12] & 15 | b[:, 0:4] >> 6 << 4], axis=1)
    minimum = np.concatenate([b[:, 4:8] & 63, b[:, 8:12] >> 4 | b[:, 4:8] >> 6 << 4], axis=1)
    return scale, minimum


def q4_k(b):
    scale, minimum = scales_of_k(b[:, 4:16])
    return nibbles(b[:, 16:], 32), halves(b[:, :2]), scale, halves(b[:, 2:4]), minimum


def q5_k(b):
    scale, minimum = scales_of_k(b[:, 4:16])
    quants = nibbles(b[:, 48:], 32) | bits_across(b[:, 16:48]) << 4
    return quants, halves(b[:, :2]), scale, halves(b[:, 2:4]), minimum


def q6_k(b):
    low = nibbles(b[:, :128], 64)
    quants = low | bit_pairs(b[:, 128:192]) << 4
    return quants - 32, halves(b[:, 208:210]), b[:, 192:208].view(np.int8), None, None


def iq4_xs(b):
    upper = np.ascontiguousarray(b[:, 2:4]).view("<u2").astype(np.int32)
    low = nibbles(b[:, 4:8].reshape(-1, 4, 1), 1).reshape(len(b), 8)
    sub = (low | (upper >> 2 * np.arange(8) & 3) << 4) - 32
    return IQ4[nibbles(b[:, 8:], 16)], halves(b[:, :2]), sub, None, None


# The types with codebooks. A word of a codebook is eight numbers (IQ1, IQ2) or four (IQ3).


@functools.cache
def codebook(kind):
    """ggml's, from its Python package."""
    from gguf import quants

    quants_of_kind = getattr(quants, kind)
    quants_of_kind.init_grid()
    return quants_of_kind.grid.reshape(quants_of_kind.grid_shape).astype(np.int32)


def words(raw, size):
    return np.ascontiguousarray(raw).view(f"<u{size}").astype(np.int64)


def signs(byte):
    """-1 where a bit is set, the lowest first: one more axis, of eight."""
    return 1 - 2 * (byte[..., None] >> np.arange(8) & 1)


def signs_of_seven(packed):
    """Of a word with four times seven bits: the eighth sign makes the number of minus signs even."""
    seven = packed[..., None] >> 7 * np.arange(4) & 127
    parity = (seven[..., None] >> np.arange(7) & 1).sum(axis=-1) & 1
    return signs(seven | parity << 7)


def lower_and_upper(raw):
    """The nibbles in turn: of a byte the lower, then the upper."""
    return np.stack([raw & 15, raw >> 4], axis=-1).reshape(len(raw), -1).astype(np.int32)


def joined(values):
    return values.reshape(len(values), -1)


def iq2_xxs(b):
    pairs = words(b[:, 2:], 4).reshape(len(b), 8, 2)
    grid = codebook("IQ2_XXS")[b[:, 2:].reshape(len(b), 8, 8)[:, :, :4]]
    quants = grid * signs_of_seven(pairs[:, :, 1])
    return joined(quants), halves(b[:, :2]) / F32(8), 2 * (pairs[:, :, 1] >> 28) + 1, None, None


def iq2_xs(b):
    entries = words(b[:, 2:66], 2)
    quants = codebook("IQ2_XS")[entries & 511] * signs_of_seven(entries >> 9)[:, :, 0]
    return joined(quants), halves(b[:, :2]) / F32(8), 2 * lower_and_upper(b[:, 66:]) + 1, None, None


def iq2_s(b):
    upper = joined(b[:, 66:74, None].astype(np.int32) >> 2 * np.arange(4) & 3)
    quants = codebook("IQ2_S")[b[:, 2:34] | upper << 8] * signs(b[:, 34:66])
    return joined(quants), halves(b[:, :2]) / F32(8), 2 * lower_and_upper(b[:, 74:]) + 1, None, None


def iq3_xxs(b):
    packed = words(b[:, 66:98], 4)
    quants = joined(codebook("IQ3_XXS")[b[:, 2:66]]) * joined(signs_of_seven(packed))
    return quants, halves(b[:, :2]) / F32(4), 2 * (packed >> 28) + 1, None, None


def iq3_s(b):
    quants = joined(codebook("IQ3_S")[b[:, 2:66] | bits(b[:, 66:74]) << 8]) * joined(signs(b[:, 74:106]))
    return quants, halves(b[:, :2]), 2 * lower_and_upper(b[:, 106:]) + 1, None, None


def with_offset(entries, negative):
    return joined(8 * codebook("IQ1_S")[entries] + np.where(negative, -1, 1)[..., None])


def iq1_s(b):
    high = words(b[:, 34:50], 2)
    entries = b[:, 2:34] | joined(high[:, :, None] >> 3 * np.arange(4) & 7) << 8
    quants = with_offset(entries, np.repeat(high >> 15, 4, axis=1))
    return quants, halves(b[:, :2]) / F32(8), 2 * (high >> 12 & 7) + 1, None, None


def iq1_m(b):
    high = lower_and_upper(b[:, 32:48])
    packed = words(b[:, 48:56], 2)
    scale = (packed >> 12 << 4 * np.arange(4)).sum(axis=1, keepdims=True).astype("<u2").view("<f2").astype(F32)
    sub = joined(packed[:, :, None] >> 3 * np.arange(4) & 7)
    return with_offset(b[:, :32] | (high & 7) << 8, high >> 3), scale / F32(8), 2 * sub + 1, None, None


# Ternary types: five digits of base 3 in a byte, the uppermost first, or four codes of two bits.


def digits(raw, count):
    """Of all bytes the first digit, then the second: a byte is ⌈256·n ÷ 243⌉."""
    shifted = raw[:, None, :].astype(np.int32) * 3 ** np.arange(count)[:, None] & 255
    return joined(shifted * 3 >> 8)


def tq1_0(b):
    quants = np.concatenate([digits(b[:, :32], 5), digits(b[:, 32:48], 5), digits(b[:, 48:52], 4)], axis=1) - 1
    return quants, halves(b[:, 52:]), np.ones((len(b), 1)), None, None


def tq2_0(b):
    return bit_pairs(b[:, :64]) - 1, halves(b[:, 64:]), np.ones((len(b), 1)), None, None


# Name: (numbers of a block, bytes of a block, function), the first number being 256 or a multiple of 32.
FORMATS = {
    "Q4_0": (32, 18, q4_0),
    "Q4_1": (32, 20, q4_1),
    "Q5_0": (32, 22, q5_0),
    "Q5_1": (32, 24, q5_1),
    "Q8_0": (32, 34, q8_0),
    "IQ4_NL": (32, 18, iq4_nl),
    "MXFP4": (32, 17, mxfp4),
    "NVFP4": (64, 36, nvfp4),
    "Q2_K": (256, 84, q2_k),
    "Q3_K": (256, 110, q3_k),
    "Q4_K": (256, 144, q4_k),
    "Q5_K": (256, 176, q5_k),
    "Q6_K": (256, 210, q6_k),
    "IQ4_XS": (256, 136, iq4_xs),
    "IQ2_XXS": (256, 66, iq2_xxs),
    "IQ2_XS": (256, 74, iq2_xs),
    "IQ2_S": (256, 82, iq2_s),
    "IQ3_XXS": (256, 98, iq3_xxs),
    "IQ3_S": (256, 110, iq3_s),
    "IQ1_S": (256, 50, iq1_s),
    "IQ1_M": (256, 56, iq1_m),
    "TQ1_0": (256, 54, tq1_0),
    "TQ2_0": (256, 66, tq2_0),
}


def matrix(kind, raw, n, k):
    """A matrix of n rows from its bytes."""
    raw = np.frombuffer(raw, dtype=np.uint8)
    if kind == "F32":
        return Plain(raw.view("<f4").reshape(n, k))
    if kind == "F16":
        return Plain(raw.view("<f2").astype(F32).reshape(n, k))
    if kind == "BF16":
        return Bf16((raw.view("<u2").astype(np.uint32) << 16).view(F32).reshape(n, k))
    numbers, size, take_apart = FORMATS[kind]
    parts = take_apart(raw.reshape(-1, size))
    if numbers < 256:
        quants, scales, minima = parts
        minima = None if minima is None else minima.reshape(n, -1)
        return By32(quants.reshape(n, k), scales.reshape(n, -1), minima, 16 if kind == "NVFP4" else 32)

    def spread(sub):
        return None if sub is None else np.repeat(sub.astype(np.int32), 256 // sub.shape[1], axis=1).reshape(n, k)

    quants, scales, sub, minima, sub_minima = parts
    minima = None if minima is None else minima.reshape(n, -1)
    return By256(quants.reshape(n, k), scales.reshape(n, -1), spread(sub), minima, spread(sub_minima))
