# llama.cpp as a contender, by the package llama-cpp-python. Arguments: model, threads, flash attention (0 or 1).

import ctypes
import time

import llama_cpp as lc

TOKENS_PER_STEP = 512

model_path, threads, flash_attention = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
model = context = None
held = []


def new_context(positions, sequences=1):
    parameters = lc.llama_context_default_params()
    parameters.n_ctx = positions
    parameters.n_batch = TOKENS_PER_STEP
    parameters.n_ubatch = TOKENS_PER_STEP
    parameters.n_threads = threads
    parameters.n_threads_batch = threads
    parameters.n_seq_max = sequences
    parameters.flash_attn_type = flash_attention
    # What llama.cpp recommends for sequences without a common beginning.
    parameters.kv_unified = False
    context = lc.llama_init_from_model(model, parameters)
    if not context:
        raise RuntimeError("llama.cpp made no context")
    return context


def step(context, batch):
    """One call of llama_decode; waits for its logits."""
    if lc.llama_decode(context, batch) != 0:
        raise RuntimeError("llama_decode failed")
    lc.llama_synchronize(context)
    ctypes.cast(lc.llama_get_logits_ith(context, -1), ctypes.POINTER(ctypes.c_float))[0]


def keep(count):
    """Leaves the first tokens of the cache."""
    lc.llama_memory_seq_rm(lc.llama_get_memory(context), 0, count, -1)
    del held[count:]


def feed(ids):
    for start in range(0, len(ids), TOKENS_PER_STEP):
        part = ids[start : start + TOKENS_PER_STEP]
        array = (lc.llama_token * len(part))(*part)
        step(context, lc.llama_batch_get_one(array, len(part)))
        held.extend(part)


def load(positions, ids):
    global model, context
    began = time.perf_counter()
    lc.llama_backend_init()
    model = lc.llama_model_load_from_file(model_path.encode(), lc.llama_model_default_params())
    if not model:
        raise RuntimeError("llama.cpp does not load the file")
    context = new_context(positions)
    feed(ids)
    return time.perf_counter() - began


def prefill(_, ids):
    keep(0)
    began = time.perf_counter()
    feed(ids)
    return time.perf_counter() - began


def decode(depth, ids):
    # What the cache holds of the tokens before stays.
    same = next((at for at, pair in enumerate(zip(held, ids[:depth])) if pair[0] != pair[1]), min(len(held), depth))
    keep(same)
    feed(ids[same:depth])
    began = time.perf_counter()
    for token in ids[depth:]:
        feed([token])
    return time.perf_counter() - began


def streams(count, ids):
    length = len(ids) // count
    # Each sequence gets the same share of the context, in llama.cpp's units of 256 positions.
    context = new_context(count * -(-length // 256) * 256, count)
    batch = lc.llama_batch_init(count, 0, 1)
    batch.n_tokens = count
    for position in range(length):
        for sequence in range(count):
            batch.token[sequence] = ids[sequence * length + position]
            batch.pos[sequence] = position
            batch.n_seq_id[sequence] = 1
            batch.seq_id[sequence][0] = sequence
            batch.logits[sequence] = 1
        step(context, batch)
        if position == 0:
            began = time.perf_counter()
    seconds = time.perf_counter() - began
    lc.llama_batch_free(batch)
    lc.llama_free(context)
    return seconds


serve({"load": load, "prefill": prefill, "decode": decode, "streams": streams})
