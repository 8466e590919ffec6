"""The elementary functions: the section of that name in docs/numerics.md."""

import math

import numpy as np

from arithmetic import F32, constant64, fma, fma64, from_bits, horner64, to_bits

ONE = F32(1)


def exp(x):
    x = np.asarray(x, dtype=F32)
    inside = np.where((x >= from_bits(0xC2AEAC4F)) & (x <= from_bits(0x42B17217)), x, F32(0))
    magic = F32(12582912)
    n = fma(inside, from_bits(0x3FB8AA3B), magic) - magic
    r = fma(n, -from_bits(0x3F317200), inside)
    r = fma(n, -from_bits(0x35BFBE8E), r)
    p = from_bits(0x3AB6A8A6)
    for c in (0x3C091E82, 0x3D2AAA72, 0x3E2AAA46, 0x3F000000, 0x3F800000, 0x3F800000):
        p = fma(p, r, from_bits(c))
    result = (to_bits(p).astype(np.int64) + (n.astype(np.int64) << 23)).astype(np.uint32).view(F32)
    result = np.where(x < from_bits(0xC2AEAC4F), F32(0), result)
    result = np.where(x > from_bits(0x42B17217), F32(np.inf), result)
    return np.where(np.isnan(x), x, result)


def sigmoid(x):
    return ONE / (ONE + exp(-x))


def silu(x):
    return x / (ONE + exp(-x))


def tanh(x):
    a = np.abs(np.asarray(x, dtype=F32))
    large = ONE - F32(2) / (exp(F32(2) * a) + ONE)
    q = a * a
    t = from_bits(0xBBBAD4C8)
    for c in (0x3CA90BA2, 0xBD5C1CAF, 0x3E088384, 0xBEAAAA99):
        t = fma(t, q, from_bits(c))
    small = fma(a * q, t, a)
    return np.copysign(np.where(a < F32(0.625), small, large), x)


def softcap(x, cap):
    return cap * tanh(x / cap)


def gelu(x):
    u = x * fma(x * x, from_bits(0x3D922279), from_bits(0x3FCC422A))
    return x / (ONE + exp(-u))


def silu_unit(g, u):
    return silu(g) * u


def gelu_unit(g, u):
    return gelu(g) * u


def clamped_silu_unit(g, u, alpha, limit):
    g = np.minimum(g, limit)
    u = np.minimum(np.maximum(u, -limit), limit)
    return g / (ONE + exp(-(alpha * g))) * (u + ONE)


def ln(x):
    x = np.asarray(x, dtype=F32)
    subnormal = (x > 0) & (x < F32(2.0**-126))
    bits = to_bits(np.where(subnormal, x * F32(2.0**23), x)).astype(np.int64)
    # The exponent by which m has bits from 0x3f3504f3 up to those of its double.
    e = (bits - 0x3F3504F3) >> 23
    m = (bits - (e << 23)).astype(np.uint32).view(F32)
    e = (e - np.where(subnormal, 23, 0)).astype(F32)
    f = m - ONE
    h = from_bits(0x3D8B5D5E)
    for c in (0xBDF0251D, 0x3DF37A77, 0xBDFDE0F3, 0x3E1197F4, 0xBE2AAF8B, 0x3E4CD2A3, 0xBE800000, 0x3EAAAAA3):
        h = fma(h, f, from_bits(c))
    s = f * f
    y = fma(f * s, h, e * from_bits(0x35BFBE8E))
    y = fma(s, F32(-0.5), y)
    result = fma(e, from_bits(0x3F317200), f + y)
    result = np.where(x == F32(np.inf), x, result)
    result = np.where(x == 0, F32(-np.inf), result)
    return np.where((x < 0) | np.isnan(x), F32(np.nan), result)


# In binary64, for tables and figures.

LN2 = (constant64(0x3FE62E42FEE00000), constant64(0x3DEA39EF35793C76))
HALF_PI = (constant64(0x3FF921FB54400000), constant64(0x3DD0B4611A000000), constant64(0x3BF898CC51701B84))
LOG2_E, TWO_OVER_PI = constant64(0x3FF71547652B82FE), constant64(0x3FE45F306DC9C883)
MAGIC = 1.5 * 2.0**52


def exp64(x):
    if x < -708:
        return 0.0
    if x > 709:
        return math.inf
    n = (x * LOG2_E + MAGIC) - MAGIC
    r = fma64(n, -LN2[1], fma64(n, -LN2[0], x))
    return math.ldexp(horner64(r, [1 / math.factorial(k) for k in range(13, -1, -1)]), int(n))


def ln64(x):
    bits = np.array(x).view(np.int64).item()
    e = (bits - 0x3FE6A09E667F3BCD) >> 52
    m = constant64(bits - (e << 52))
    s = (m - 1) / (m + 1)
    series = horner64(s * s, [2 / (2 * k + 1) for k in range(11, -1, -1)])
    return fma64(float(e), LN2[0], fma64(s, series, e * LN2[1]))


def pow64(b, y):
    return exp64(y * ln64(b))


def sin_cos64(x):
    n = (x * TWO_OVER_PI + MAGIC) - MAGIC
    a = fma64(n, -HALF_PI[0], x)
    b = fma64(n, -HALF_PI[1], a)
    r = b + fma64(n, -HALF_PI[2], fma64(n, -HALF_PI[1], a - b))
    q = r * r
    series = horner64(q, [(-1) ** (k + 1) / math.factorial(2 * k + 3) for k in range(7, -1, -1)])
    sine = fma64(r * q, series, r)
    cosine = horner64(q, [(-1) ** k / math.factorial(2 * k) for k in range(9, -1, -1)])
    return [(sine, cosine), (cosine, -sine), (-sine, -cosine), (-cosine, sine)][int(n) % 4]
