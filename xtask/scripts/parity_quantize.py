"""Quantises by freehold and by llama.cpp, and compares: the type of every tensor, for models of random weights whose shapes
meet the rules of the mixes, and for a real one, each without an importance matrix and with one; then the real one's size and
its perplexity on a text, both files run by freehold. Needs llama-cpp-python, numpy and gguf. Arguments: the freehold program,
an empty directory, a GGUF file in F16, a text, and a text to collect the real one's importance matrix on."""

import ctypes
import itertools
import json
import pathlib
import shutil
import subprocess
import sys

import gguf
import llama_cpp
import numpy as np

PROGRAM, SCRATCH, MODEL, TEXT, CALIBRATION = sys.argv[1], *map(pathlib.Path, sys.argv[2:6])
FILE_TYPES = {
    "F16": 1, "BF16": 32, "Q4_0": 2, "Q4_1": 3, "Q5_0": 8, "Q5_1": 9, "Q8_0": 7, "Q2_K": 10, "Q3_K_S": 11, "Q3_K_M": 12,
    "Q3_K_L": 13, "Q4_K_S": 14, "Q4_K_M": 15, "Q5_K_S": 16, "Q5_K_M": 17, "Q6_K": 18, "IQ4_NL": 25, "IQ4_XS": 30,
}  # fmt: skip
# How much worse than llama.cpp's the perplexity may be.
MARGIN = 1.005
failures = []


@llama_cpp.llama_log_callback
def silent(_level, _text, _data):
    pass


def freehold(*arguments):
    command = [PROGRAM, "--home", str(SCRATCH / "home"), "--json", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{command}: {done.stderr}")
    return json.loads(done.stdout)


def means(imatrix):
    """What llama.cpp's own program hands to the library: the mean squares of each tensor, as C has them."""
    tensors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(imatrix).tensors}
    entries = []
    for name, squares in tensors.items():
        if name.endswith(".in_sum2"):
            counts = tensors[name.replace(".in_sum2", ".counts")].reshape(-1, 1)
            squares = squares.reshape(len(counts), -1)
            found = np.where(counts > 0, squares / np.maximum(counts, 1), 1).astype(np.float32).ravel()
            data = (ctypes.c_float * found.size)(*found)
            entries.append(llama_cpp.llama_model_imatrix_data(name.removesuffix(".in_sum2").encode(), data, found.size))
    return (llama_cpp.llama_model_imatrix_data * (len(entries) + 1))(*entries)


def both(source, name, imatrix=None):
    """The two files."""
    own, theirs = SCRATCH / "own.gguf", SCRATCH / "theirs.gguf"
    options = ["--imatrix", imatrix] if imatrix else []
    freehold("quantize", source, own, "--type", name.lower(), "--force", *options)
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = FILE_TYPES[name]
    if imatrix:
        parameters.imatrix = means(imatrix)
    code = llama_cpp.llama_model_quantize(str(source).encode(), str(theirs).encode(), ctypes.byref(parameters))
    assert code == 0, (source, name)
    return own, theirs


def types(file):
    return {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(file).tensors}


def compare_types(what, own, theirs):
    own, theirs = types(own), types(theirs)
    apart = [f"{name}: {own.get(name)}, llama.cpp {kind}" for name, kind in theirs.items() if own.get(name) != kind]
    if apart or own.keys() != theirs.keys():
        failures.append(what)
        print(f"{what}: other types: {apart}")


def random_model(file, layers, heads, kv_heads, width, inner, experts, tied):
    random = np.random.Generator(np.random.PCG64(layers))
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_block_count(layers)
    writer.add_context_length(256)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // heads)
    writer.add_vocab_size(64)
    writer.add_tokenizer_model("none")
    if experts:
        writer.add_expert_count(experts)
        writer.add_expert_used_count(2)

    def tensor(name, *shape):
        numbers = random.normal(0, 0.02, shape)
        writer.add_tensor(f"{name}.weight", numbers.astype(np.float32 if len(shape) == 1 or "_inp" in name else np.float16))

    tensor("token_embd", 64, width)
    tensor("output_norm", width)
    if not tied:
        tensor("output", 64, width)
    kv_width = width // heads * kv_heads
    for layer in range(layers):
        prefix = f"blk.{layer}."
        for name, *shape in [("attn_norm", width), ("ffn_norm", width), ("attn_q", width, width), ("attn_k", kv_width, width),
                             ("attn_v", kv_width, width), ("attn_output", width, width)]:  # fmt: skip
            tensor(prefix + name, *shape)
        if experts:
            tensor(prefix + "ffn_gate_inp", experts, width)
        suffix, outer = ("_exps", [experts]) if experts else ("", [])
        tensor(prefix + "ffn_gate" + suffix, *outer, inner, width)
        tensor(prefix + "ffn_up" + suffix, *outer, inner, width)
        tensor(prefix + "ffn_down" + suffix, *outer, width, inner)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def random_imatrix(source, file):
    random = np.random.Generator(np.random.PCG64(1))
    writer = gguf.GGUFWriter(file, "")
    # The package writes the architecture, which importance matrices do not have.
    writer.kv_data[0].clear()
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["random"])
    writer.add_uint32("imatrix.chunk_count", 1)
    writer.add_uint32("imatrix.chunk_size", 512)
    for tensor in gguf.GGUFReader(source).tensors:
        if tensor.name.startswith("blk.") and len(tensor.shape) > 1:
            outer = [int(size) for size in tensor.shape[2:]]
            squares = random.exponential(1, [*outer, int(tensor.shape[0])]).astype(np.float32)
            writer.add_tensor(f"{tensor.name}.in_sum2", squares)
            writer.add_tensor(f"{tensor.name}.counts", np.ones([*outer, 1], np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    llama_cpp.llama_log_set(silent, None)
    imatrix = SCRATCH / "imatrix.gguf"
    shapes = [
        ("32 layers, heads in fours", (32, 8, 2, 256, 512, 0, False)),
        ("20 layers, heads in pairs, tied", (20, 8, 4, 256, 256, 0, True)),
        ("9 layers, rows that are no whole blocks", (9, 6, 3, 96, 256, 0, False)),
        ("80 layers, heads in eights", (80, 8, 1, 256, 256, 0, False)),
        ("10 layers, 8 experts", (10, 8, 4, 256, 256, 8, False)),
    ]
    for what, shape in shapes:
        source = SCRATCH / "source.gguf"
        random_model(source, *shape)
        random_imatrix(source, imatrix)
        for name in FILE_TYPES:
            compare_types(f"{what}, {name}", *both(source, name))
            compare_types(f"{what}, {name} with an importance matrix", *both(source, name, imatrix))
        print(f"{what}: {len(FILE_TYPES)} types compared", flush=True)

    def perplexity(file):
        found = freehold("perplexity", f"file:{file}", "--file", TEXT)["perplexity"]
        # The store has taken a copy.
        shutil.rmtree(SCRATCH / "home")
        return found

    print(f"\nIn F16: perplexity {perplexity(MODEL):.3f}\n")
    calibrate = ["--calibrate", CALIBRATION, "--save-imatrix", imatrix]
    freehold("quantize", MODEL, SCRATCH / "own.gguf", "--type", "q4_0", "--force", *calibrate)
    print("| type | importance | bytes | llama.cpp's | perplexity | llama.cpp's | ratio |\n|---|---|---|---|---|---|---|")
    for name, importance in itertools.product(FILE_TYPES, (None, imatrix)):
        if importance and name in ("F16", "BF16"):
            continue
        own, theirs = both(MODEL, name, importance)
        compare_types(name, own, theirs)
        found, expected = perplexity(own), perplexity(theirs)
        has_one = "yes" if importance else "no"
        sizes = f"{own.stat().st_size:,} | {theirs.stat().st_size:,}"
        print(f"| {name} | {has_one} | {sizes} | {found:.3f} | {expected:.3f} | {found / expected:.4f} |", flush=True)
        if found > expected * MARGIN:
            failures.append(f"{name}, importance {has_one}: the perplexity is too high")
    if failures:
        sys.exit(f"{len(failures)} do not agree: {failures}")


main()
