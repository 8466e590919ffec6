"""Converts checkpoints with freehold and asks llama.cpp about the files: its logits against freehold's and, of the golden
checkpoints, transformers'; its tokens against freehold's. Needs llama-cpp-python, numpy and gguf. Arguments: the freehold
program, the folder tests/data, an empty directory, and any tokenizer.json to be tried in a model of random weights."""

import importlib.util
import json
import pathlib
import shutil
import subprocess
import sys

import llama_cpp
import numpy as np

PROGRAM, DATA, SCRATCH = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
TOKENIZERS = [pathlib.Path(path) for path in sys.argv[4:]]

# What llama.cpp computes otherwise, whoever wrote the file (tests/data/gguf/README.md); and it does not know a window in
# every layer of a Llama.
APART = {"phi3_longrope", "gpt_oss", "exaone4", "mistral_swa"}
# It gives the error of GELU from a table of halves.
TABLE = {"gemma", "gemma2", "gemma3"}
# Heads are grouped, which no published model's are: it is not loaded.
NOT_LOADED = {"olmoe"}

spec = importlib.util.spec_from_file_location("make_gguf", DATA / "gguf" / "make_gguf.py")
make_gguf = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make_gguf)
failures = []


def limit(name):
    """How far apart llama.cpp and freehold may be in F32."""
    return float("inf") if name in APART else 2e-3 if name in TABLE else 1e-5



def freehold(*arguments, stdin=None):
    command = [PROGRAM, "--home", str(SCRATCH / "home"), "--json", *map(str, arguments)]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{command}: {done.stderr}")
    return json.loads(done.stdout)


def apart(found, expected):
    """The largest difference over the largest logit."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def check(what, within, **figures):
    sound = all(figure <= within for figure in figures.values())
    print(f"{what:32}", *(f"{name} {figure:.1e}" for name, figure in figures.items()), "" if sound else "TOO FAR", flush=True)
    if not sound:
        failures.append(what)


def own_logits(file, tokens):
    logits = freehold("logits", f"file:{file}", "--kv", "f32", "--all", "--tokens", ",".join(map(str, tokens)))
    return np.array(logits["logits"], dtype=np.float32)


def golden(name):
    folder, file = DATA / "golden" / name, SCRATCH / f"{name}.gguf"
    assert freehold("convert", folder, file, "--verify")["difference"] == 0, name
    known = json.loads((folder / "golden.json").read_text())
    own = own_logits(file, known["tokens"])
    figures = {"transformers-freehold": apart(own, np.array(known["logits"], dtype=np.float32))}
    if name in NOT_LOADED:
        check(name, 1e-4, **figures)
        return
    figures["llama.cpp-freehold"] = apart(make_gguf.llama_cpp_logits(file, known["tokens"]), own)
    check(name, limit(name), **figures)


def wide(index, name):
    """As `make_gguf.py --wide` makes them, but for the files, which freehold writes; also in halves."""
    random = np.random.Generator(np.random.PCG64(20261125 + index))
    source = DATA / "golden" / name
    config, tensors = make_gguf.widened(
        json.loads((source / "config.json").read_text()), make_gguf.read_safetensors(source / "model.safetensors"), random
    )
    folder = SCRATCH / "wide" / name
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    make_gguf.write_safetensors(folder / "model.safetensors", tensors)
    tokens = [int(token) for token in random.integers(0, config["vocab_size"], 24)]
    for kind in ("f32", "f16", "bf16"):
        file = SCRATCH / f"{name}.{kind}.gguf"
        figures = {"folder-file": freehold("convert", folder, file, "--type", kind, "--verify")["difference"]}
        assert kind != "f32" or figures["folder-file"] == 0, name
        if name not in NOT_LOADED:
            figures["llama.cpp-freehold"] = apart(make_gguf.llama_cpp_logits(file, tokens), own_logits(file, tokens))
        file.unlink()
        # Halves round otherwise in each program, and a mixture may choose other experts for it.
        check(f"{name}, wide, {kind}", limit(name) if kind == "f32" else float("inf"), **figures)


def llama_cpp_tokens(file, texts):
    parameters = llama_cpp.llama_model_default_params()
    parameters.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(str(file).encode(), parameters)
    assert model, file
    vocabulary = llama_cpp.llama_model_get_vocab(model)
    found = []
    for text in texts:
        text = text.encode()
        ids = (llama_cpp.llama_token * (len(text) + 8))()
        count = llama_cpp.llama_tokenize(vocabulary, text, len(text), ids, len(ids), False, True)
        found.append(list(ids[:count]))
    llama_cpp.llama_model_free(model)
    return found


def tokenizer(number, path):
    """A tokenizer in a folder of random weights with as many tokens."""
    listed = json.loads(path.read_text())
    ids = [token["id"] for token in listed["added_tokens"]]
    vocab = listed["model"]["vocab"]
    size = max([*ids, *(vocab.values() if isinstance(vocab, dict) else range(len(vocab)))]) + 1 + 7
    source = DATA / "golden" / "llama_tied"
    config = json.loads((source / "config.json").read_text())
    tensors = make_gguf.read_safetensors(source / "model.safetensors")
    width = tensors["model.embed_tokens.weight"].shape[1]
    random = np.random.Generator(np.random.PCG64(number))
    tensors["model.embed_tokens.weight"] = random.normal(0, 0.02, (size, width)).astype(np.float32)
    folder, file = SCRATCH / f"tokenizer-{number}", SCRATCH / f"converted-{number}.gguf"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(dict(config, vocab_size=size)))
    make_gguf.write_safetensors(folder / "model.safetensors", tensors)
    shutil.copy(path, folder / "tokenizer.json")
    beside = path.with_name("tokenizer_config.json")
    if beside.exists():
        shutil.copy(beside, folder)
    converted = freehold("convert", folder, file)
    texts = (DATA / "tokenizers" / "gpt-2.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    texts = [*texts, "\n".join(texts)]
    theirs = llama_cpp_tokens(file, texts)
    same = 0
    for text, ids in zip(texts, theirs):
        (SCRATCH / "text").write_bytes(text.encode())
        own = [freehold("tokenize", f"file:{source}", "--file", SCRATCH / "text")["ids"] for source in (folder, file)]
        assert own[0] == own[1], (path, text)
        same += own[0] == ids
        if own[0] != ids:
            print(f"  {text!r}: freehold {own[0]}, llama.cpp {ids}")
    kind = f"{converted['tokenizer']}, {size} tokens"
    print(f"{path}: {kind}: {same} of {len(texts)} texts alike", flush=True)
    if same != len(texts):
        failures.append(path)


def main():
    for folder in sorted((DATA / "golden").iterdir()):
        if folder.is_dir():
            golden(folder.name)
    for index, name in enumerate(make_gguf.NAMES):
        wide(index, name)
    for number, path in enumerate(TOKENIZERS):
        tokenizer(number, path)
    if failures:
        sys.exit(f"{len(failures)} do not agree: {failures}")


main()
