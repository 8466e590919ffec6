"""Times llama.cpp (the package llama-cpp-python). Arguments: model, threads. Each line of standard input is
`prefill|decode COUNT ID,ID,…`; each line of standard output the seconds it took."""

import ctypes
import sys
import time

import llama_cpp as lc

model_path, threads = sys.argv[1], int(sys.argv[2])
lc.llama_backend_init()
model = lc.llama_model_load_from_file(model_path.encode(), lc.llama_model_default_params())
parameters = lc.llama_context_default_params()
parameters.n_ctx = 4096
parameters.n_batch = 512
parameters.n_ubatch = 512
parameters.n_threads = threads
parameters.n_threads_batch = threads
context = lc.llama_init_from_model(model, parameters)
memory = lc.llama_get_memory(context)


def feed(tokens):
    """One call of llama_decode; waits for its logits."""
    array = (lc.llama_token * len(tokens))(*tokens)
    if lc.llama_decode(context, lc.llama_batch_get_one(array, len(tokens))) != 0:
        sys.exit("llama_decode failed")
    lc.llama_synchronize(context)
    ctypes.cast(lc.llama_get_logits_ith(context, -1), ctypes.POINTER(ctypes.c_float))[0]


for line in sys.stdin:
    what, count, ids = line.split()
    ids = [int(token) for token in ids.split(",")]
    count = int(count)
    lc.llama_memory_clear(memory, True)
    if what == "prefill":
        began = time.perf_counter()
        feed(ids[:count])
    else:
        feed(ids[:1])
        began = time.perf_counter()
        for token in ids[1 : count + 1]:
            feed([token])
    print(time.perf_counter() - began, flush=True)
