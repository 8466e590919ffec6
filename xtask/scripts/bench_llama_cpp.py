"""Times llama.cpp (the package llama-cpp-python). Arguments: model, threads, flash attention (0 or 1). Each line of standard
input is a question, `NAME NUMBER ID,ID,…`, of which `load` is the first; each line of standard output its answer, in seconds
or bytes."""

import ctypes
import sys
import time

import llama_cpp as lc

CONTEXT = 4096

model_path, threads, flash_attention = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])


def new_context(positions, sequences=1):
    parameters = lc.llama_context_default_params()
    parameters.n_ctx = positions
    parameters.n_batch = 512
    parameters.n_ubatch = 512
    parameters.n_threads = threads
    parameters.n_threads_batch = threads
    parameters.n_seq_max = sequences
    parameters.flash_attn_type = flash_attention
    # What llama.cpp recommends for sequences without a common beginning.
    parameters.kv_unified = False
    context = lc.llama_init_from_model(model, parameters)
    if not context:
        sys.exit("no context")
    return context


def decode(context, batch):
    """One call of llama_decode; waits for its logits."""
    if lc.llama_decode(context, batch) != 0:
        sys.exit("llama_decode failed")
    lc.llama_synchronize(context)
    ctypes.cast(lc.llama_get_logits_ith(context, -1), ctypes.POINTER(ctypes.c_float))[0]


def feed(context, tokens):
    for start in range(0, len(tokens), 512):
        part = tokens[start : start + 512]
        array = (lc.llama_token * len(part))(*part)
        decode(context, lc.llama_batch_get_one(array, len(part)))


def streams(context, count, ids):
    """A token of each sequence in a step; seconds from the second step on."""
    length = len(ids) // count
    batch = lc.llama_batch_init(count, 0, 1)
    batch.n_tokens = count
    for position in range(length):
        for sequence in range(count):
            batch.token[sequence] = ids[sequence * length + position]
            batch.pos[sequence] = position
            batch.n_seq_id[sequence] = 1
            batch.seq_id[sequence][0] = sequence
            batch.logits[sequence] = 1
        decode(context, batch)
        if position == 0:
            began = time.perf_counter()
    seconds = time.perf_counter() - began
    lc.llama_batch_free(batch)
    return seconds


def peak_bytes():
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024


for line in sys.stdin:
    name, number, ids = line.rstrip("\n").split(" ")
    number, ids = int(number), [int(token) for token in ids.split(",") if token]
    if name == "load":
        began = time.perf_counter()
        lc.llama_backend_init()
        model = lc.llama_model_load_from_file(model_path.encode(), lc.llama_model_default_params())
        context = new_context(CONTEXT)
        feed(context, ids)
        answer = time.perf_counter() - began
    elif name == "peak":
        answer = peak_bytes()
    elif name == "streams":
        # Each sequence gets the same share of the context.
        own = new_context(number * 256, number)
        answer = streams(own, number, ids)
        lc.llama_free(own)
    else:
        own = context if len(ids) <= CONTEXT else new_context(len(ids))
        lc.llama_memory_clear(lc.llama_get_memory(own), True)
        before = ids[:number] if name == "decode" else []
        feed(own, before)
        began = time.perf_counter()
        if name == "prefill":
            feed(own, ids)
        else:
            for token in ids[number:]:
                feed(own, [token])
        answer = time.perf_counter() - began
        if own is not context:
            lc.llama_free(own)
    print(answer, flush=True)
