"""IEEE 754 binary32 with fma, on numpy arrays: the section "Notation" of docs/numerics.md.

`+ - * /` and `sqrt` of numpy arrays of float32 are rounded correctly by numpy itself. What numpy lacks is fma. Here it
goes through binary64:

- a·b has at most 48 binary digits, so binary64 holds it exactly. It cannot overflow or underflow there either.
- The sum with c is rounded *to odd*: what binary64 cannot hold sets the last digit. Rounding that to binary32 once more, to
  nearest, gives what rounding the exact sum gives, because 53 digits are at least two more than 24 (Boldo and Melquiond,
  "Emulation of a FMA and correctly rounded sums", IEEE Transactions on Computers 57, 2008). A subnormal result has fewer
  digits, so the same holds.
- To round to odd, the error of the sum must be known: Knuth's TwoSum gives it exactly.

fma in binary64 has no such home; fractions serve it, slowly. Only tables need it.
"""

from fractions import Fraction

import numpy as np

F32 = np.float32
F64 = np.float64

# Infinities and NaNs are numbers like others here, and no accident.
np.seterr(all="ignore")


def from_bits(bits):
    """The binary32 with these bits, as the document writes its constants."""
    return np.array(bits, dtype=np.uint32).view(F32)[()]


def to_bits(x):
    return np.asarray(x, dtype=F32).view(np.uint32)


def sum_to_odd(p, c):
    """p + c in binary64, rounded to odd."""
    s = np.asarray(p + c)
    t = s - p
    error = (p - (s - t)) + (c - t)
    bits = s.view(np.int64)
    inexact = np.isfinite(s) & (error != 0) & (bits & 1 == 0)
    # One step in the error's direction: away from zero where error and sum have one sign, else towards it.
    step = np.where((error > 0) == (s > 0), 1, -1)
    return np.where(inexact, bits + step, bits).view(F64)


def product(a, b):
    """a·b of binary32 numbers, exactly, in binary64."""
    return np.multiply(a, b, dtype=F64)


def fma(a, b, c):
    return sum_to_odd(product(a, b), np.asarray(c, dtype=F64)).astype(F32)


def fma64(a, b, c):
    """Of three binary64 numbers that are finite."""
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    # A fraction has no -0; where the sum is 0, the plain operations have the right sign.
    return float(exact) if exact else a * b + c


def lane_sum(terms, enter=lambda chain, term: chain + term):
    """Over the last axis: sixteen chains, then the tree."""
    length = terms.shape[-1]
    chains = np.zeros((*terms.shape[:-1], 16), dtype=F32)
    for i in range(0, length, 16):
        part = terms[..., i : i + 16]
        chains[..., : part.shape[-1]] = enter(chains[..., : part.shape[-1]], part)
    for half in (8, 4, 2, 1):
        chains = chains[..., :half] + chains[..., half : 2 * half]
    return chains[..., 0]


# bf16: the upper half of a binary32.

SMALLEST_NORMAL = F32(2.0**-126)


def to_bf16(x):
    """Rounded to bf16 and widened again; a subnormal number becomes a zero of its sign before."""
    bits = to_bits(subnormal_to_zero(x)).astype(np.uint64)
    rounded = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16).astype(np.uint32).view(F32)
    return np.where(np.isnan(x), x, rounded)


def subnormal_to_zero(x):
    return np.where(np.abs(x) < SMALLEST_NORMAL, np.copysign(F32(0), x), x)


def flushed(s):
    """A sum that was rounded to odd, as binary32; a zero of its sign if, rounded to 24 digits with unbounded exponent, it is
    below 2^-126. Half a step below 2^-126 lies 2^-126 - 2^-151, a tie that goes to 2^-126."""
    return np.where(np.abs(s) < 2.0**-126 - 2.0**-151, np.copysign(F64(0), s), s).astype(F32)


def fma_flushed(a, b, c):
    """The arithmetic of tdpbf16ps, of numbers that are not subnormal."""
    return flushed(sum_to_odd(product(a, b), np.asarray(c, dtype=F64)))


def add_flushed(a, b):
    return flushed(sum_to_odd(np.asarray(a, dtype=F64), np.asarray(b, dtype=F64)))


# Scalars in binary64, for tables.


def constant64(bits):
    return np.array(bits, dtype=np.uint64).view(F64)[()].item()


def horner64(x, coefficients):
    p = 0.0
    for c in coefficients:
        p = fma64(p, x, c)
    return p
