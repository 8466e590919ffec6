"""From tokens to logits: the sections "Around the layers" and "Mixtures of experts" of docs/numerics.md.

`Model` is one decoder for all architectures; what distinguishes them is in `Config`, which `config.py` reads.
"""

import numpy as np

from arithmetic import F32, fma, lane_sum
from attention import attend, in_cache
from functions import clamped_silu_unit, exp, gelu_unit, sigmoid, silu_unit, softcap
from products import product, rms_norm


def route(logits, chosen_count, among_chosen):
    """Of one token: (number, weight) of the chosen experts, ascending."""
    order = sorted(range(len(logits)), key=lambda e: (not np.isnan(logits[e]), -logits[e], e))
    chosen = sorted(order[:chosen_count])
    largest = logits[order[0]]
    terms = exp(logits - largest)
    total = lane_sum(terms[chosen] if among_chosen else terms)
    return [(e, terms[e] / total) for e in chosen]


class Model:
    def __init__(self, config, tensors):
        self.config, self.tensors = config, tensors
        self.cache = {}

    def matrix(self, name):
        if name not in self.cache:
            self.cache[name] = self.tensors[name].matrix()
        return self.cache[name]

    def vector(self, name):
        return self.tensors[name].numbers() if name in self.tensors else None

    def product(self, x, name):
        return product(x, self.matrix(name + ".weight"), self.vector(name + ".bias"))

    def norm(self, x, name):
        """The norm of that name, if the model has it."""
        weight = self.vector(name + ".weight")
        return x if weight is None else rms_norm(x, weight, self.config.eps)

    def logits(self, tokens, kv="f16"):
        """Of every token, [tokens, vocabulary]."""
        config = self.config
        x = np.stack([self.matrix("token_embd.weight").row(token) for token in tokens])
        if config.embedding_scale is not None:
            x = x * config.embedding_scale
        for layer in range(config.layers):
            block = f"blk.{layer}."
            y = self.attention(self.norm(x, block + "attn_norm"), layer, kv)
            x = self.added(x, self.norm(y, block + "post_attention_norm"))
            y = self.norm(x, block + "ffn_norm")
            y = self.experts(y, block) if block + "ffn_gate_inp.weight" in self.tensors else self.feed_forward(y, block)
            x = self.added(x, self.norm(y, block + "post_ffw_norm"))
        x = self.norm(x, "output_norm")
        logits = self.product(x, "output" if "output.weight" in self.tensors else "token_embd")
        if config.logit_scale is not None:
            logits = logits * (F32(1) / config.logit_scale)
        return logits if config.final_softcap is None else softcap(logits, config.final_softcap)

    def added(self, x, y):
        return x + y if self.config.residual_scale is None else fma(y, self.config.residual_scale, x)

    def attention(self, x, layer, kv):
        config, block = self.config, f"blk.{layer}."
        q, k, v = (
            self.heads(self.product(x, block + f"attn_{part}"), heads)
            for part, heads in (("q", config.heads), ("k", config.kv_heads), ("v", config.kv_heads))
        )
        rope, window = config.rope_of(layer), config.window_of(layer)
        if not config.norm_after_rope:
            q, k = self.head_norm(q, block + "attn_q_norm"), self.head_norm(k, block + "attn_k_norm")
        if rope is not None:
            q, k = (np.stack([rope.rotate(heads, p) for p, heads in enumerate(part)]) for part in (q, k))
        if config.norm_after_rope:
            q, k = self.head_norm(q, block + "attn_q_norm"), self.head_norm(k, block + "attn_k_norm")
        k, v = in_cache(k, kv), in_cache(v, kv)
        sinks = self.vector(block + "attn_sinks.weight")
        out = [attend(q[p], k, v, p, config.attention_scale, window, config.attention_softcap, sinks) for p in range(len(x))]
        return self.product(np.stack(out).reshape(len(x), -1), block + "attn_output")

    def heads(self, x, count):
        return x.reshape(len(x), count, -1)

    def head_norm(self, heads, name):
        """Head by head, or all heads of a token as one row where the weight is so long."""
        weight = self.vector(name + ".weight")
        if weight is None:
            return heads
        return rms_norm(heads.reshape(len(heads), -1, len(weight)), weight, self.config.eps).reshape(heads.shape)

    def unit(self, gate, up):
        config = self.config
        if config.unit == "clamped silu":
            return clamped_silu_unit(gate, up, config.alpha, config.limit)
        return {"silu": silu_unit, "gelu": gelu_unit}[config.unit](gate, up)

    def feed_forward(self, x, block, suffix=""):
        gate, up = self.product(x, f"{block}ffn_gate{suffix}"), self.product(x, f"{block}ffn_up{suffix}")
        return self.product(self.unit(gate, up), f"{block}ffn_down{suffix}")

    def expert(self, x, block, number):
        def part(x, name):
            tensor = self.tensors[f"{block}{name}_exps.weight"]
            bias = self.vector(f"{block}{name}_exps.bias")
            matrix = tensor.matrix(number * tensor.shape[1], tensor.shape[1])
            return product(x, matrix, None if bias is None else bias[number])

        return part(self.unit(part(x, "ffn_gate"), part(x, "ffn_up")), "ffn_down")

    def experts(self, x, block):
        router = self.product(x, block + "ffn_gate_inp")
        out = []
        for token, logits in zip(x, router):
            acc = np.zeros_like(token)
            for number, weight in route(logits, self.config.experts_used, self.config.normalised_among_chosen):
                acc = fma(self.expert(token[None], block, number)[0], weight, acc)
            out.append(acc)
        out = np.stack(out)
        if block + "ffn_gate_shexp.weight" in self.tensors:
            y = self.feed_forward(x, block, "_shexp")
            gate = product(x, self.tensors[block + "ffn_gate_inp_shexp.weight"].matrix())
            out = fma(y, sigmoid(gate), out)
        return out
