"""The errors of llama.cpp's encoders (llama-cpp-python 0.3.36) on the numbers of `tests/it/quantize.rs`, without and with
importance, as that test has them. Needs llama-cpp-python, numpy and gguf."""

import ctypes
import glob
import os

import gguf
import llama_cpp
import numpy as np

TYPES = "Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS".split()
MASK = (1 << 64) - 1


def random(seed, length, spread):
    """As `tests/it/numbers.rs`."""
    state = seed * 0x9E3779B97F4A7C15 & MASK
    numbers = np.empty(length, np.float32)
    for index in range(length):
        state = state + 0x9E3779B97F4A7C15 & MASK
        z = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & MASK
        z = (z ^ z >> 27) * 0x94D049BB133111EB & MASK
        z ^= z >> 31
        numbers[index] = (np.float32(z >> 40) / np.float32(8388608) - np.float32(1)) * np.float32(spread)
    return numbers


def main():
    numbers = np.zeros(16 * 256, np.float32)
    for part in random(7, 12 * 16 * 256, 1.0).reshape(-1, 12).T:
        numbers = numbers + part
    importance = np.exp2(random(8, len(numbers), 4.0)).astype(np.float32)
    folder = os.path.join(os.path.dirname(llama_cpp.__file__), "lib")
    encode = ctypes.CDLL(glob.glob(f"{folder}/libggml-base.so*")[0]).ggml_quantize_chunk
    encode.restype = ctypes.c_size_t
    encode.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p]
    for name in TYPES:
        kind = gguf.GGMLQuantizationType[name]
        length, size = gguf.GGML_QUANT_SIZES[kind]
        errors = []
        for given in (None, importance):
            out = np.zeros(len(numbers) // length * size, np.uint8)
            # One row, so that each number has its own importance.
            pointer = None if given is None else given.ctypes.data
            encode(int(kind), numbers.ctypes.data, out.ctypes.data, 0, 1, len(numbers), pointer)
            found = gguf.quants.dequantize(out.reshape(1, -1), kind).ravel().astype(np.float64)
            weights = np.ones_like(found) if given is None else given
            errors.append(np.sqrt((weights * (numbers - found) ** 2).sum() / (weights * numbers.astype(np.float64) ** 2).sum()))
        print(f"{name}: {errors[0]:.5f} {errors[1]:.5f}")


main()
