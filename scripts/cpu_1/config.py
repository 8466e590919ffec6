"""What the decoder needs to know of a model, from a GGUF file's metadata or a Hugging Face configuration."""

import pathlib
from collections.abc import Callable
from dataclasses import dataclass

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
    norm_after_rope: bool = False
    attention_softcap: np.float32 | None = None
    final_softcap: np.float32 | None = None
    embedding_scale: np.float32 | None = None
    residual_scale: np.float32 | None = None
    logit_scale: np.float32 | None = None
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


def opened(path):
    """(configuration, tensors) of a GGUF file or a Hugging Face folder."""
    return from_folder(path) if pathlib.Path(path).is_dir() else from_gguf(path)


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
    scaling.setdefault("context", config["max_position_embeddings"])
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


# What a GGUF file says by its architecture alone: the table "What files leave unsaid" of the document. `full_every`: the
# last of so many layers has no window, 0 that all have it; without it windows are not read.
VARIANTS = {
    "llama": {"interleaved": True, "full_every": 0, "normalised_among_chosen": True},
    "qwen2": {},
    "qwen2moe": {},
    "qwen3": {},
    "qwen3moe": {"normalised_among_chosen": True},
    "gemma": {"unit": "gelu", "scaled_by_width": True},
    "gemma2": {"unit": "gelu", "scaled_by_width": True, "full_every": 2, "layers_of_27b": 46},
    "gemma3": {"unit": "gelu", "scaled_by_width": True, "full_every": 6, "layers_of_27b": 62, "plain_rope_in_windows": 10000.0},
    "phi3": {"full_every": 0},
    "olmo2": {"full_every": 4, "plain_rope_in_windows": None},
    "olmoe": {},
    "granite": {"interleaved": True},
    "granitemoe": {"interleaved": True, "normalised_among_chosen": True},
    "smollm3": {"interleaved": True, "no_rope_every": 4},
    "gpt-oss": {"unit": "clamped silu", "full_every": 2, "truncate": False, "normalised_among_chosen": True},
    "glm4": {"interleaved": True},
    "ernie4_5": {"interleaved": True},
    "exaone4": {"full_every": 4, "rope_in_windows_only": True},
    "hunyuan-dense": {"norm_after_rope": True},
    "seed_oss": {},
}


def from_gguf(path):
    metadata, tensors = files.read_gguf(path)
    architecture = metadata["general.architecture"]
    variant = VARIANTS[architecture]

    def get(key, default=None):
        return metadata.get(f"{architecture}.{key}", default)

    def get_f32(key):
        return None if get(key) is None else F32(get(key))

    width, heads, layers = get("embedding_length"), get("attention.head_count"), get("block_count")
    kv_heads = get("attention.head_count_kv", heads)
    head = get("attention.key_length", width // heads)
    rotated = get("rope.dimension_count", head)
    tensors = parted(tensors, layers, heads * head, kv_heads * head)
    if variant.get("interleaved"):
        for name in list(tensors):
            if name.endswith((".attn_q.weight", ".attn_q.bias", ".attn_k.weight", ".attn_k.bias")):
                tensors[name] = tensors[name].taken(halves_in_order(tensors[name].shape[0], head, rotated))

    windows = windows_of(get, layers, variant)
    scaling, factors = rope_scaling(get, tensors, variant)
    theta = get("rope.freq_base", 10000.0)
    rope = Rope(theta, rotated, scaling, factors)
    rope_in_windows = rope
    if "plain_rope_in_windows" in variant:
        rope_in_windows = Rope(get("rope.freq_base_swa", variant["plain_rope_in_windows"] or theta), rotated)

    def rope_of(layer):
        if "no_rope_every" in variant and (layer + 1) % variant["no_rope_every"] == 0:
            return None
        if "rope_in_windows_only" in variant and any(windows) and not windows[layer]:
            return None
        return rope_in_windows if windows[layer] else rope

    # The number in the place of a head's length.
    scale_of = width // heads if layers == variant.get("layers_of_27b") else head
    scale = get("attention.scale")
    return Config(
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        eps=F32(get("attention.layer_norm_rms_epsilon")),
        rope_of=rope_of,
        window_of=lambda layer: windows[layer],
        attention_scale=attention_scale(scale_of) if scale is None else F32(scale),
        norm_after_rope=variant.get("norm_after_rope", False),
        attention_softcap=get_f32("attn_logit_softcapping"),
        final_softcap=get_f32("final_logit_softcapping"),
        embedding_scale=np.sqrt(F32(width)) if variant.get("scaled_by_width") else get_f32("embedding_scale"),
        residual_scale=get_f32("residual_scale"),
        logit_scale=get_f32("logit_scale"),
        unit=variant.get("unit", "silu"),
        experts_used=get("expert_used_count", 0),
        normalised_among_chosen=variant.get("normalised_among_chosen", False),
    ), tensors


def windows_of(get, layers, variant):
    window = get("attention.sliding_window", 0)
    if "full_every" not in variant or window == 0:
        return [None] * layers
    pattern = get("attention.sliding_window_pattern", variant["full_every"])
    if isinstance(pattern, int):
        pattern = [pattern == 0 or (layer + 1) % pattern != 0 for layer in range(layers)]
    return [window if is_windowed else None for is_windowed in pattern]


def rope_scaling(get, tensors, variant):
    """The scaling, and factors of the frequencies."""
    factor, context = get("rope.scaling.factor", get("rope.scale_linear")), get("rope.scaling.original_context_length")
    attention_factor = get("rope.scaling.attn_factor", 1.0)
    if get("rope.llama3.factor") is not None:
        low, high = get("rope.llama3.low_freq_factor"), get("rope.llama3.high_freq_factor")
        context = get("rope.llama3.original_context_length")
        return {"type": "llama3", "factor": get("rope.llama3.factor"), "low": low, "high": high, "context": context}, None
    if "rope_freqs.weight" in tensors:
        return {"type": "factors"}, tensors["rope_freqs.weight"].numbers()
    if "rope_factors_long.weight" in tensors:
        part = "long" if get("context_length") > context else "short"
        return {"type": "longrope", "attention_factor": attention_factor}, tensors[f"rope_factors_{part}.weight"].numbers()
    kind = get("rope.scaling.type", "none" if factor is None else "linear")
    # Without the tensors of longrope there is none.
    scaling = {"type": "none" if kind == "longrope" else kind, "factor": factor, "context": context or get("context_length")}
    scaling["gguf_attention_factor"] = attention_factor
    scaling["truncate"] = variant.get("truncate", True)
    for ours, theirs in (
        ("beta_fast", "yarn_beta_fast"), ("beta_slow", "yarn_beta_slow"), ("attention_factor", "yarn_attn_factor"),
    ):  # fmt: skip
        if get(f"rope.scaling.{theirs}") is not None:
            scaling[ours] = get(f"rope.scaling.{theirs}")
    return scaling, None


def parted(tensors, layers, q, kv):
    """With matrices that files hold as one taken apart, and a norm that is called by its place called by what it is for."""
    tensors = dict(tensors)
    for block in (f"blk.{layer}." for layer in range(layers)):
        for suffix in ("weight", "bias"):
            whole = tensors.pop(f"{block}attn_qkv.{suffix}", None)
            if whole is not None:
                for part, first, rows in (("q", 0, q), ("k", q, kv), ("v", q + kv, kv)):
                    tensors[f"{block}attn_{part}.{suffix}"] = whole.taken(range(first, first + rows))
        up = tensors.get(f"{block}ffn_up.weight")
        if up is not None and f"{block}ffn_gate.weight" not in tensors:
            half = up.shape[0] // 2
            tensors[f"{block}ffn_gate.weight"] = up.taken(range(half))
            tensors[f"{block}ffn_up.weight"] = up.taken(range(half, 2 * half))
        post_attention = f"{block}post_attention_norm.weight"
        if f"{block}post_ffw_norm.weight" not in tensors and post_attention in tensors:
            tensors[f"{block}ffn_norm.weight"] = tensors.pop(post_attention)
    return tensors


def halves_in_order(rows, head, rotated):
    """Of each head, row 2i before row 2i + 1 for all i."""
    order = list(range(0, rotated, 2)) + list(range(1, rotated, 2)) + list(range(rotated, head))
    return [first + row for first in range(0, rows, head) for row in order]
