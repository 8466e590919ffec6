# mistral.rs as a contender, by the package mistralrs. Argument: the model. It takes text, so that a prompt is one word over and
# over, and tells by itself how long a prompt and an answer took. It takes the number of threads from RAYON_NUM_THREADS.

import pathlib
import time

from mistralrs import CompletionRequest, Runner, Which

WORD = " the"

path = pathlib.Path(sys.argv[1])
runner = None


def ask(prompt_tokens, answer_tokens, sequences=1):
    request = CompletionRequest(
        prompt=WORD * prompt_tokens, model="default", max_tokens=answer_tokens, temperature=0.0, ignore_eos=True, n_choices=sequences
    )
    usage = runner.send_completion_request(request).usage
    if (usage.prompt_tokens, usage.completion_tokens) != (prompt_tokens, answer_tokens):
        raise RuntimeError(f"mistral.rs ran {usage.prompt_tokens} and {usage.completion_tokens} tokens")
    return usage


def load(_, ids):
    global runner
    began = time.perf_counter()
    which = Which.GGUF(quantized_model_id=str(path.parent), quantized_filename=path.name)
    # No prompt is to be found in a cache.
    runner = Runner(which=which, max_seqs=1024, prefix_cache_n=0, token_source="none")
    ask(len(ids), 1)
    return time.perf_counter() - began


def prefill(_, ids):
    return ask(len(ids), 1).total_prompt_time_sec


def decode(depth, ids):
    # The prompt brings the first token of the answer.
    return ask(depth, len(ids) - depth + 1).total_completion_time_sec


def streams(count, ids):
    # The Python API takes one request at a time, but lets it have several answers. Each begins with a token of its prompt.
    began = time.perf_counter()
    ask(1, len(ids) // count - 1, count)
    return time.perf_counter() - began


serve({"load": load, "prefill": prefill, "decode": decode, "streams": streams})
