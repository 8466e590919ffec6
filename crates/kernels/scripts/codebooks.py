"""Writes src/codebooks.bin: the codebooks of ggml's IQ1, IQ2 and IQ3 formats, from the Python package `gguf` (MIT).

Each codebook is a list of words of eight (IQ1, IQ2) or four (IQ3) numbers. A number is stored as one signed byte, so the
file is plain; the order of codebooks and their sizes are those of `codebooks.rs`.

    pip install gguf && python scripts/codebooks.py src/codebooks.bin
"""

import sys

import numpy as np
from gguf import quants

with open(sys.argv[1], "wb") as out:
    for kind in (quants.IQ2_XXS, quants.IQ2_XS, quants.IQ2_S, quants.IQ3_XXS, quants.IQ3_S, quants.IQ1_S):
        kind.init_grid()
        out.write(kind.grid.astype(np.int8).tobytes())
