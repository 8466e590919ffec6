"""Derives the coefficients of the f32 polynomials in src/math.rs.

Run as `python3 crates/kernels/scripts/polynomials.py` (needs mpmath; 1.3.0 was used). It prints, for each function, the
coefficients rounded to f32, lowest degree first, with their bits, and the largest error that the rounded polynomial adds
in exact arithmetic, relative to the function. The fit is least squares over Chebyshev nodes; coefficients are rounded one after
the other, lowest degree first, each time fitting the higher ones again to what is left.
"""

import struct

from mpmath import mp, mpf

mp.prec = 200


def to_f32(value):
    """The nearest f32 (ties never occur here: the inputs are irrational)."""
    return mpf(struct.unpack("<f", struct.pack("<f", float(value)))[0])


def bits(value):
    return struct.unpack("<I", struct.pack("<f", float(value)))[0]


def fit(residual, weight, low, high, first, last):
    """Coefficients of x^first … x^last: least squares of `weight` · error over 64 Chebyshev nodes of [low, high]."""
    nodes = [(low + high) / 2 + (high - low) / 2 * mp.cos(mp.pi * (2 * i + 1) / 128) for i in range(64)]
    matrix = mp.matrix(64, last - first + 1)
    right = mp.matrix(64, 1)
    for row, node in enumerate(nodes):
        right[row] = residual(node) * weight(node)
        for column in range(last - first + 1):
            matrix[row, column] = node ** (first + column) * weight(node)
    return list(mp.lu_solve(matrix, right))


def rounded(function, weight, low, high, degree):
    """The polynomial for `function` with f32 coefficients, lowest degree first."""
    fixed = []
    for done in range(degree + 1):

        def residual(x):
            return function(x) - mp.polyval(list(reversed(fixed)) or [0], x)

        fixed.append(to_f32(fit(residual, weight, low, high, done, degree)[0]))
    return fixed


def report(name, coefficients, error):
    print(f"{name}: largest relative error of the polynomial 2^{float(mp.log(error, 2)):.2f}")
    for degree, value in enumerate(coefficients):
        print(f"    {degree}: {float(value)!r:>24}  0x{bits(value):08x}")


def samples(low, high, count=4001):
    return [low + (high - low) * i / (count - 1) for i in range(count)]


# exp(r) = 1 + r + r² q(r) on |r| <= ln(2)/2, widened a little for the rounding of the reduction.
half_ln2 = mp.log(2) / 2 * (1 + mpf(2) ** -16)
q = rounded(lambda r: (mp.exp(r) - 1 - r) / r**2, lambda r: r**2, -half_ln2, half_ln2, 4)
error = max(
    abs((1 + r + r * r * mp.polyval(list(reversed(q)), r)) / mp.exp(r) - 1) for r in samples(-half_ln2, half_ln2)
)
report("exp q", q, error)

# ln(1 + f) = f - f²/2 + f³ h(f) on sqrt(1/2) <= 1 + f <= sqrt(2).
low, high = mp.sqrt(mpf(1) / 2) - 1, mp.sqrt(2) - 1
h = rounded(lambda f: (mp.log(1 + f) - f + f * f / 2) / f**3, lambda f: f**2, low, high, 8)
error = max(
    abs((f - f * f / 2 + f**3 * mp.polyval(list(reversed(h)), f)) / mp.log(1 + f) - 1)
    for f in samples(low, high)
    if f != 0
)
report("ln h", h, error)

# tanh(x) = x + x³ t(x²) on |x| <= 0.625: beyond, 1 - 2 ÷ (exp(2x) + 1) loses nothing to cancellation.
edge = mpf("0.625") ** 2
t = rounded(
    lambda s: (mp.tanh(mp.sqrt(s)) / mp.sqrt(s) - 1) / s, lambda s: s, mpf(2) ** -60, edge, 4
)
error = max(
    abs((1 + s * mp.polyval(list(reversed(t)), s)) * mp.sqrt(s) / mp.tanh(mp.sqrt(s)) - 1)
    for s in samples(mpf(2) ** -60, edge)
)
report("tanh t", t, error)

# ln(2) in two f32: the high part has 9 trailing zero bits (exp) so that n·high is exact for |n| <= 128.
ln2 = mp.log(2)
high = mpf(int(ln2 * 2**15)) / 2**15
print(f"ln 2 high {float(high)!r} 0x{bits(high):08x}, low {float(to_f32(ln2 - high))!r} 0x{bits(to_f32(ln2 - high)):08x}")
print(f"log2 e {float(to_f32(1 / ln2))!r} 0x{bits(to_f32(1 / ln2)):08x}")

# pi/2 in three f64, cut at 2^-32 and 2^-63.
half_pi = mp.pi / 2
first = mpf(int(half_pi * 2**32)) / 2**32
second = mpf(int((half_pi - first) * 2**63)) / 2**63
third = half_pi - first - second
print("pi/2", [struct.pack(">d", float(part)).hex() for part in (first, second, third)])
# ln(2) in two f64: 32 bits, the rest.
first = mpf(int(ln2 * 2**32)) / 2**32
print("ln 2", [struct.pack(">d", float(part)).hex() for part in (first, ln2 - first)])
# The f32 nearest above ln(2^-126), and the largest x with exp(x) below 2^128 - 2^103.
print("exp limits", float(-126 * ln2), float(mp.log(mpf(2) ** 128 - mpf(2) ** 103)))
