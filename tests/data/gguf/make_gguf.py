"""Turns the checkpoints of ../golden into GGUF files by the rules of llama.cpp's converter, and makes wide ones.

    python -m venv venv && venv/bin/pip install gguf numpy
    venv/bin/python make_gguf.py                 # ../golden/NAME -> ./NAME.gguf, F32, the files beside this one
    venv/bin/python make_gguf.py --check FILE…   # logits of llama.cpp against golden.json (needs llama-cpp-python)
    venv/bin/python make_gguf.py --wide FOLDER   # FOLDER/NAME (Hugging Face), FOLDER/NAME.f32.gguf, FOLDER/NAME.q8_0.gguf
    venv/bin/python make_gguf.py --quantize FILE…  # X.f32.gguf -> X.q4_k_m.gguf, by llama.cpp (needs llama-cpp-python)
    venv/bin/python make_gguf.py --experts FILE  # a mixture of experts for benchmarks, F16, 3.3 GB

The rules, from `convert_hf_to_gguf.py` and its modules: q and k of llama, granite and smollm3 interleave the halves of each
head; Gemma's norms have 1 added; experts are stacked into one tensor; gpt-oss's are turned over and parted. Tensor names
come from the name map of the `gguf` package. No tokenizer is written: the files are for computing, not for talking.

Wide checkpoints have a width of 256 and heads of 64 or 128, so that the quantised types with blocks of 256 numbers apply; their
weights are random, of a size at which the caps and clamps of an architecture act.
"""

import argparse
import json
import math
import pathlib

import gguf
import numpy as np

HERE = pathlib.Path(__file__).parent
GOLDEN = HERE.parent / "golden"
NAMES = [
    "ernie4_5", "exaone4", "gemma", "gemma2", "gemma3", "glm4", "gpt_oss", "granite", "granite_moe", "hunyuan_dense", "mixtral",
    "olmo3", "olmoe", "phi3_longrope", "qwen2_moe", "qwen3_moe", "seed_oss", "smollm3",
]  # fmt: skip
ARCHITECTURES = {
    "gemma": "gemma", "gemma2": "gemma2", "gemma3_text": "gemma3", "gpt_oss": "gpt-oss", "granite": "granite",
    "mixtral": "llama", "olmo2": "olmo2", "olmo3": "olmo2", "phi3": "phi3", "qwen2_moe": "qwen2moe", "qwen3_moe": "qwen3moe",
    "smollm3": "smollm3", "ernie4_5": "ernie4_5", "exaone4": "exaone4", "glm4": "glm4", "granitemoe": "granitemoe",
    "hunyuan_v1_dense": "hunyuan-dense", "olmoe": "olmoe", "seed_oss": "seed_oss",
}  # fmt: skip
PERMUTED = ["llama", "granite", "granitemoe", "smollm3"]


def read_safetensors(path):
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        assert entry["dtype"] == "F32", name
        start, end = entry["data_offsets"]
        numbers = np.frombuffer(data[8 + length + start : 8 + length + end], dtype="<f4")
        tensors[name] = numbers.reshape(entry["shape"])
    return tensors


def write_safetensors(path, tensors):
    header, offset = {}, 0
    for name, numbers in tensors.items():
        end = offset + numbers.nbytes
        header[name] = {"dtype": "F32", "shape": list(numbers.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for numbers in tensors.values():
            file.write(np.ascontiguousarray(numbers).tobytes())


def permuted(weights, heads):
    """The halves of each head interleaved."""
    shape = weights.shape
    return weights.reshape(heads, 2, shape[0] // heads // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def converted(config, tensors):
    """(name in the file or for the map, numbers) of each tensor as it stands in a GGUF file."""
    architecture = ARCHITECTURES[config["model_type"]]
    experts = {}
    for name, numbers in tensors.items():
        if architecture in PERMUTED and name.endswith(("q_proj.weight", "q_proj.bias")):
            numbers = permuted(numbers, config["num_attention_heads"])
        if architecture in PERMUTED and name.endswith(("k_proj.weight", "k_proj.bias")):
            numbers = permuted(numbers, config["num_key_value_heads"])
        if architecture.startswith("gemma") and name.endswith("norm.weight"):
            numbers = numbers + np.float32(1)
        if name.endswith("self_attn.sinks"):
            name += ".weight"
        if ".mlp.experts.gate_up_proj" in name or name.endswith((".mlp.experts.down_proj", ".mlp.experts.down_proj_bias")):
            stem, part = name.rsplit(".", 1)
            suffix = "bias" if part.endswith("_bias") else "weight"
            if suffix == "weight":
                numbers = numbers.swapaxes(-1, -2)
            if part.startswith("gate_up"):
                # Of a weight, rows take turns; of a bias, numbers.
                first, second = (numbers[:, 0::2], numbers[:, 1::2])
                yield f"{stem}.gate_proj.{suffix}", first
                yield f"{stem}.up_proj.{suffix}", second
            else:
                yield f"{stem}.down_proj.{suffix}", numbers
            continue
        if name.endswith("block_sparse_moe.input_linear.weight"):
            layer, half = name.split(".")[2], numbers.shape[1] // 2
            yield f"blk.{layer}.ffn_gate_exps.weight", numbers[:, :half]
            yield f"blk.{layer}.ffn_up_exps.weight", numbers[:, half:]
            continue
        before, experts_of, after = name.partition(".experts.")
        if experts_of:
            number, weight = after.split(".", 1)
            experts.setdefault((before, weight), {})[int(number)] = numbers
            continue
        yield name, numbers
    for (before, weight), parts in experts.items():
        stacked = np.stack([parts[number] for number in range(len(parts))])
        if "block_sparse_moe" in before:
            before = before.replace("model.layers", "layers").replace("block_sparse_moe", "feed_forward")
        yield f"{before}.experts.{weight}", stacked


def add_parameters(writer, config):
    architecture = ARCHITECTURES[config["model_type"]]
    rope = config["rope_parameters"]
    full = rope.get("full_attention", rope)
    head = config.get("head_dim")
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    if head and not architecture.startswith("granite"):
        writer.add_key_length(head)
        writer.add_value_length(head)
    if architecture in ("gemma", "gemma2"):
        pass  # The converter leaves the default to the reader.
    elif architecture == "phi3":
        writer.add_rope_freq_base(full["rope_theta"])
        writer.add_rope_scaling_orig_ctx_len(full.get("original_max_position_embeddings", 4096))
        writer.add_sliding_window(config.get("sliding_window") or 0)
    else:
        writer.add_rope_freq_base(full["rope_theta"])
        if "sliding_attention" in rope:
            writer.add_rope_freq_base_swa(rope["sliding_attention"]["rope_theta"])
        if full.get("rope_type") in ("linear", "yarn"):
            writer.add_rope_scaling_type(gguf.RopeScalingType(full["rope_type"]))
            writer.add_rope_scaling_factor(full["factor"])
        if full.get("rope_type") == "yarn":
            writer.add_rope_scaling_orig_ctx_len(full["original_max_position_embeddings"])
            for key, add in [
                ("attention_factor", writer.add_rope_scaling_yarn_attn_factor),
                ("beta_fast", writer.add_rope_scaling_yarn_beta_fast),
                ("beta_slow", writer.add_rope_scaling_yarn_beta_slow),
            ]:
                if full.get(key) is not None:
                    add(full[key])
    if architecture == "glm4":
        writer.add_rope_dimension_count(int(head * full["partial_rotary_factor"]))
    elif architecture in PERMUTED or architecture == "phi3":
        writer.add_rope_dimension_count(head or config["hidden_size"] // config["num_attention_heads"])
    if config.get("num_local_experts") or config.get("num_experts"):
        writer.add_expert_count(config.get("num_local_experts") or config["num_experts"])
        writer.add_expert_used_count(config["num_experts_per_tok"])
    if config.get("moe_intermediate_size"):
        writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    if config.get("shared_expert_intermediate_size"):
        writer.add_expert_shared_feed_forward_length(config["shared_expert_intermediate_size"])
    if architecture == "gpt-oss":
        writer.add_expert_feed_forward_length(config["intermediate_size"])
    if config["model_type"] in ("gemma2", "gemma3_text", "gpt_oss", "olmo3", "exaone4"):
        writer.add_sliding_window(config["sliding_window"])
    if config["model_type"] in ("olmo3", "exaone4"):
        writer.add_sliding_window_pattern([kind == "sliding_attention" for kind in config["layer_types"]])
    if architecture == "gemma2":
        writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
    if architecture.startswith("gemma") and config.get("final_logit_softcapping"):
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])
    if architecture.startswith("granite"):
        writer.add_attention_scale(config["attention_multiplier"])
        writer.add_embedding_scale(config["embedding_multiplier"])
        writer.add_residual_scale(config["residual_multiplier"])
        writer.add_logit_scale(config["logits_scaling"])
    if full.get("rope_type") == "longrope":
        original = full["original_max_position_embeddings"]
        scale = config["max_position_embeddings"] / original
        # The factor that the configuration names goes before, as in transformers.
        scale = full.get("factor") or scale
        writer.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(scale) / math.log(original)) if scale > 1 else 1.0)


def write_gguf(path, config, tensors, kind=None):
    """In F32, or with matrices in `kind`."""
    architecture = ARCHITECTURES[config["model_type"]]
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name(f"random weights in the form of {config['model_type']}")
    writer.add_license("apache-2.0")
    add_parameters(writer, config)
    writer.add_tokenizer_model("no_vocab")
    number = next(number for number, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(number, config["num_hidden_layers"])
    for name, numbers in converted(config, tensors):
        mapped = name if name.startswith("blk.") else names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert mapped, f"{name} is not known to {architecture}"
        numbers = np.ascontiguousarray(numbers.squeeze())
        is_matrix = numbers.ndim > 1 and mapped.endswith(".weight") and "ffn_gate_inp" not in mapped
        if kind and is_matrix:
            writer.add_tensor(mapped, gguf.quantize(numbers, kind), raw_dtype=kind)
        else:
            writer.add_tensor(mapped, numbers)
    rope = config["rope_parameters"]
    for part in ("long", "short"):
        if rope.get(f"{part}_factor"):
            writer.add_tensor(f"rope_factors_{part}.weight", np.array(rope[f"{part}_factor"], dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    print(path, path.stat().st_size, "bytes")


def widened(config, tensors, random):
    """The checkpoint with all sizes grown and new weights: width 256, feed-forwards 256, heads of 64, or 128 in Gemmas."""
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    head = config.get("head_dim") or config["hidden_size"] // heads
    wide_head = 128 if config["model_type"].startswith("gemma") else 64
    if not config.get("head_dim"):
        wide_head = 256 // heads
    wide = dict(config, hidden_size=256)
    for key in ("intermediate_size", "moe_intermediate_size", "shared_expert_intermediate_size"):
        if config.get(key):
            wide[key] = 256
    if config.get("head_dim"):
        wide["head_dim"] = wide_head
    if config["model_type"].startswith("gemma"):
        wide["query_pre_attn_scalar"] = wide_head
    rope = dict(config["rope_parameters"])
    for part in ("long_factor", "short_factor"):
        if rope.get(part):
            rope[part] = list(np.linspace(1, rope[part][-1], wide_head // 2))
    wide["rope_parameters"] = rope

    def shape_of(name, shape):
        q, kv = heads * wide_head, kv_heads * wide_head
        inner = 256
        rows_cols = {
            "q_proj.weight": [q, 256], "k_proj.weight": [kv, 256], "v_proj.weight": [kv, 256], "o_proj.weight": [256, q],
            "q_proj.bias": [q], "k_proj.bias": [kv], "v_proj.bias": [kv], "o_proj.bias": [256],
            "query_layernorm.weight": [wide_head], "key_layernorm.weight": [wide_head],
            "input_linear.weight": [shape[0], 2 * inner, 256], "output_linear.weight": [shape[0], 256, inner],
            "qkv_proj.weight": [q + 2 * kv, 256], "gate_up_proj.weight": [2 * inner, 256],
            "q_norm.weight": [wide_head if shape[0] == head else q], "k_norm.weight": [wide_head if shape[0] == head else kv],
            "gate_up_proj": [shape[0], 256, 2 * inner], "down_proj": [shape[0], inner, 256],
            "gate_up_proj_bias": [shape[0], 2 * inner], "down_proj_bias": [shape[0], 256],
            "gate_proj.weight": [inner, 256], "up_proj.weight": [inner, 256], "down_proj.weight": [256, inner],
            "w1.weight": [inner, 256], "w3.weight": [inner, 256], "w2.weight": [256, inner],
        }  # fmt: skip
        if config["model_type"].startswith("olmo"):
            # Over all heads together.
            rows_cols.update({"q_norm.weight": [q], "k_norm.weight": [kv]})
        for end, wide_shape in rows_cols.items():
            if name.endswith("." + end):
                return wide_shape
        return [256 if size == config["hidden_size"] else size for size in shape]

    wide_tensors = {}
    for name, numbers in tensors.items():
        shape = shape_of(name, list(numbers.shape))
        norm = name.endswith("norm.weight")
        centre = 0.0 if not norm or config["model_type"].startswith("gemma") else 1.0
        spread = 0.1 if norm else 1.0 if len(shape) == 1 or "bias" in name else 1.5 / math.sqrt(shape[-1])
        spread = 0.5 if name == "model.embed_tokens.weight" else spread
        wide_tensors[name] = random.normal(centre, spread, shape).astype(np.float32)
    return wide, wide_tensors


def make_wide(folder):
    for index, name in enumerate(NAMES):
        random = np.random.Generator(np.random.PCG64(20261125 + index))
        config = json.loads((GOLDEN / name / "config.json").read_text())
        config, tensors = widened(config, read_safetensors(GOLDEN / name / "model.safetensors"), random)
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        write_safetensors(folder / name / "model.safetensors", tensors)
        write_gguf(folder / f"{name}.f32.gguf", config, tensors)
        write_gguf(folder / f"{name}.q8_0.gguf", config, tensors, gguf.GGMLQuantizationType.Q8_0)


def make_experts(path):
    """In the form of OLMoE: of each of 16 layers' 64 experts a token chooses 8. Larger than caches, smaller than most memories."""
    layers, experts, width, inner, vocabulary = 16, 64, 1024, 512, 32_000
    config = json.loads((GOLDEN / "olmoe" / "config.json").read_text())
    config.update(
        hidden_size=width, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=16, num_key_value_heads=16,
        num_experts=experts, num_experts_per_tok=8, vocab_size=vocabulary, max_position_embeddings=4096,
    )  # fmt: skip
    random = np.random.Generator(np.random.PCG64(20261126))

    def matrix(*shape):
        return (random.standard_normal(shape, dtype=np.float32) / math.sqrt(shape[-1])).astype(np.float16)

    ones = np.ones(width, dtype=np.float32)
    tensors = {"model.embed_tokens.weight": matrix(vocabulary, width), "lm_head.weight": matrix(vocabulary, width)}
    tensors["model.norm.weight"] = ones
    for layer in range(layers):
        before = f"model.layers.{layer}"
        for norm in ("input_layernorm", "post_attention_layernorm", "self_attn.q_norm", "self_attn.k_norm"):
            tensors[f"{before}.{norm}.weight"] = ones
        for projection in "qkvo":
            tensors[f"{before}.self_attn.{projection}_proj.weight"] = matrix(width, width)
        # Routers stay in F32.
        tensors[f"{before}.mlp.gate.weight"] = matrix(experts, width).astype(np.float32)
        for name, rows, columns in [("gate", inner, width), ("up", inner, width), ("down", width, inner)]:
            tensors[f"blk.{layer}.ffn_{name}_exps.weight"] = matrix(experts, rows, columns)
    write_gguf(path, config, tensors)


def llama_cpp_logits(path, tokens):
    """Logits at every position, F32 throughout where llama.cpp allows it."""
    import llama_cpp

    model_parameters = llama_cpp.llama_model_default_params()
    model_parameters.use_mmap = False
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), model_parameters)
    assert model, path
    parameters = llama_cpp.llama_context_default_params()
    parameters.n_ctx = parameters.n_batch = max(32, len(tokens))
    parameters.type_k = parameters.type_v = 0
    parameters.flash_attn_type = 0
    context = llama_cpp.llama_init_from_model(model, parameters)
    batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
    batch.n_tokens = len(tokens)
    for index, token in enumerate(tokens):
        batch.token[index], batch.pos[index], batch.n_seq_id[index] = token, index, 1
        batch.seq_id[index][0], batch.logits[index] = 0, 1
    assert llama_cpp.llama_decode(context, batch) == 0
    size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    rows = [np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, index), (size,)).copy() for index in range(len(tokens))]
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)
    return np.stack(rows)


def quantize(paths):
    import llama_cpp

    for path in paths:
        parameters = llama_cpp.llama_model_quantize_default_params()
        parameters.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M
        to = path.replace(".f32.gguf", ".q4_k_m.gguf")
        assert to != path and llama_cpp.llama_model_quantize(path.encode(), to.encode(), parameters) == 0, path


def check(paths):
    for path in map(pathlib.Path, paths):
        golden = json.loads((GOLDEN / path.stem.split(".")[0] / "golden.json").read_text())
        found = llama_cpp_logits(path, golden["tokens"])
        expected = np.array(golden["logits"], dtype=np.float32)
        print(path.name, "largest difference over the largest logit:", np.abs(found - expected).max() / np.abs(expected).max())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wide", type=pathlib.Path, metavar="FOLDER")
    parser.add_argument("--experts", type=pathlib.Path, metavar="FILE")
    parser.add_argument("--check", nargs="+", metavar="FILE")
    parser.add_argument("--quantize", nargs="+", metavar="FILE")
    arguments = parser.parse_args()
    if arguments.wide:
        make_wide(arguments.wide)
    elif arguments.experts:
        make_experts(arguments.experts)
    elif arguments.quantize:
        quantize(arguments.quantize)
    elif arguments.check:
        check(arguments.check)
    else:
        for name in NAMES:
            config = json.loads((GOLDEN / name / "config.json").read_text())
            write_gguf(HERE / f"{name}.gguf", config, read_safetensors(GOLDEN / name / "model.safetensors"))


if __name__ == "__main__":
    main()
