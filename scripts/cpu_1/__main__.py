"""The contract `cpu-1` once more, in Python, from docs/numerics.md alone.

    python3 -m venv venv && venv/bin/pip install numpy
    venv/bin/python scripts/cpu_1 logits MODEL --tokens 1,2,3 [--kv f16]   # as `freehold logits --all --digest-only`
"""

import argparse
import hashlib
import os

import numpy as np

import config
import files
from decoder import Model


def open_model(path):
    return Model(*(config.from_folder(path) if os.path.isdir(path) else config.from_gguf(path)))


def digest(logits):
    return hashlib.sha256(np.ascontiguousarray(logits, dtype="<f4").tobytes()).hexdigest()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    logits = commands.add_parser("logits")
    logits.add_argument("model")
    logits.add_argument("--tokens", required=True, type=lambda text: [int(t) for t in text.split(",")])
    logits.add_argument("--kv", default="f16", choices=["f32", "f16", "q8_0"])
    options = parser.parse_args()
    print("sha256", digest(open_model(options.model).logits(options.tokens, options.kv)))


if __name__ == "__main__":
    main()
