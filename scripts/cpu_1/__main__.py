"""The contract `cpu-1` once more, in Python, from docs/numerics.md alone: slow, short, and apart from the Rust code.

    python3 -m venv venv && venv/bin/pip install numpy gguf       # gguf for the codebooks of IQ1, IQ2 and IQ3
    venv/bin/python scripts/cpu_1 logits MODEL --tokens 1,2,3      # as `freehold logits MODEL --tokens 1,2,3 --all --digest-only`
    venv/bin/python scripts/cpu_1 vectors                          # writes tests/data/cpu-1
    venv/bin/python scripts/cpu_1 vectors --check                  # compares it with what would be written

MODEL is a GGUF file, or a Hugging Face folder of a dense Llama, Mistral, Qwen2 or Qwen3 in one safetensors file.
`cargo test` replays the vectors on every instruction set of the machine.
"""

import argparse
import sys

import config
import vectors
from decoder import Model


def main():
    parser = argparse.ArgumentParser(prog="cpu_1", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    logits = commands.add_parser("logits")
    logits.add_argument("model")
    logits.add_argument("--tokens", required=True, type=lambda text: [int(token) for token in text.split(",")])
    logits.add_argument("--kv", default="f16", choices=["f32", "f16", "q8_0"])
    commands.add_parser("vectors").add_argument("--check", action="store_true")
    options = parser.parse_args()
    if options.command == "logits":
        model = Model(*config.opened(options.model))
        print("sha256", vectors.digest(model.logits(options.tokens, options.kv)))
    elif options.check:
        sys.exit("\n".join(vectors.check()) or None)
    else:
        vectors.write()


if __name__ == "__main__":
    main()
