"""Reads what the decoder needs of GGUF files and Hugging Face folders: hyper-parameters and tensors, under GGUF's names."""

import json
import math
import mmap
import pathlib
import struct

import numpy as np

import blocks

# Of GGUF's metadata: struct codes by type number; 8 is a text, 9 an array.
CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
# Tensor types by number, ggml's.
TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 10: "Q2_K", 11: "Q3_K", 12: "Q4_K",
    13: "Q5_K", 14: "Q6_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S",
    23: "IQ4_XS", 29: "IQ1_M", 30: "BF16", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4", 40: "NVFP4",
}  # fmt: skip
PLAIN_BYTES = {"F32": 4, "F16": 2, "BF16": 2}


class Tensor:
    """Raw numbers of a type; `shape` has the rows' length last."""

    def __init__(self, kind, shape, raw):
        self.kind, self.shape, self.raw = kind, shape, raw

    def matrix(self, first=0, rows=None):
        """Of so many rows from a first one on, all matrices of a stack counted as one."""
        k = self.shape[-1]
        rows = math.prod(self.shape[:-1]) if rows is None else rows
        size = row_bytes(self.kind, k)
        return blocks.matrix(self.kind, self.raw[first * size : (first + rows) * size], rows, k)

    def numbers(self):
        """As binary32, in the tensor's shape: of vectors, and of stacks of them."""
        matrix = self.matrix()
        return np.stack([matrix.row(n) for n in range(math.prod(self.shape[:-1]))]).reshape(self.shape)

    def taken(self, rows):
        """Of these rows of a matrix, or numbers of a vector."""
        size = PLAIN_BYTES[self.kind] if len(self.shape) == 1 else row_bytes(self.kind, self.shape[-1])
        raw = np.frombuffer(self.raw, dtype=np.uint8).reshape(-1, size)[list(rows)]
        return Tensor(self.kind, [len(rows), *self.shape[1:]], raw.tobytes())


def row_bytes(kind, k):
    if kind in PLAIN_BYTES:
        return k * PLAIN_BYTES[kind]
    numbers, size, _ = blocks.FORMATS[kind]
    return k // numbers * size


def mapped(path):
    with open(path, "rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def read_gguf(path):
    """(metadata, tensors)."""
    data = mapped(path)
    at = 0

    def take(code):
        nonlocal at
        value = struct.unpack_from("<" + code, data, at)[0]
        at += struct.calcsize("<" + code)
        return value

    def value(kind):
        nonlocal at
        if kind == 8:
            length = take("Q")
            at += length
            return bytes(data[at - length : at]).decode()
        if kind == 9:
            inner, length = take("I"), take("Q")
            return [value(inner) for _ in range(length)]
        return take(CODES[kind])

    assert take("4s") == b"GGUF" and take("I") == 3, "not a GGUF file of version 3"
    tensor_count, key_count = take("Q"), take("Q")
    metadata = {}
    for _ in range(key_count):
        key = value(8)
        metadata[key] = value(take("I"))
    entries = []
    for _ in range(tensor_count):
        name = value(8)
        shape = [take("Q") for _ in range(take("I"))][::-1]
        entries.append((name, shape, TYPES[take("I")], take("Q")))
    alignment = metadata.get("general.alignment", 32)
    start = -(-at // alignment) * alignment
    tensors = {}
    for name, shape, kind, offset in entries:
        size = math.prod(shape[:-1]) * row_bytes(kind, shape[-1])
        tensors[name] = Tensor(kind, shape, data[start + offset : start + offset + size])
    return metadata, tensors


def read_safetensors(path):
    data = mapped(path)
    length = struct.unpack_from("<Q", data)[0]
    header = json.loads(bytes(data[8 : 8 + length]))
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        start, end = (8 + length + offset for offset in entry["data_offsets"])
        tensors[name] = Tensor(entry["dtype"], entry["shape"], data[start:end])
    return tensors


def read_folder(path):
    """(configuration, tensors under their own names)."""
    path = pathlib.Path(path)
    return json.loads((path / "config.json").read_text()), read_safetensors(path / "model.safetensors")
