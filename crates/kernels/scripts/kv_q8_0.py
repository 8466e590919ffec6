"""Works out what the `q8_0` cache holds, and an attention over it, for the tests of keys and values.

Run as `python3 crates/kernels/scripts/kv_q8_0.py > crates/kernels/tests/data/kv_q8_0_golden.json`. It follows
docs/numerics.md ("Keys and values", "Attention", "exp") in fractions; each rounding is done in whole numbers, and no
operation on floating-point numbers is the machine's.
"""

import json
import math
import struct
from fractions import Fraction

GROUP = 32
BLOCK = 64


def rounded(x, digits, lowest, limit):
    """The nearest number of so many binary digits, of which none is below 2^lowest; ties to even. From `limit` on, ∞."""
    x = Fraction(x)
    size, exponent = abs(x), 0
    if size:
        exponent = math.floor(math.log2(size.numerator) - math.log2(size.denominator)) - digits
        while size >= Fraction(2) ** (exponent + digits):
            exponent += 1
    exponent = max(exponent, lowest)
    whole = round(size / Fraction(2) ** exponent)
    size = whole * Fraction(2) ** exponent
    if size >= limit:
        return math.inf if x > 0 else -math.inf
    return size if x > 0 else -size


def f32(x):
    return rounded(x, 24, -149, 2**128)


def f16(x):
    return rounded(x, 11, -24, 2**16)


def number(bits):
    """A binary32 as a fraction, or as a float if it is an infinity or NaN."""
    value = struct.unpack("<f", struct.pack("<I", bits))[0]
    return Fraction(value) if math.isfinite(value) else value


def bits(x):
    """Of a binary32 that is a fraction; None for NaN."""
    return None if x is None else struct.unpack("<I", struct.pack("<f", float(x)))[0]


def group_in_cache(group):
    """The scale, the quants, and what is read: None for NaN."""
    if not all(isinstance(x, Fraction) for x in group):
        scale = math.inf
    else:
        scale = f16(f32(max(abs(x) for x in group) / 127))
    if scale == math.inf:
        return None, [0] * len(group), [None] * len(group)
    if scale == 0:
        return scale, [0] * len(group), [Fraction(0)] * len(group)
    inverse = f32(1 / scale)
    quants = [round(max(Fraction(-127), min(Fraction(127), f32(x * inverse)))) for x in group]
    values = [scale * q for q in quants]
    assert all(value == f32(value) for value in values), "a product that is not exact"
    return scale, quants, values


def in_cache(head):
    return [value for at in range(0, len(head), GROUP) for value in group_in_cache(head[at : at + GROUP])[2]]


def x(first, count):
    """The numbers that docs/numerics.md calls x(first, count)."""
    return [Fraction(i * 2654435761 % 65536, 32768) - 1 for i in range(first, first + count)]


def fma(a, b, c):
    return f32(a * b + c)


def exp(x):
    if x < number(0xC2AEAC4F):
        return Fraction(0)
    assert x <= 0
    n = fma(x, number(0x3FB8AA3B), 12582912) - 12582912
    r = fma(n, -number(0x35BFBE8E), fma(n, -number(0x3F317200), x))
    p = number(0x3AB6A8A6)
    for c in (0x3C091E82, 0x3D2AAA72, 0x3E2AAA46, 0x3F000000, 0x3F800000, 0x3F800000):
        p = fma(p, r, number(c))
    return p * Fraction(2) ** n.numerator


def lane_sum(terms):
    chains = [Fraction(0)] * 16
    for i, term in enumerate(terms):
        chains[i % 16] = f32(chains[i % 16] + term)
    while len(chains) > 1:
        half = len(chains) // 2
        chains = [f32(chains[i] + chains[i + half]) for i in range(half)]
    return chains[0]


def attend(query, keys, values, scale):
    """One head of a token that sees all of `keys`."""
    merged = None
    for first in range(0, len(keys), BLOCK):
        scores = []
        for key in keys[first : first + BLOCK]:
            chain = Fraction(0)
            for q, k in zip(query, key):
                chain = fma(q, k, chain)
            scores.append(f32(scale * chain))
        block_max = max(scores)
        weights = [exp(f32(score - block_max)) for score in scores]
        block_sum = lane_sum(weights)
        block_out = [Fraction(0)] * len(values[0])
        for weight, value in zip(weights, values[first : first + BLOCK]):
            block_out = [fma(weight, v, o) for v, o in zip(value, block_out)]
        if merged is None:
            merged = block_max, block_sum, block_out
            continue
        old_max, total, out = merged
        new_max = max(old_max, block_max)
        old, new = exp(f32(old_max - new_max)), exp(f32(block_max - new_max))
        out = [fma(b, new, f32(o * old)) for b, o in zip(block_out, out)]
        merged = new_max, fma(block_sum, new, f32(total * old)), out
    return [f32(o / merged[1]) for o in merged[2]]


def groups():
    """Names, and numbers as bits."""
    power = lambda n: Fraction(2) ** n
    near = lambda x, steps: bits(x) + steps
    yield "plain", [bits(n) for n in x(0, 32)]
    yield "a short one", [bits(n) for n in x(32, 5)]
    yield "one number", [bits(f32(Fraction(-3, 7)))]
    yield "the largest is negative", [bits(f32(n * Fraction(7, 10) - Fraction(1, 2))) for n in x(64, 32)]
    halves = [Fraction(n, 2) for n in (254, 1, 3, 5, -1, -3, -5, 253, 251, -253, 0, 2)]
    yield "ties to even", [bits(n) for n in halves]
    yield "next to ties", [bits(Fraction(127))] + [near(n, step) for n in halves[1:10] for step in (-1, 1)]
    yield "zeros lose their sign", [0x00000000, 0x80000000, 0x80000000, 0x00000000]
    yield "a large one among small ones", [0x3F800000, 0x80000000, 0x00000001, 0x80000001, 0x007FFFFF, 0x33800000]
    yield "subnormal numbers", [0x00000001, 0x80000001, 0x007FFFFF, 0x807FFFFF, 0x00800000]
    lowest = 127 * power(-25)
    yield "the scale is a tie and becomes 0", [bits(lowest), bits(-lowest / 2)]
    yield "the scale just does not become 0", [near(lowest, 1), bits(-lowest / 2), bits(lowest / 127), bits(lowest / 128)]
    below = f32(127 * power(-24) * Fraction(149, 100))
    yield "beyond 127 under a subnormal scale", [bits(below), bits(-below), bits(f32(below * Fraction(9, 10)))]
    yield "a scale between two subnormal ones", [bits(127 * power(-24) * Fraction(5, 2)), bits(power(-20)), bits(-power(-21))]
    normal = 127 * power(-14)
    for step in (-1, 0, 1):
        yield f"about the smallest normal scale {step:+}", [near(normal, step), bits(f32(-normal / 3))]
    last = Fraction(127 * 65520)
    yield "the largest scale", [bits(Fraction(127 * 65504)), bits(Fraction(-65504)), bits(Fraction(1))]
    yield "just below what has no scale", [near(last, -1), bits(-last / 2)]
    for name, first in (
        ("beyond the largest scale", bits(last)),
        ("the largest number", 0x7F7FFFFF),
        ("an infinity", 0xFF800000),
        ("a NaN", 0x7FC00000),
        ("a NaN of sign", 0xFFC00001),
    ):
        yield name, [0x3F800000, first, 0x00000000, 0x80000000]


def main():
    cases = []
    for name, group in groups():
        scale, quants, values = group_in_cache([number(n) for n in group])
        cases.append({"name": name, "numbers": group, "quants": quants, "values": [bits(v) for v in values]})
    heads, dim, position = 3, 40, 129
    queries = [4 * q for q in x(20000, heads * dim)]
    keys = [in_cache(x(dim * p, dim)) for p in range(position + 1)]
    values = [in_cache(x(dim * p + 5000, dim)) for p in range(position + 1)]
    out = [attend(queries[h * dim : (h + 1) * dim], keys, values, Fraction(1, 4)) for h in range(heads)]
    attention = [bits(o) for head in out for o in head]
    print("{\n  \"groups\": [")
    print(",\n".join("    " + json.dumps(case) for case in cases))
    print("  ],\n  \"head of x(5000, 40)\": " + json.dumps([bits(v) for v in in_cache(x(5000, 40))]) + ",")
    print("  \"attention\": " + json.dumps(attention) + "\n}")


if __name__ == "__main__":
    main()
