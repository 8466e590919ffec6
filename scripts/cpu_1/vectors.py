"""Writes the test vectors of tests/data/cpu-1: for every operation inputs, edges among them, and the bits that come out.

Numbers are drawn from the contract's own Philox, so the files are the same on every machine.
"""

import hashlib
import json
import math
import pathlib
from fractions import Fraction

import numpy as np

import attention
import blocks
import config
import decoder
import functions
import products
import sampling
from arithmetic import F32, fma, from_bits, to_bf16, to_bits

# How values are written.


def words(x):
    """Binary32: eight hexadecimal digits each. Every NaN is the same one: its bits are outside the contract."""
    x = np.asarray(x, dtype=F32).reshape(-1)
    return " ".join(f"{bits:08x}" for bits in to_bits(np.where(np.isnan(x), F32(np.nan), x)))


def words64(x):
    return " ".join(f"{bits:016x}" for bits in np.array(x, dtype=np.float64).view(np.uint64))


# What numbers there are.


def random_words(seed, count):
    out = []
    for position in range(-(-count // 4)):
        out += sampling.philox4x32([position, 0, 0, 0], [seed, 0])
    return np.array(out[:count], dtype=np.uint32)


def random(seed, count, spread=1.0):
    """Evenly over ±spread."""
    return ((random_words(seed, count) >> 8).astype(F32) / F32(2**23) - F32(1)) * F32(spread)


def any_size(seed, count, lowest, highest):
    """With exponents evenly between two, as powers of 2."""
    exponents = random_words(seed + 1, count) % (highest - lowest + 1)
    return np.ldexp(random(seed, count), exponents.astype(np.int32) + lowest)


# Zeros, subnormal numbers, the edge of underflow, ties of halves and of whole numbers, the ends of f16 and of exp, the largest.
EDGES = from_bits(np.array([
    0x00000000, 0x80000000, 0x00000001, 0x80000001, 0x00400000, 0x007FFFFF, 0x807FFFFF, 0x00800000, 0x80800000, 0x00800001,
    0x0D800000, 0x0D7FFFFF, 0x32800000, 0x33000000, 0xB3000001, 0x33800000, 0x387FC000, 0x38800000, 0x3EFFFFFF, 0x3F000000,
    0xBF000000, 0x3F7FFFFF, 0x3F800000, 0xBF800000, 0x3F800001, 0x3FC00000, 0x40200000, 0xC0200000, 0x40400000, 0x42FE0000,
    0x42FF0000, 0xC3000000, 0x477FE000, 0x477FEFFF, 0x477FF000, 0xC77FF000, 0x4B800000, 0x4B800001, 0x5F000000, 0x7E800000,
    0xFE800000, 0x7F000000, 0x7F7FFFFF, 0xFF7FFFFF,
], dtype=np.uint32))  # fmt: skip


def edges(start, count):
    return np.resize(np.roll(EDGES, -start), count)


def small_edges(start, count):
    """Those whose products do not overflow."""
    small = EDGES[np.abs(EDGES) < F32(2**20)]
    return np.resize(np.roll(small, -start), count)


def next_to(bits, steps=3):
    return from_bits(np.array([at + step for at in bits for step in range(-steps, steps + 1)], dtype=np.uint32))


def inputs():
    """For functions of one number: edges, infinities, what is next to a boundary of some function, any bits."""
    boundaries = [
        0xC2AEAC4F, 0x42B17217, 0x42AEAC4F, 0xC2B17217,  # exp, and exp of the negative
        0x3F200000, 0xBF200000, 0x41102CB3,  # tanh: where it changes form, and where it becomes 1
        0x3F3504F3, 0x3FB504F3, 0x3F800000, 0x00B504F3, 0x40000000,  # ln
        0x3EB17218, 0xBEB17218, 0x3F317218,  # halves of ln 2
    ]  # fmt: skip
    any_bits = from_bits(random_words(1, 160))
    return np.concatenate([
        EDGES, from_bits(np.array([0x7F800000, 0xFF800000, 0x7FC00000], dtype=np.uint32)), next_to(boundaries),
        any_bits[~np.isnan(any_bits)], random(2, 64, 4), random(3, 64, 90), any_size(4, 64, -30, 2),
    ])  # fmt: skip


def function_vectors():
    x = inputs()
    vectors = {}
    for name in ("exp", "sigmoid", "silu", "tanh", "gelu", "ln"):
        vectors[name] = {"x": words(x), "out": words(getattr(functions, name)(x))}
    vectors["softcap"] = [
        {"cap": words(cap), "x": words(x), "out": words(functions.softcap(x, F32(cap)))} for cap in (30, 50, 0.7, 1e-38)
    ]
    gate, up = np.concatenate([x, x]), np.concatenate([np.roll(x, 5), random(5, len(x), 8)])
    vectors["units"] = [
        {"unit": "silu", "gate": words(gate), "up": words(up), "out": words(functions.silu_unit(gate, up))},
        {"unit": "gelu", "gate": words(gate), "up": words(up), "out": words(functions.gelu_unit(gate, up))},
    ]
    for alpha, limit in ((1.702, 7), (-3, 1e-40)):
        alpha, limit = F32(alpha), F32(limit)
        out = functions.clamped_silu_unit(gate, up, alpha, limit)
        case = {"unit": "clamped silu", "alpha": words(alpha), "limit": words(limit)}
        vectors["units"].append(case | {"gate": words(gate), "up": words(up), "out": words(out)})
    return vectors


def binary64_vectors():
    spread = [float(x) for x in random(6, 60)]
    exponents = [700 * x for x in spread] + [0.0, -0.0, -708.0, -708.5, 709.0, 709.5, 0.34657359027997264]
    positive = [functions.exp64(300 * x) for x in spread] + [1.0, 2.0, 0.5, 0.7071067811865476, 0.7071067811865475, 2.0**-1022]
    # Angles, which are binary32 numbers.
    angles = [float(F32(x * 2.0**k)) for x, k in zip(spread, range(-20, 26))] + [0.0, -0.0, 1.5707963705062866, 33554432.0]
    pairs = [(theta, -(2 * i) / d) for theta in (1e4, 5e5, 1e6, 500.0) for d in (8, 64, 128) for i in (0, 1, d // 2 - 1)]
    return {
        "exp": {"x": words64(exponents), "out": words64([functions.exp64(x) for x in exponents])},
        "ln": {"x": words64(positive), "out": words64([functions.ln64(x) for x in positive])},
        "pow": {
            "base": words64([b for b, _ in pairs]),
            "exponent": words64([y for _, y in pairs]),
            "out": words64([functions.pow64(b, y) for b, y in pairs]),
        },
        "sin": {"x": words64(angles), "out": words64([functions.sin_cos64(x)[0] for x in angles])},
        "cos": {"x": words64(angles), "out": words64([functions.sin_cos64(x)[1] for x in angles])},
    }


def rows_of_every_size():
    """Vectors for sums: of lengths that leave every kind of tail, plain, with edges, close together, far apart."""
    for seed, length in enumerate((1, 2, 15, 16, 17, 33, 64, 100)):
        yield random(10 + seed, length, 4)
        yield edges(seed, length)
        yield random(30 + seed, length, 1e-6) + F32(3)
        yield any_size(50 + 2 * seed, length, -130, 60)
    for spread in (1e18, 1e-18, 1e-38):
        yield random(70, 40, spread)
    yield np.zeros(18, dtype=F32)
    yield np.array([4096, 1, 1, 1, 4096, *[1] * 12, 4096], dtype=F32)


def sum_vectors():
    norms, logarithms, residuals = [], [], []
    for seed, x in enumerate(rows_of_every_size()):
        weight = random(100 + seed, len(x), 2)
        for eps in (F32(1e-5), F32(1e-6)):
            out = products.rms_norm(x, weight, eps)
            norms.append({"x": words(x), "weight": words(weight), "eps": words(eps), "out": words(out)})
        logarithms.append({"x": words(x), "out": words(products.log_sum_exp(x))})
        y = random(140 + seed, len(x), 3)
        residuals.append({"x": words(x), "y": words(y), "scale": None, "out": words(x + y)})
        scale = F32(0.22)
        residuals.append({"x": words(x), "y": words(y), "scale": words(scale), "out": words(fma(y, scale, x))})
    infinite = np.array([-np.inf, 2.5, -np.inf], dtype=F32)
    for x in (infinite, infinite[:1], np.array([np.inf, 1], dtype=F32)):
        logarithms.append({"x": words(x), "out": words(products.log_sum_exp(x))})
    return {"rms_norm": norms, "log_sum_exp": logarithms, "residual": residuals}


def activation_rows(length):
    """Named rows of activations."""
    below = F32(2.0**-100)
    yield "plain", random(200, length)
    yield "edges", edges(3, length)
    yield "small edges", small_edges(5, length)
    yield "far apart", any_size(201, length, -60, 20)
    yield "subnormal", random(203, length, 1e-38)
    yield "about 2^-100", np.where(np.arange(length) % 64 < 32, below, np.nextafter(below, F32(0))) * np.sign(random(204, length))
    # Products with 127 ÷ 127 are themselves: ties between whole numbers.
    halves = np.round(random(205, length, 252)) / F32(2)
    halves[::32] = 127
    yield "ties", halves
    yield "negative zeros", np.full(length, -0.0, dtype=F32)
    yield "largest", np.where(random(206, length) < 0, F32(-1), F32(1))
    # Products with weights of like size are next to 2^-126.
    yield "next to underflow", random(207, length) * F32(2.0**-63)
    yield "next to overflow", random(208, length) * F32(2.0**126)
    infinite = random(209, length)
    infinite[5] = np.inf
    yield "an infinity", infinite
    infinite = random(210, length)
    infinite[length - 1] = np.nan
    yield "a NaN", infinite


def activation_vectors():
    vectors = {"int8": [], "bf16": []}
    for name, x in activation_rows(256):
        for block in (32, 256):
            d, q = products.quantised(x, block)
            quants = [int(number) for number in q.reshape(-1)]
            vectors["int8"].append({"name": name, "block": block, "x": words(x), "d": words(d), "q": quants})
        vectors["bf16"].append({"name": name, "x": words(x), "out": words(to_bf16(x))})
    # Ties and their neighbours, and what rounds to the smallest normal number or to infinity.
    x = next_to([0x3F808000, 0x3F818000, 0x007F8000, 0x00808000, 0x7F7F8000, 0x7F7F7FFF, 0x00800000], 1)
    vectors["bf16"].append({"name": "ties", "x": words(x), "out": words(to_bf16(x))})
    return vectors


# Where a block's f16 scales are, for types whose scale is one.
SCALES = {
    "Q4_1": [0, 2], "Q5_1": [0, 2], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q2_K": [80, 82], "Q3_K": [108], "Q6_K": [208],
    "TQ1_0": [52], "TQ2_0": [64], "MXFP4": [], "NVFP4": [], "IQ1_M": [],
}  # fmt: skip
ROWS = 5


def weight_bytes(kind, k, seed):
    """Of ROWS rows: any quants, all alike in the last one; scales of every size."""
    if kind in ("F32", "F16", "BF16"):
        rows = [random(seed, k), small_edges(seed, k), edges(seed, k), any_size(seed, k, -40, 10), any_size(seed, k, -64, -60)]
        x = np.concatenate(rows)
        if kind == "F32":
            return x.tobytes()
        if kind == "F16":
            return np.clip(x, -65504, 65504).astype("<f2").tobytes()
        # Cut off and not rounded: the largest stay finite.
        return (to_bits(x) >> 16).astype("<u2").tobytes()
    numbers, size, _ = blocks.FORMATS[kind]
    count = ROWS * k // numbers
    raw = random_words(seed, count * size).astype(np.uint8).reshape(count, size)
    raw[-k // numbers :] = np.array([0x00, 0xFF, 0x80, 0x77], dtype=np.uint8)[np.arange(k // numbers) % 4, None]
    scales = np.resize(np.array([0.1, 0, -0.02, 6e-5, -6e-8, 1.5, 65504, -0.0, 3e-6, -700], dtype="<f2"), 2 * count)
    for place, at in enumerate(SCALES.get(kind, [0])):
        raw[:, at : at + 2] = scales[place * 3 :][:count].view(np.uint8).reshape(-1, 2)
    if kind == "MXFP4":
        raw[:, 0] = np.resize(np.array([0, 1, 2, 100, 125, 126, 127, 128, 140, 200, 254], dtype=np.uint8), count)
    if kind == "NVFP4":
        raw[:, :4] = np.resize(
            np.array([0x00, 0x01, 0x07, 0x08, 0x38, 0x7E, 0x7F, 0x80, 0xFF, 0xB9, 0x33], dtype=np.uint8), (count, 4)
        )
    if kind == "IQ1_M":
        # The f16 is in four parts, of which the last has the sign and the upper exponent.
        raw[:, 55] &= 0xBF
    return raw.tobytes()


def product_vectors():
    cases, activations = [], {}
    for seed, kind in enumerate(["F32", "F16", "BF16", *blocks.FORMATS]):
        numbers = blocks.FORMATS[kind][0] if kind in blocks.FORMATS else 1
        k = {1: 67, 32: 96, 64: 128, 256: 512}[numbers]
        names = [name for name, _ in activation_rows(k) if numbers > 1 or name not in ("an infinity", "a NaN")]
        activations[k] = dict(activation_rows(k))
        x = np.stack([activations[k][name] for name in names])
        raw = weight_bytes(kind, k, 300 + seed)
        matrix = blocks.matrix(kind, raw, ROWS, k)
        case = {"type": kind, "n": ROWS, "k": k, "weights": raw.hex(), "x": names}
        case["decoded_rows_0_and_4"] = words([matrix.row(0), matrix.row(4)])
        bias = random(400 + seed, ROWS)
        case["out"] = [words(row) for row in products.product(x, matrix)]
        case["bias"], case["out_with_bias"] = words(bias), [words(row) for row in products.product(x, matrix, bias)]
        cases.append(case)
    x = {str(k): {name: words(row) for name, row in rows.items()} for k, rows in activations.items()}
    return {"x": x, "products": cases}


def rope_vectors():
    yarn = {"type": "yarn", "factor": 4.0, "context": 4096.0}
    llama3 = {"type": "llama3", "factor": 8.0, "low": 1.0, "high": 4.0, "context": 8192.0}
    long = {"type": "longrope", "factor": 4.0, "context": 4096.0}
    scalings = [
        (1e4, 8, {"type": "none"}, None), (5e5, 64, {"type": "none"}, None), (1e6, 16, {"type": "linear", "factor": 8.0}, None),
        (5e5, 128, llama3, None), (1e6, 16, yarn, None), (1e6, 64, yarn, None), (150000.0, 64, yarn | {"truncate": False}, None),
        (1e4, 64, yarn | {"factor": 40.0, "mscale": 0.707, "mscale_all_dim": 1.0, "beta_fast": 16.0, "beta_slow": 2.0}, None),
        (1e4, 32, yarn | {"attention_factor": 1.25}, None), (1e4, 32, yarn | {"gguf_attention_factor": 0.5}, None),
        (1e4, 8, yarn | {"factor": 0.5}, None), (1e4, 16, yarn | {"context": 4.0}, None), (1e4, 16, yarn | {"context": 1.0}, None),
        (1e4, 8, {"type": "factors"}, [1.0, 1.5, 2.0, 33.0]),
        (1e4, 8, long, [1.0, 1.5, 2.0, 3.0]), (1e4, 8, long | {"attention_factor": 1.19}, [1.0, 1.5, 2.0, 3.0]),
        (1e4, 8, long | {"factor": 1.0}, [1.0, 1.1, 1.2, 1.3]),
    ]  # fmt: skip
    cases = []
    for seed, (theta, d, scaling, factors) in enumerate(scalings):
        factors = None if factors is None else np.array(factors, dtype=F32)
        rope = attention.Rope(theta, d, scaling, factors)
        # Three more dimensions, which are not rotated.
        heads = np.stack([random(500 + seed, d + 3, 2), edges(seed, d + 3)])
        turned = []
        for position in (0, 1, 129, 12345, 2**24 - 1):
            cos, sin = rope.tables(position)
            out = rope.rotate(heads, position)
            turned.append({"position": position, "cos": words(cos), "sin": words(sin), "out": words(out)})
        case = {"theta": theta, "d": d, "scaling": scaling, "factors": None if factors is None else words(factors)}
        case["inverse_frequencies"] = words(rope.inverse_frequencies)
        case["attention_factor"] = words(rope.attention_factor)
        cases.append(case | {"heads": [words(head) for head in heads], "turned": turned})
    return cases


def groups():
    """For a cache: named heads."""
    power = lambda n: F32(2.0**n)
    near = lambda x, step: from_bits(int(to_bits(F32(x))) + step)
    yield "plain", random(600, 32)
    yield "one and a short group", random(601, 37)
    yield "one number", [-3 / 7]
    yield "the largest is negative", random(602, 32, 0.7) - F32(0.5)
    halves = [n / 2 for n in (254, 1, 3, 5, -1, -3, -5, 253, 251, -253, 0, 2)]
    yield "ties to even", halves
    yield "next to ties", [127, *(near(n, step) for n in halves[1:10] for step in (-1, 1))]
    yield "zeros of both signs", [0.0, -0.0, -0.0, 0.0]
    yield "a large one among small ones", [1.0, -0.0, 1e-45, -1e-45, near(power(-126), -1), 5.9604645e-8]
    yield "subnormal numbers", [1e-45, -1e-45, near(power(-126), -1), -near(power(-126), -1), power(-126)]
    lowest = F32(127) * power(-25)
    yield "the scale is a tie and becomes 0", [lowest, -lowest / 2]
    yield "the scale just does not become 0", [near(lowest, 1), -lowest / 2, lowest / 127, lowest / 128]
    below = F32(127) * power(-24) * F32(1.49)
    yield "beyond 127 under a subnormal scale", [below, -below, below * F32(0.9)]
    yield "a scale between two subnormal ones", [127 * power(-24) * F32(2.5), power(-20), -power(-21)]
    normal = F32(127) * power(-14)
    for step in (-1, 0, 1):
        yield f"about the smallest normal scale {step:+}", [near(normal, step), -normal / 3]
    last = F32(127 * 65520)
    yield "the largest scale", [127 * 65504, -65504, 1]
    yield "just below what has no scale", [near(last, -1), -last / 2]
    for name, first in (
        ("beyond the largest scale", last),
        ("the largest number", near(np.inf, -1)),
        ("an infinity", -np.inf),
        ("a NaN", np.nan),
    ):
        yield name, [1, first, 0, -0.0]
    yield (
        "the ends of f16",
        [65504, 65519.996, 65520, -65520, 5.9604645e-8, 2.9802322e-8, 2.9802326e-8, 6.0975552e-5, 6.1035156e-5],
    )


def cache_vectors():
    cases = []
    for name, x in groups():
        x = np.array(x, dtype=F32)
        read = {kind: words(attention.in_cache(x, kind)) for kind in ("f16", "q8_0")}
        cases.append({"name": name, "x": words(x)} | read)
    return cases


def attention_vectors():
    spread = any_size(700, 131 * 2 * 8, -12, 3)
    caches = {
        "plain": (131, 2, 8, random(701, 131 * 2 * 8, 2), random(702, 131 * 2 * 8)),
        "far apart": (131, 2, 8, spread, any_size(703, 131 * 2 * 8, -140, 14)),
        "a short group": (70, 1, 40, random(704, 70 * 40), random(705, 70 * 40)),
    }
    # A later block has the largest score, then an earlier one.
    caches["plain"][3][64 * 16 : 65 * 16] *= 8
    sinks = np.array([0.5, -40, 90, 3], dtype=F32)
    cases = []

    def case(cache, kind, heads, position, scale, spread, window=None, cap=None, sinks=None):
        positions, kv_heads, length, k, v = caches[cache]
        k, v = (attention.in_cache(part.reshape(positions, kv_heads, length), kind) for part in (k, v))
        q = random(720 + len(cases), heads * length, spread).reshape(heads, length)
        cap = None if cap is None else F32(cap)
        out = attention.attend(q, k, v, position, F32(scale), window, cap, sinks)
        settings = {
            "cache": cache,
            "kv": kind,
            "heads": heads,
            "position": position,
            "scale": words(F32(scale)),
            "window": window,
        }
        settings |= {"softcap": None if cap is None else words(cap), "sinks": None if sinks is None else words(sinks)}
        cases.append(settings | {"q": words(q), "out": words(out)})

    for kind in ("f32", "f16", "q8_0"):
        for position in (0, 1, 62, 63, 64, 65, 126, 127, 128, 130):
            case("plain", kind, 4, position, 8**-0.5, 4)
            case("far apart", kind, 2, position, 0.3, 40)
        for window in (1, 2, 8, 63, 64, 65, 100, 131, 1000):
            case("plain", kind, 4, 130, 8**-0.5, 4, window=window)
        case("plain", kind, 4, 129, 8**-0.5, 4, cap=2)
        case("plain", kind, 4, 129, 8**-0.5, 4, sinks=sinks)
        case("plain", kind, 4, 130, 8**-0.5, 4, window=70, cap=50, sinks=sinks)
        case("plain", kind, 2, 130, -5.0, 100)
        for position in (0, 63, 69):
            case("a short group", kind, 3, position, 0.25, 4)
    named = {
        name: {"positions": positions, "kv_heads": kv_heads, "length": length, "k": words(k), "v": words(v)}
        for name, (positions, kv_heads, length, k, v) in caches.items()
    }
    return {"caches": named, "cases": cases}


def routing_vectors():
    rows = [random(800, 16, 4), random(801, 33, 4), np.zeros(8, dtype=F32), edges(0, 20), np.round(random(802, 40, 2))]
    rows += [
        np.array([-0.0, 0.0, -1.0, 0.0], dtype=F32),
        np.array([1, 90, -90, 89], dtype=F32),
        np.array([2, np.nan, 1], dtype=F32),
    ]
    cases = []
    for logits in rows:
        for count in sorted({1, 2, min(8, len(logits)), len(logits)}):
            for among_chosen in (False, True):
                chosen = decoder.route(logits, count, among_chosen)
                share = "of the chosen" if among_chosen else "of all"
                case = {"logits": words(logits), "count": count, "share": share}
                cases.append(case | {"experts": [e for e, _ in chosen], "weights": words([weight for _, weight in chosen])})
    return cases


def sampling_vectors():
    words_of = [[0] * 4 + [0] * 2, [2**32 - 1] * 6, [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344, 0xA4093822, 0x299F31D0]]
    philox = [{"counter": w[:4], "key": w[4:], "out": sampling.philox4x32(w[:4], w[4:])} for w in words_of]
    places = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (2**32, 0, 0), (0, 2**32, 0), (2**63 + 5, 3, 2**40), (7, 0, 100)]
    uniform = [
        {
            "seed": str(seed),
            "stream": str(stream),
            "position": str(position),
            "out": words64([sampling.uniform(seed, stream, position)]),
        }
        for seed, stream, position in places
    ]
    choices = []
    for number in range(240):
        r = [int(w) for w in random_words(900 + number, 24)]
        vocabulary = 1 + r[0] % 40
        # In steps of a quarter, so that some are equal, or of whatever size.
        logits = random(1200 + number, vocabulary, 4)
        logits = np.round(logits * 4) / F32(4) if r[1] % 2 else logits
        prompt = [r[2 + i] % vocabulary for i in range(r[1] // 2 % 5)]
        answer = [r[7 + i] % vocabulary for i in range(r[1] // 16 % 5)]
        some = lambda i, values: F32(values[r[i] % len(values)])
        settings = sampling.Settings(
            temperature=some(12, [0, 1e-3, 0.3, 1, 1, 1.7, 1e-45]),
            top_k=[0, 0, 1, 3, 10, 100][r[13] % 6],
            top_p=some(14, [0, 0.5, 0.9, 1, 1]),
            min_p=some(15, [0, 0, 0.05, 0.5, 1]),
            repetition_penalty=some(16, [1, 1, 0.7, 1.3]),
            presence_penalty=some(17, [0, 0.5, -1]),
            frequency_penalty=some(18, [0, 0.25, 1.1]),
            logit_bias=[[], [(0, F32(-100))], [(0, F32(1.5)), (vocabulary - 1, F32(-0.5))]][r[19] % (3 if vocabulary > 1 else 2)],
            seed=r[20] << 32 | r[21],
        )
        position = r[22] % 1000
        case = {"logits": words(logits), "prompt": prompt, "answer": answer, "position": position}
        for name in ("temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"):
            case[name] = words(getattr(settings, name))
        case["top_k"], case["seed"] = settings.top_k, str(settings.seed)
        case["logit_bias"] = [[token, words(bias)] for token, bias in settings.logit_bias]
        case["token"] = sampling.choose(logits, settings, prompt, answer, position)
        case["log_probability"] = words(sampling.log_probability(logits, case["token"]))
        choices.append(case)
    return {"philox4x32": philox, "uniform": uniform, "choices": choices}


DATA = pathlib.Path(__file__).parents[2] / "tests" / "data"


def logits_vectors():
    """The SHA-256 of the logits of all tokens, little-endian binary32, one row per token."""
    short = [path.relative_to(DATA) for path in sorted(DATA.glob("gguf/*.gguf"))]
    short += [
        f"golden/{name}" for name in ("llama", "llama_hd", "llama_linear", "llama_rope3", "llama_tied", "mistral", "mistral_swa")
    ]
    short += [f"golden/{name}" for name in ("qwen2", "qwen2_yarn", "qwen3")]
    # Over more than two blocks of positions; tiny-llama.gguf has layers of many types.
    long = [
        "tiny/tiny-llama.gguf",
        "golden/llama",
        "golden/mistral_swa",
        "gguf/gemma3.gguf",
        "gguf/gpt_oss.gguf",
        "gguf/glm4.gguf",
    ]
    cases = []
    for path, count in [(path, 24) for path in short] + [(path, 150) for path in long]:
        model = decoder.Model(*config.opened(DATA / path))
        tokens = [(i * i * 7 + i * 3 + 1) % 320 for i in range(count)]
        digests = {kind: digest(model.logits(tokens, kind)) for kind in ("f32", "f16", "q8_0")}
        cases.append({"model": str(path), "tokens": tokens, "sha256": digests})
    return cases


def digest(logits):
    return hashlib.sha256(np.ascontiguousarray(logits, dtype="<f4").tobytes()).hexdigest()


FILES = {
    "functions.json": function_vectors,
    "binary64.json": binary64_vectors,
    "sums.json": sum_vectors,
    "activations.json": activation_vectors,
    "products.json": product_vectors,
    "rope.json": rope_vectors,
    "cache.json": cache_vectors,
    "attention.json": attention_vectors,
    "routing.json": routing_vectors,
    "sampling.json": sampling_vectors,
    "logits.json": logits_vectors,
}


def text_of(value, indent=""):
    """JSON, with what is short on one line, so that files can be read and compared."""
    whole = json.dumps(value)
    if len(whole) < 120 or isinstance(value, str) or isinstance(value, list) and isinstance(value[0], int):
        return whole
    inner = indent + " "
    if isinstance(value, dict):
        lines, ends = [f"{json.dumps(key)}: {text_of(part, inner)}" for key, part in value.items()], "{}"
    else:
        lines, ends = [text_of(part, inner) for part in value], "[]"
    return f"{ends[0]}\n{inner}" + f",\n{inner}".join(lines) + f"\n{indent}{ends[1]}"


def write():
    for name, make in FILES.items():
        (DATA / "cpu-1" / name).write_text(text_of(make()) + "\n")
        print(DATA / "cpu-1" / name)


def rounded(x):
    """A fraction as the nearest binary32, ties to even, worked out in whole numbers."""
    if x == 0:
        return 0.0
    exponent = abs(x.numerator).bit_length() - x.denominator.bit_length()
    exponent -= abs(x) < Fraction(2) ** exponent
    step = Fraction(2) ** max(exponent - 23, -149)
    whole = round(x / step) * step
    return math.copysign(math.inf, x) if abs(whole) >= 2**128 else float(whole)


def check_fma():
    """That fma, which everything stands on, is right on any bits, on edges, and where much cancels."""
    a, b, c = (from_bits(random_words(seed, 6000)) for seed in (1, 2, 3))
    nearby = F32(1) + random(4, 6000, 2.0**-20)
    a, b = np.concatenate([a, a, edges(0, 4000), nearby]), np.concatenate([b, b, edges(7, 4000) * nearby[:4000], nearby[::-1]])
    c = np.concatenate([c, -(a[:6000] * b[:6000]) * nearby, np.resize(EDGES, 4000) * nearby[:4000], -nearby])
    for *terms, found in zip(a, b, c, fma(a, b, c)):
        if np.isfinite(terms).all():
            x, y, z = (Fraction(float(term)) for term in terms)
            assert found == rounded(x * y + z), f"fma{(*terms,)} is not {found}"


def check():
    """Whether the files are what would be written; says of the first other line of each where it is."""
    check_fma()
    others = []
    for name, make in FILES.items():
        found, expected = (DATA / "cpu-1" / name).read_text().split("\n"), (text_of(make()) + "\n").split("\n")
        if found != expected:
            at = next((at for at, (a, b) in enumerate(zip(found, expected), 1) if a != b), min(len(found), len(expected)))
            others.append(f"{name}: line {at} is another")
        print(name, "differs" if found != expected else "as it should be")
    return others
