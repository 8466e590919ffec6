"""Random numbers and the choice of a token: the section "Sampling" of docs/numerics.md."""

from dataclasses import dataclass, field

import numpy as np

from arithmetic import F32
from functions import exp
from products import log_sum_exp

WORD = 2**32


def philox4x32(counter, key):
    """Ten rounds of Philox4x32 (Salmon, Moraes, Dror and Shaw, SC 2011)."""
    c, k = list(counter), list(key)
    for _ in range(10):
        first, second = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [second // WORD ^ c[1] ^ k[0], second % WORD, first // WORD ^ c[3] ^ k[1], first % WORD]
        k = [(k[0] + 0x9E3779B9) % WORD, (k[1] + 0xBB67AE85) % WORD]
    return c


def uniform(seed, stream, position):
    counter = [position % WORD, position // WORD, stream % WORD, stream // WORD]
    first, second, _, _ = philox4x32(counter, [seed % WORD, seed // WORD])
    return ((first << 32 | second) >> 11) * 2.0**-53


@dataclass
class Settings:
    """Binary32, but for top-k, where 0 is none, and the seed."""

    temperature: np.float32 = F32(0)
    top_k: int = 0
    top_p: np.float32 = F32(1)
    min_p: np.float32 = F32(0)
    repetition_penalty: np.float32 = F32(1)
    presence_penalty: np.float32 = F32(0)
    frequency_penalty: np.float32 = F32(0)
    logit_bias: list = field(default_factory=list)
    seed: int = 0


def adjusted(logits, settings, prompt, answer):
    logits = list(logits)
    for token in set(prompt) | set(answer):
        r = settings.repetition_penalty
        logits[token] = logits[token] / r if logits[token] > 0 else logits[token] * r
    for token in set(answer):
        seen = F32(answer.count(token))
        logits[token] = logits[token] - (settings.presence_penalty + settings.frequency_penalty * seen)
    for token, bias in settings.logit_bias:
        logits[token] = logits[token] + bias
    return logits


def choose(logits, settings, prompt, answer, position):
    logits = adjusted(logits, settings, prompt, answer)
    order = sorted(range(len(logits)), key=lambda token: (-logits[token], token))
    if settings.temperature == 0 or settings.top_k == 1:
        return order[0]
    largest = logits[order[0]]
    kept = order[: settings.top_k] if settings.top_k else order
    weights = {
        token: F32(1) if logits[token] == largest else exp((logits[token] - largest) / settings.temperature)[()] for token in kept
    }
    total = 0.0
    for token in sorted(kept):
        total += float(weights[token])
    kept = [token for token in kept if weights[token] > 0 and weights[token] >= settings.min_p]
    if settings.top_p < 1:
        running, length = 0.0, 0
        for token in kept:
            running, length = running + float(weights[token]), length + 1
            if running >= float(settings.top_p) * total:
                break
        kept = kept[:length]
    total = 0.0
    for token in kept:
        total += float(weights[token])
    target = uniform(settings.seed, 0, position) * total
    running = 0.0
    for token in kept:
        running += float(weights[token])
        if running > target:
            return token
    raise AssertionError("a uniform number is below 1")


def log_probability(logits, token):
    return logits[token] - log_sum_exp(logits)
