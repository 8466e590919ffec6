"""What the decoder needs to know of a model, from a GGUF file's metadata or a Hugging Face configuration."""

from dataclasses import dataclass, field
from typing import Callable

import numpy as np

import files
from arithmetic import F32
from attention import Rope


@dataclass
class Config:
    layers: int
    heads: int
    kv_heads: int
    eps: np.float32
    rope_of: Callable
    attention_scale: np.float32
    window_of: Callable = lambda layer: None
    interleaved: bool = False
    norm_after_rope: bool = False
    attention_softcap: np.float32 | None = None
    final_softcap: np.float32 | None = None
    embedding_scale: np.float32 | None = None
    residual_scale: np.float32 | None = None
    logit_scale: np.float32 | None = None
    post_attention_norm: str = "post_attention_norm"
    post_ffn_norm: str = "post_ffw_norm"
    unit: str = "silu"
    alpha: np.float32 = F32(1.702)
    limit: np.float32 = F32(7)
    experts_used: int = 0
    normalised_among_chosen: bool = False


HUGGING_FACE_NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


def gguf_name(name):
    stem, _, suffix = name.rpartition(".")
    if stem.startswith("model.layers."):
        layer, _, part = stem.removeprefix("model.layers.").partition(".")
        return f"blk.{layer}.{HUGGING_FACE_NAMES[part]}.{suffix}"
    return f"{HUGGING_FACE_NAMES[stem]}.{suffix}"


def attention_scale(head):
    return F32(1) / np.sqrt(F32(head))


def from_folder(path):
    """Llama, Mistral, Qwen2 and Qwen3 (dense)."""
    config, tensors = files.read_folder(path)
    assert config["model_type"] in ("llama", "mistral", "qwen2", "qwen3"), "read the GGUF file of this model"
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    given = config["rope_parameters"]
    scaling = {"type": given["rope_type"]}
    for ours, theirs in (
        ("factor", "factor"), ("low", "low_freq_factor"), ("high", "high_freq_factor"),
        ("context", "original_max_position_embeddings"), ("beta_fast", "beta_fast"), ("beta_slow", "beta_slow"),
        ("truncate", "truncate"), ("attention_factor", "attention_factor"),
    ):  # fmt: skip
        if given.get(theirs) is not None:
            scaling[ours] = given[theirs]
    rope = Rope(given["rope_theta"], head, scaling)
    window = config.get("sliding_window") if config["model_type"] == "mistral" else None
    return Config(
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        kv_heads=config["num_key_value_heads"],
        eps=F32(config["rms_norm_eps"]),
        rope_of=lambda layer: rope,
        attention_scale=attention_scale(head),
        window_of=lambda layer: window,
    ), {gguf_name(name): tensor for name, tensor in tensors.items()}
