"""What goes into the matrices of two checkpoints of ../golden, and how far one's predictions are from the other's, worked out
in numpy and f64 by code that shares nothing with Freehold's.

    python -m venv venv && venv/bin/pip install gguf numpy
    venv/bin/python make_imatrix.py    # NAME.gguf and comparison.json beside this file

`NAME.gguf` is an importance matrix in the form of llama.cpp's `llama-imatrix`, of the tokens of the checkpoint's golden.json as
one chunk. The logits on the way are compared with those that transformers computed.
"""

import json
import pathlib
import sys

import gguf
import numpy as np

HERE = pathlib.Path(__file__).parent
GOLDEN = HERE.parent / "golden"
sys.path.append(str(HERE.parent / "gguf"))
from make_gguf import read_safetensors  # noqa: E402

# Windows of the comparison.
CONTEXT, BOS = 8, 1


class Model:
    def __init__(self, name):
        folder = GOLDEN / name
        self.config = json.loads((folder / "config.json").read_text())
        self.golden = json.loads((folder / "golden.json").read_text())
        tensors = read_safetensors(folder / "model.safetensors")
        self.tensors = {name: numbers.astype(np.float64) for name, numbers in tensors.items()}
        self.sums = {}

    def product(self, x, weight, name, expert=0, experts=1):
        """x · weightᵀ; what goes in is summed up under the tensor's name in GGUF."""
        squares, counts = self.sums.setdefault(name, (np.zeros((experts, x.shape[1])), np.zeros((experts, 1))))
        squares[expert] += (x * x).sum(axis=0)
        counts[expert] += len(x)
        return x @ self.tensors[f"{weight}.weight"].T

    def norm(self, x, weight):
        return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + self.config["rms_norm_eps"]) * self.tensors[weight]

    def rotated(self, heads):
        """heads: (tokens, heads, dim)."""
        tokens, _, dim = heads.shape
        frequencies = self.config["rope_parameters"]["rope_theta"] ** (-np.arange(0, dim, 2) / dim)
        angles = np.arange(tokens)[:, None, None] * frequencies
        cos, sin = np.cos(angles), np.sin(angles)
        first, second = heads[..., : dim // 2], heads[..., dim // 2 :]
        return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)

    def gated(self, x, prefix, names, expert=0, experts=1):
        gate, up = (self.product(x, f"{prefix}.{part}_proj", names % part, expert, experts) for part in ("gate", "up"))
        return self.product(gate / (1 + np.exp(-gate)) * up, f"{prefix}.down_proj", names % "down", expert, experts)

    def feed_forward(self, x, layer):
        prefix, names = f"model.layers.{layer}.mlp", f"blk.{layer}.ffn_%s.weight"
        count = self.config.get("num_local_experts")
        if not count:
            return self.gated(x, prefix, names)
        scores = self.product(x, f"{prefix}.gate", names % "gate_inp")
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        chosen = np.argsort(-shares, axis=1, kind="stable")[:, : self.config["num_experts_per_tok"]]
        weights = np.take_along_axis(shares, chosen, axis=1)
        weights /= weights.sum(axis=1, keepdims=True)
        out = np.zeros_like(x)
        for expert in range(count):
            rows, place = np.nonzero(chosen == expert)
            names = f"blk.{layer}.ffn_%s_exps.weight"
            out[rows] += weights[rows, place, None] * self.gated(x[rows], f"{prefix}.experts.{expert}", names, expert, count)
        return out

    def logits(self, tokens):
        config = self.config
        heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
        dim = config.get("head_dim") or config["hidden_size"] // heads
        x = self.tensors["model.embed_tokens.weight"][tokens]
        masked = np.triu(np.full((len(tokens), len(tokens)), -np.inf), 1)
        for layer in range(config["num_hidden_layers"]):
            prefix = f"model.layers.{layer}"
            normed = self.norm(x, f"{prefix}.input_layernorm.weight")

            def project(part, count):
                flat = self.product(normed, f"{prefix}.self_attn.{part}_proj", f"blk.{layer}.attn_{part}.weight")
                return flat.reshape(len(tokens), count, dim)

            q, k, v = project("q", heads), project("k", kv_heads), project("v", kv_heads)
            if f"{prefix}.self_attn.q_norm.weight" in self.tensors:
                q, k = (self.norm(part, f"{prefix}.self_attn.{name}_norm.weight") for part, name in ((q, "q"), (k, "k")))
            q, k = self.rotated(q), self.rotated(k)
            k, v = (np.repeat(part, heads // kv_heads, axis=1) for part in (k, v))
            scores = np.einsum("ihd,jhd->hij", q, k) / np.sqrt(dim) + masked
            shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
            shares /= shares.sum(axis=-1, keepdims=True)
            attended = np.einsum("hij,jhd->ihd", shares, v).reshape(len(tokens), -1)
            x = x + self.product(attended, f"{prefix}.self_attn.o_proj", f"blk.{layer}.attn_output.weight")
            x = x + self.feed_forward(self.norm(x, f"{prefix}.post_attention_layernorm.weight"), layer)
        return self.norm(x, "model.norm.weight") @ self.tensors["lm_head.weight"].T


def write(name):
    model = Model(name)
    tokens = model.golden["tokens"]
    expected = np.array(model.golden["logits"])
    apart = np.abs(model.logits(tokens) - expected).max() / np.abs(expected).max()
    assert apart < 1e-5, (name, apart)
    writer = gguf.GGUFWriter(HERE / f"{name}.gguf", "")
    # The package writes the architecture, which importance matrices do not have.
    writer.kv_data[0].clear()
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["golden.json"])
    writer.add_uint32("imatrix.chunk_count", 1)
    writer.add_uint32("imatrix.chunk_size", len(tokens))
    for tensor, (squares, counts) in sorted(model.sums.items()):
        squares, counts = (part[0] if len(part) == 1 else part for part in (squares, counts))
        writer.add_tensor(f"{tensor}.in_sum2", squares.astype(np.float32))
        writer.add_tensor(f"{tensor}.counts", counts.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def log_softmax(logits):
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def comparison(first, second):
    models = [Model(first), Model(second)]
    tokens = models[0].golden["tokens"]
    surprises, divergences, same = [[], []], [], []
    for start in range(0, len(tokens) - CONTEXT + 1, CONTEXT):
        window = tokens[start : start + CONTEXT]
        logs = [log_softmax(model.logits([BOS, *window[1:]])) for model in models]
        for place in range(CONTEXT // 2, CONTEXT - 1):
            p, q = (log[place] for log in logs)
            for surprise, log in zip(surprises, (p, q)):
                surprise.append(-log[window[place + 1]])
            divergences.append((np.exp(p) * (p - q)).sum())
            same.append(p.argmax() == q.argmax())
    return {
        "tokens": len(same),
        "perplexity": [np.exp(np.mean(surprise)) for surprise in surprises],
        "divergence_mean": np.mean(divergences),
        "divergence_max": np.max(divergences),
        "same_top": float(np.mean(same)),
    }


for name in ("llama", "qwen3_moe"):
    write(name)
(HERE / "comparison.json").write_text(json.dumps(comparison("llama", "qwen3_moe"), indent=1) + "\n")
