"""Norms and matrix products: the sections "Sums" and "Matrix products" of docs/numerics.md."""

import numpy as np

import blocks
from arithmetic import F32, F64, add_flushed, fma, fma_flushed, lane_sum, subnormal_to_zero, to_bf16
from functions import exp, ln


def rms_norm(x, weight, eps):
    square_sum = lane_sum(x, lambda chain, part: fma(part, part, chain))
    g = F32(1) / np.sqrt(square_sum / F32(x.shape[-1]) + eps)
    return (x * g[..., None]) * weight


def log_sum_exp(x):
    m = np.max(x)
    return m if m == F32(-np.inf) else m + ln(lane_sum(exp(x - m)))


def quantised(x, block):
    """Activations in int8: the scales d, and the quants as floats, which are whole."""
    shape = (*x.shape[:-1], x.shape[-1] // block, block)
    x = x.reshape(shape)
    amax = np.max(np.abs(x), axis=-1)
    zero = amax < F32(2.0**-100)
    safe = np.where(zero, F32(1), amax)
    d = np.where(zero, F32(0), amax / F32(127))
    q = np.rint(x * (F32(127) / safe)[..., None])
    q = np.where(zero[..., None] | np.isnan(q), F32(0), q)
    return d, q


def product(x, matrix, bias=None):
    """x of shape [tokens, k] times a matrix of n rows: [tokens, n]."""
    y = FORMS[type(matrix)](x, matrix)
    return y if bias is None else y + bias


def product_by_32(x, w):
    d, q = quantised(x, 32)
    zero = np.zeros((len(x), len(w.quants)), dtype=F32)
    acc, accm = zero, zero
    for first in range(0, x.shape[-1], w.step):
        block = first // 32
        inner = slice(first % 32, first % 32 + w.step)
        isum = whole_product(q[:, block, inner], w.quants[:, first : first + w.step])
        acc = fma(np.outer(d[:, block], w.scales[:, first // w.step]), isum, acc)
        if w.minima is not None:
            sx = d[:, block] * q[:, block].sum(axis=-1)
            accm = fma(w.minima[None, :, block], sx[:, None], accm)
    return acc if w.minima is None else acc + accm


def product_by_256(x, w):
    d, q = quantised(x, 256)
    zero = np.zeros((len(x), len(w.quants)), dtype=F32)
    acc, accm = zero, zero
    for block in range(x.shape[-1] // 256):
        in_block = slice(256 * block, 256 * block + 256)
        # S = Σⱼ scⱼ·isumⱼ: exact, so the order is free.
        isum = whole_product(q[:, block], (w.quants * w.sub_scales)[:, in_block])
        acc = fma(np.outer(d[:, block], w.scales[:, block]), isum, acc)
        if w.minima is not None:
            msum = whole_product(q[:, block], w.sub_minima[:, in_block])
            accm = fma(np.outer(d[:, block], w.minima[:, block]), msum, accm)
    return acc if w.minima is None else acc - accm


def whole_product(q, quants):
    """Of whole numbers, in binary64, which holds every partial sum, so that no order matters; rounded to binary32 once."""
    return (q.astype(F64) @ quants.astype(F64).T).astype(F32)


def product_in_f32(x, w):
    acc = np.zeros((len(x), len(w.numbers)), dtype=F32)
    for k in range(x.shape[-1]):
        acc = fma(w.numbers[None, :, k], x[:, k, None], acc)
    return acc


def product_in_bf16(x, w):
    x, weights = to_bf16(x), subnormal_to_zero(w.numbers)
    padding = -x.shape[-1] % 32
    x = np.pad(x, ((0, 0), (0, padding)))
    weights = np.pad(weights, ((0, 0), (0, padding)))
    acc = np.zeros((len(x), len(weights)), dtype=F32)
    for first in range(0, x.shape[-1], 32):
        halves = []
        for parity in (0, 1):
            e = np.zeros_like(acc)
            for k in range(first + parity, first + 32, 2):
                e = fma_flushed(weights[None, :, k], x[:, k, None], e)
            halves.append(e)
        acc = add_flushed(acc, add_flushed(*halves))
    return acc


FORMS = {
    blocks.By32: product_by_32,
    blocks.By256: product_by_256,
    blocks.Plain: product_in_f32,
    blocks.Bf16: product_in_bf16,
}
