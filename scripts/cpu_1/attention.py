"""Rotary embedding, the cache of keys and values, attention: the sections of those names in docs/numerics.md."""

import math

import numpy as np

from arithmetic import F32, fma, lane_sum
from functions import exp, ln64, pow64, sin_cos64, softcap

BLOCK = 64


class Rope:
    """Of d rotated dimensions: inverse frequencies, and by what cosines and sines are multiplied."""

    def __init__(self, theta, d, scaling=None, freq_factors=None):
        scaling = scaling or {}
        kind = scaling.get("type", "none")
        omega = [pow64(theta, -(2 * i) / d) for i in range(d // 2)]
        attention_factor = 1.0
        if kind == "linear":
            omega = [w / scaling["factor"] for w in omega]
        elif kind == "llama3":
            omega = [llama3(w, scaling) for w in omega]
        elif kind == "yarn":
            omega = yarn(omega, theta, d, scaling)
            attention_factor = yarn_attention_factor(scaling)
        elif kind == "longrope":
            attention_factor = longrope_attention_factor(scaling)
        if freq_factors is not None:
            omega = [w / float(f) for w, f in zip(omega, freq_factors)]
        self.d = d
        self.inverse_frequencies = np.array(omega).astype(F32)
        self.attention_factor = F32(attention_factor)

    def tables(self, position):
        angles = F32(position) * self.inverse_frequencies
        pairs = np.array([sin_cos64(float(angle)) for angle in angles]).astype(F32)
        return pairs[:, 1] * self.attention_factor, pairs[:, 0] * self.attention_factor

    def rotate(self, heads, position, interleaved=False):
        """Heads of a token, [heads, length]; dimensions beyond d stay."""
        cos, sin = self.tables(position)
        half = self.d // 2
        first, second = (slice(0, self.d, 2), slice(1, self.d, 2)) if interleaved else (slice(0, half), slice(half, self.d))
        a, b = heads[:, first], heads[:, second]
        out = heads.copy()
        out[:, first] = fma(a, cos, -(b * sin))
        out[:, second] = fma(b, cos, a * sin)
        return out


def llama3(w, scaling):
    factor, low, high, context = (scaling[key] for key in ("factor", "low", "high", "context"))
    wavelength = 2 * math.pi / w
    if wavelength > context / low:
        return w / factor
    if wavelength < context / high:
        return w
    s = (context / wavelength - low) / (high - low)
    return (1 - s) * w / factor + s * w


def yarn(omega, theta, d, scaling):
    def dimension(beta):
        return d * ln64(scaling["context"] / (beta * 2 * math.pi)) / (2 * ln64(theta))

    low, high = dimension(scaling.get("beta_fast", 32.0)), dimension(scaling.get("beta_slow", 1.0))
    if scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, d - 1)
    if low == high:
        high += 0.001
    t = [min(max((i - low) / (high - low), 0.0), 1.0) for i in range(len(omega))]
    return [w / scaling["factor"] * t + w * (1 - t) for w, t in zip(omega, t)]


def yarn_attention_factor(scaling):
    factor = scaling["factor"]

    def mscale(s):
        return 0.1 * s * ln64(factor) + 1 if factor > 1 else 1.0

    if scaling.get("gguf_attention_factor", 1.0) != 1.0:
        return mscale(1) * scaling["gguf_attention_factor"]
    if "attention_factor" in scaling:
        return scaling["attention_factor"]
    if scaling.get("mscale") and scaling.get("mscale_all_dim"):
        return mscale(scaling["mscale"]) / mscale(scaling["mscale_all_dim"])
    return mscale(1)


def longrope_attention_factor(scaling):
    if "attention_factor" in scaling:
        return scaling["attention_factor"]
    if scaling["factor"] <= 1:
        return 1.0
    return math.sqrt(1 + ln64(scaling["factor"]) / ln64(scaling["context"]))


# Keys and values as the cache gives them back.


def in_cache(x, kind):
    if kind == "f32":
        return x
    if kind == "f16":
        return x.astype(np.float16).astype(F32)
    assert kind == "q8_0"
    groups = [group_in_q8_0(x[..., first : first + 32]) for first in range(0, x.shape[-1], 32)]
    return np.concatenate(groups, axis=-1)


def group_in_q8_0(x):
    d, q = quantised_group(x)
    return d[..., None] * q


def quantised_group(x):
    d = (np.max(np.abs(x), axis=-1) / F32(127)).astype(np.float16).astype(F32)
    q = np.rint(np.clip(x * (F32(1) / d)[..., None], F32(-127), F32(127)))
    usable = np.isfinite(d) & (d != 0)
    q = np.where(usable[..., None], q, F32(0))
    # An integer has no -0.
    return d, q + F32(0)


def attend(q, keys, values, position, scale, window=None, cap=None, sinks=None):
    """q [heads, d] of the token at `position`; keys and values [positions, kv heads, d], as the cache gives them back."""
    group = len(q) // keys.shape[1]
    keys = np.repeat(keys, group, axis=1).transpose(1, 0, 2)
    values = np.repeat(values, group, axis=1).transpose(1, 0, 2)
    begin = max(0, position + 1 - window) if window else 0
    state = None
    for block in range(begin // BLOCK, position // BLOCK + 1):
        first, last = max(begin, BLOCK * block), min(position + 1, BLOCK * block + BLOCK)
        chain = np.zeros((len(q), last - first), dtype=F32)
        for d in range(q.shape[1]):
            chain = fma(q[:, None, d], keys[:, first:last, d], chain)
        s = scale * chain
        if cap is not None:
            s = softcap(s, cap)
        m_b = np.max(s, axis=1)
        weights = np.zeros((len(q), BLOCK), dtype=F32)
        weights[:, first % BLOCK : first % BLOCK + last - first] = exp(s - m_b[:, None])
        l_b = lane_sum(weights)
        o_b = np.zeros((len(q), values.shape[2]), dtype=F32)
        for at in range(first, last):
            o_b = fma(weights[:, at % BLOCK, None], values[:, at], o_b)
        if state is None:
            m, l, o = state = m_b, l_b, o_b
            continue
        m, l, o = state
        larger = np.maximum(m, m_b)
        x, z = exp(m - larger), exp(m_b - larger)
        state = larger, fma(l_b, z, l * x), fma(o_b, z[:, None], o * x[:, None])
    m, l, o = state
    if sinks is not None:
        larger = np.maximum(m, sinks)
        x = exp(m - larger)
        l, o = l * x + exp(sinks - larger), o * x[:, None]
    return o / l[:, None]
