"""Works out products of tiles exactly, for the tests of the AMX emulator.

Run as `python3 crates/kernels/scripts/tiles.py > crates/kernels/tests/data/tiles_golden.json`. It follows the pseudo-code of
TDPBSSD and TDPBF16PS in Intel's Software Developer's Manual, volume 2, in whole numbers and fractions; each rounding is
to 24 bits with unbounded exponent first, as the manual decides on tiny results (volume 1, section 11.5.2.5), and no
operation on floating-point numbers is the machine's, but for infinities and NaN.
"""

import base64
import json
import math
import random
import struct
from fractions import Fraction

TINY = Fraction(1, 2**126)
HUGE = Fraction(2**128)


def sign(x):
    """1 or −1, of zeros too."""
    return math.copysign(1.0, x) if isinstance(x, float) else (1.0 if x > 0 else -1.0)


def number(bits):
    """A binary32 as a fraction, or as a float if it is a zero, an infinity or NaN. Subnormals count as zeros."""
    value = struct.unpack("<f", struct.pack("<I", bits))[0]
    if bits >> 23 & 0xFF == 0:
        return math.copysign(0.0, value)
    return Fraction(value) if math.isfinite(value) else value


def pack(x):
    if isinstance(x, float) and math.isnan(x):
        return struct.pack("<I", 0x7FC00000)
    return struct.pack("<f", float(x))


def rounded(x):
    """A fraction other than 0, as `number` gives it."""
    size, exponent = abs(x), 0
    while size >= 2**24:
        size, exponent = size / 2, exponent + 1
    while size < 2**23:
        size, exponent = size * 2, exponent - 1
    whole, rest = divmod(size, 1)
    if rest > Fraction(1, 2) or (rest == Fraction(1, 2) and whole % 2 == 1):
        whole += 1
    size = whole * Fraction(2) ** exponent
    if size < TINY:
        return math.copysign(0.0, x)
    if size >= HUGE:
        return math.copysign(math.inf, x)
    return size if x > 0 else -size


def special(x):
    return isinstance(x, float) and not math.isfinite(x)


def fma(a, b, c):
    if special(a) or special(b) or special(c):
        return float(a) * float(b) + (float(c) if special(c) else 0.0)
    product = Fraction(a) * Fraction(b)
    exact = product + Fraction(c)
    if exact != 0:
        return rounded(exact)
    # Of zeros alone the sum has their sign, if it is one.
    if product == 0 and c == 0 and sign(a) * sign(b) == sign(c):
        return sign(c) * 0.0
    return 0.0


def add(a, b):
    return fma(a, Fraction(1), b)


def dot_int8(sums, left, right, rows, words, columns):
    out = []
    for m in range(rows):
        for n in range(columns):
            total = sums[m * columns + n]
            for k in range(words):
                for byte in range(4):
                    total += left[(m * words + k) * 4 + byte] * right[(k * columns + n) * 4 + byte]
            out.append(struct.pack("<I", total % 2**32))
    return b"".join(out)


def dot_bf16(sums, left, right, rows, words, columns):
    out = []
    for m in range(rows):
        for n in range(columns):
            chains = [0.0, 0.0]
            for k in range(words):
                for odd in range(2):
                    a, b = left[(m * words + k) * 2 + odd], right[(k * columns + n) * 2 + odd]
                    chains[odd] = fma(number(a << 16), number(b << 16), chains[odd])
            out.append(pack(add(number(sums[m * columns + n]), add(chains[0], chains[1]))))
    return b"".join(out)


source = random.Random(1)


def int8_case(name, rows, words, columns, byte, total):
    left = [byte() for _ in range(rows * words * 4)]
    right = [byte() for _ in range(words * columns * 4)]
    sums = [total() for _ in range(rows * columns)]
    return case(
        name, "tdpbssd", rows, words, columns, struct.pack(f"<{len(sums)}i", *sums),
        struct.pack(f"<{len(left)}b", *left), struct.pack(f"<{len(right)}b", *right),
        dot_int8(sums, left, right, rows, words, columns),
    )


def bf16_case(name, rows, words, columns, bf16, total):
    left = [bf16() for _ in range(rows * words * 2)]
    right = [bf16() for _ in range(words * columns * 2)]
    sums = [total() for _ in range(rows * columns)]
    return case(
        name, "tdpbf16ps", rows, words, columns, struct.pack(f"<{len(sums)}I", *sums),
        struct.pack(f"<{len(left)}H", *left), struct.pack(f"<{len(right)}H", *right),
        dot_bf16(sums, left, right, rows, words, columns),
    )


def case(name, instruction, rows, words, columns, sums, left, right, result):
    fields = {"sums_b64": sums, "left_b64": left, "right_b64": right, "result_b64": result}
    shape = {"name": name, "instruction": instruction, "rows": rows, "words": words, "columns": columns}
    return shape | {key: base64.b64encode(value).decode() for key, value in fields.items()}


def bits(low, high, mantissa_bits):
    """Of either sign, with an exponent between `low` and `high` (biased) and any mantissa."""
    exponent = source.randint(low, high)
    word = source.getrandbits(1) << 8 | exponent
    return word << mantissa_bits | source.getrandbits(mantissa_bits)



def edge_bf16():
    return source.choice([0, 0x8000, 1, 0x807F, 0x80, 0x8080, 0x3F80, 0xBF80, 0x2000, 0xA001, 0x1FFF, 0x3FFF])


def edge_f32():
    return source.choice([0, 0x80000000, 1, 0x807FFFFF, 0x800000, 0x80800000, 0x800001, 0x3F800000, 0xBF800001])


def next_to_tiny():
    """For 16 rows, two words and 16 columns: 2^-126 and then about 2^-151 more or less, where ties are."""
    for _ in range(16):
        yield from [0x2000, 0x2000, source.choice([0x1A00, 0x9A00]), source.choice([0x1A00, 0x9A00])]
    yield from [0x2000] * 32
    while True:
        yield source.choice([0x1A00, 0x19C0, 0x1981, 0x1980, 0x197F, 0x1900])


def byte():
    return source.randint(-128, 127)


tiny = next_to_tiny()
CASES = [
    int8_case("any bytes", 16, 16, 16, byte, lambda: source.randint(-(2**31), 2**31 - 1)),
    int8_case("part of a tile", 3, 5, 7, byte, lambda: source.randint(-1000, 1000)),
    int8_case("the smallest bytes", 2, 16, 3, lambda: -128, lambda: 2**31 - 1),
    bf16_case("plain numbers", 16, 16, 16, lambda: bits(120, 130, 7), lambda: bits(120, 130, 23)),
    bf16_case("part of a tile", 3, 5, 7, lambda: bits(110, 140, 7), lambda: bits(110, 140, 23)),
    bf16_case("edges", 16, 16, 16, edge_bf16, edge_f32),
    bf16_case("products about 2^-126", 16, 2, 16, lambda: bits(60, 68, 7), lambda: bits(0, 4, 23)),
    bf16_case("products below sums about 2^-126", 16, 1, 16, lambda: bits(50, 62, 7), lambda: bits(1, 1, 23)),
    bf16_case("ties below 2^-126", 16, 2, 16, lambda: next(tiny), lambda: 0),
    bf16_case("products about 2^128", 16, 3, 16, lambda: bits(186, 191, 7), lambda: bits(250, 255, 23)),
    bf16_case("any bits", 16, 4, 16, lambda: source.getrandbits(16), lambda: source.getrandbits(32)),
]

print(json.dumps(CASES, indent=1))
