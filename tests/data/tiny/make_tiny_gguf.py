"""Writes tiny-llama.gguf: a llama of two layers with random weights, in every tensor type the engine reads.

    python -m venv venv && venv/bin/pip install gguf numpy && venv/bin/python make_tiny_gguf.py

The file is the same for every run (fixed seed, fixed order). Sizes: width 256, so that 256-number blocks fit; 4 heads of
64 over 2 key-value heads; feed-forward 256; context 512; byte-level BPE with merges learned from the text below.
"""

import collections
import pathlib
import re

import gguf
import numpy as np

WIDTH, HEADS, KV_HEADS, HEAD, FORWARD, LAYERS, CONTEXT = 256, 4, 2, 64, 256, 2, 512
MERGES = 100
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEXT = """
A small house stood at the end of the lane, and the people who lived in it owned every stone of it. They knew where the
water came from and where the wires went. When something broke they mended it, and when they did not know how, they asked
a neighbour, who came and showed them. In the winter the wind came over the hill and found the gaps in the wall, and in the
spring they filled the gaps. Nobody sent them a letter to say that the door would no longer open. The user and the
assistant talk about the system; the assistant answers the question that the user asked, and then the user asks another.
What is the capital of France? The capital of France is Paris. How many days are in a week? There are seven days in a week.
"""


def byte_letters():
    """GPT-2's printable letter for each byte."""
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in kept]
    letters = {byte: chr(byte) for byte in kept}
    letters.update({byte: chr(256 + place) for place, byte in enumerate(others)})
    return [letters[byte] for byte in range(256)]


def learn_merges(text, letters, count):
    """The classic BPE training loop: join the most frequent pair, ties by the pair itself."""
    words = collections.Counter(re.findall(r" ?[A-Za-z]+| ?[^\sA-Za-z]+|\s+", text))
    split = {word: [letters[byte] for byte in word.encode()] for word in words}
    merges = []
    while len(merges) < count:
        pairs = collections.Counter()
        for word, times in words.items():
            for pair in zip(split[word], split[word][1:]):
                pairs[pair] += times
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for word, parts in split.items():
            joined, place = [], 0
            while place < len(parts):
                if tuple(parts[place : place + 2]) == best:
                    joined.append(parts[place] + parts[place + 1])
                    place += 2
                else:
                    joined.append(parts[place])
                    place += 1
            split[word] = joined
    return merges


def halves(values):
    return np.asarray(values, dtype="<f2").view(np.uint8).reshape(len(values), 2)


def q4_k_blocks(random, rows, columns, scale):
    """Random valid blocks: d, dmin (f16), 12 bytes of 6-bit scales and minima, 128 bytes of 4-bit quants.

    A weight is d·s·q − dmin·m with q uniform over 0..15, so minima of 7.5 times the scales centre it on zero."""
    count = rows * columns // 256
    scales = random.integers(20, 63, (count, 8), dtype=np.uint8, endpoint=True)
    low, high = scales[:, :4], scales[:, 4:]
    packed = np.concatenate([low | (high >> 4) << 6, low | (high >> 4) << 6, (high & 15) | (high & 15) << 4], axis=1)
    d = np.full(count, scale / (41 * 4.6))
    quants = random.integers(0, 255, (count, 128), dtype=np.uint8, endpoint=True)
    blocks = np.concatenate([halves(d), halves(7.5 * d), packed, quants], axis=1)
    return blocks.reshape(rows, columns // 256 * 144)


def q6_k_blocks(random, rows, columns, scale):
    """Random valid blocks: 128 + 64 bytes of 6-bit quants (offset 32), 16 signed scales, d (f16)."""
    count = rows * columns // 256
    quants = random.integers(0, 255, (count, 192), dtype=np.uint8, endpoint=True)
    scales = random.choice(np.array([-90, -70, 70, 90], dtype=np.int8), (count, 16)).view(np.uint8)
    d = np.full(count, scale / (80 * 18.5))
    return np.concatenate([quants, scales, halves(d)], axis=1).reshape(rows, columns // 256 * 210)


def main():
    random = np.random.Generator(np.random.PCG64(20261123))
    kinds = gguf.GGMLQuantizationType
    letters = byte_letters()
    merges = learn_merges(TEXT, letters, MERGES)
    tokens = SPECIAL + letters + [left + right for left, right in merges]
    assert len(set(tokens)) == len(tokens)

    path = pathlib.Path(__file__).parent / "tiny-llama.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("Tiny Llama of random weights")
    writer.add_license("apache-2.0")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(HEAD)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    types = [gguf.TokenType.CONTROL] * len(SPECIAL) + [gguf.TokenType.NORMAL] * (len(tokens) - len(SPECIAL))
    writer.add_token_types(types)
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)

    def matrix(name, rows, columns, kind, scale):
        if kind in (kinds.Q4_K, kinds.Q6_K):
            make = q4_k_blocks if kind == kinds.Q4_K else q6_k_blocks
            data = make(random, rows, columns, scale)
        else:
            data = gguf.quantize(random.normal(0, scale, (rows, columns)).astype(np.float32), kind)
        writer.add_tensor(name, data, raw_dtype=kind)

    def norm(name):
        writer.add_tensor(name, random.normal(1, 0.1, WIDTH).astype(np.float32))

    matrix("token_embd.weight", len(tokens), WIDTH, kinds.Q8_0, 0.5)
    layer_kinds = [
        dict(q=kinds.Q4_0, k=kinds.F16, v=kinds.BF16, o=kinds.Q4_1, gate=kinds.Q5_0, up=kinds.Q4_K, down=kinds.Q6_K),
        dict(q=kinds.Q4_K, k=kinds.Q4_0, v=kinds.Q6_K, o=kinds.Q4_1, gate=kinds.Q4_0, up=kinds.Q4_1, down=kinds.Q4_0),
    ]
    for layer, kind in enumerate(layer_kinds):
        block, kv = f"blk.{layer}", KV_HEADS * HEAD
        norm(f"{block}.attn_norm.weight")
        matrix(f"{block}.attn_q.weight", WIDTH, WIDTH, kind["q"], 0.08)
        matrix(f"{block}.attn_k.weight", kv, WIDTH, kind["k"], 0.08)
        matrix(f"{block}.attn_v.weight", kv, WIDTH, kind["v"], 0.08)
        matrix(f"{block}.attn_output.weight", WIDTH, WIDTH, kind["o"], 0.08)
        norm(f"{block}.ffn_norm.weight")
        matrix(f"{block}.ffn_gate.weight", FORWARD, WIDTH, kind["gate"], 0.08)
        matrix(f"{block}.ffn_up.weight", FORWARD, WIDTH, kind["up"], 0.08)
        matrix(f"{block}.ffn_down.weight", WIDTH, FORWARD, kind["down"], 0.08)
    norm("output_norm.weight")

    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    print(path.name, path.stat().st_size, "bytes,", len(tokens), "tokens")


if __name__ == "__main__":
    main()
