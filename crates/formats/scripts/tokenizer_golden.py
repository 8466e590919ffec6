"""Writes cases for the tokenizer's tests: texts, how the pre-tokenizers cut them, and their token ids.

The answers are those of the Python library `tokenizers` (0.23), given the tokens and merges of GGUF vocabularies.
Needs `tokenizers`, `gguf` and `numpy`.

    python tokenizer_golden.py CASES SEED NAME=VOCABULARY.gguf... > golden.jsonl

NAME is one of `gpt2`, `llama3`, `qwen2`, `smollm`; the tests' own file was made with

    python tokenizer_golden.py 300 1 gpt2=ggml-vocab-gpt-2.gguf qwen2=ggml-vocab-qwen2.gguf
"""

import json
import random
import sys

from gguf import GGUFReader
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence, Split

TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"


def split(pattern):
    return Sequence([Split(Regex(pattern), "isolated"), ByteLevel(add_prefix_space=False, use_regex=False)])


PRE_TOKENIZERS = {
    "gpt2": ByteLevel(add_prefix_space=False),
    "llama3": split(WORDS + r"\p{N}{1,3}|" + TAIL),
    "qwen2": split(WORDS + r"\p{N}|" + TAIL),
    "smollm": Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]),
}

WRITTEN = [
    "", " ", "  ", "\n", " \n", "\n ", "\t\t", "a", " a", "  a", "   a\n\n  b \n", "a \r\n\r\n b", "\r\r\n\n\r", "a\u00a0b\u00a0 c",
    "\u3000\u3000漢字\u3000", "\u2028x\u2029", "\u0085\u0085y", "\u200b\u200b", "\ufeffx", "\x1c\x1d\x1e\x1f\x0b\x0c ",
    "I'm you're he's we'll they've I'd don't", "I'M YOU'RE HE'S WE'LL THEY'VE I'D DON'T", "'s'S'ſ'ſa 'K'ß 'lL'Ll'rE'vE'VE",
    "'sos 'tis 'mid 'dog 'llama 'revel 'very", "''s '''' 's' ' s", "’s ’t", "0 00 000 0000 00000 1234567", "a1b22c333d4444",
    " 1 12  123   1234", "\n1\n22 \n333", "½ ¾ ² ³ ⅷ Ⅻ ① ㉈ ൰", "٠١٢٣٤ ०१२३ 〇", "3.14159e-10, 0x1F, 1_000_000", "$1.50 €2 £3 ¥4",
    "e\u0301 é \u0301 a\u0308\u0323 ﬁ Å Å", "각 각 \u1100\u1161\u11a8", "नमस्ते दुनिया", "สวัสดีชาวโลก", "ہیلو دنیا مرحبا", "שלום עולם",
    "Привет, мир! Ёлка.", "你好，世界！", "こんにちは、世界。ｶﾀｶﾅ", "👋🏽👨‍👩‍👧‍👦🇩🇪 🎉🎉", "\U0010ffff\U000e0001\ue000", "\u0378\ufffe\uffff",
    "def f(x):\n    return x ** 2  # ok\n\n\n\tif x:\n\t\tpass\n", "for (int i = 0; i < n; ++i) { a[i] += \"\\n\"; }\n", "<?php echo '<b>';?>",
    "a_b-c.d/e\\f@g#h%i&j*k", "!!! ??? ... --- === ^^^ ~~~ ``` ||| ", "!\n!\r\n! \n!", " !a !1 ! !", "Hello world", "Hello  world   !   ",
    "a" * 100, "^" * 100, " " * 100, "\n" * 50, "1" * 50, "ab " * 30, "=" * 40 + "\n", "    \t    \n    \t x",
    "https://example.org/?q=a+b&c=%20#frag", "The quick brown fox jumps over the lazy dog.", "ÀÉÎÕÜ àéîõü ŒœÆæ ßẞ", "x\u0000y\u007fz",
    "<|endoftext|>", "a<|endoftext|>b", "<|im_start|>user\nhi<|im_end|>\n", "<|im_start|", "<<|im_end|>>", " <|im_end|> ", "<|im_end|><|im_end|>",
]

ALPHABETS = [
    "abcdefghijklmnopqrstuvwxyz", "ABCXYZ", "0123456789", "     ", " \n\r\t", "\u00a0\u2003\u3000\u0085\u2028\x0b\x0c\x1c", "'\"`’",
    ".,;:!?-_()[]{}<>|/\\@#$%^&*+=~", "stmdrevlſSTMDREVL'", "àéîõüßñçøåÅΩµπλЖдя", "漢字かなカナ한국어", "٠١٢०१२½²Ⅷ①", "मस्तेنامعשלום\u0301\u0308\u0323\u0327",
    "👋🏽👨\u200d👩🇩🇪🎉\ufe0f", "\u0000\u007f\u00ad\u200b\ufeff\U0010ffff\ue000",
]


def random_text(rng):
    alphabets = rng.sample(ALPHABETS, rng.randint(1, 5))
    text = ""
    for _ in range(rng.randint(1, 12)):
        alphabet = rng.choice(alphabets)
        text += "".join(rng.choice(alphabet) for _ in range(rng.randint(1, 8)))
    return text


def random_code_points(rng, in_common):
    return "".join(rng.choice(in_common) for _ in range(rng.randint(1, 20)))


def load(name, path):
    fields = GGUFReader(path).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    kinds = fields["tokenizer.ggml.token_type"].contents()
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"].contents()]
    vocabulary = {token: id for id, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=name == "llama3"))
    tokenizer.pre_tokenizer = PRE_TOKENIZERS[name]
    if name == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t, kind in zip(tokens, kinds) if kind in (2, 3)])
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t, kind in zip(tokens, kinds) if kind == 4])
    return tokenizer


def main():
    count, seed = int(sys.argv[1]), int(sys.argv[2])
    tokenizers = {name: load(name, path) for name, path in (argument.split("=", 1) for argument in sys.argv[3:])}
    rng = random.Random(seed)
    # Assigned since long, so that the Unicode versions of the library and of its users do not matter.
    common = [chr(c) for c in [*range(0x20, 0x378), *range(0x390, 0x52f), *range(0x600, 0x700), *range(0x904, 0x970),
                               *range(0x2000, 0x2060), *range(0x2100, 0x2200), *range(0x2460, 0x2500), *range(0x3000, 0x3040),
                               *range(0x3041, 0x3097), *range(0x4e00, 0x5200), *range(0xac00, 0xad00), *range(0x1d400, 0x1d455),
                               *range(0x1f600, 0x1f640)]]
    texts = list(WRITTEN)
    while len(texts) < count:
        texts.append(random_text(rng) if rng.random() < 0.8 else random_code_points(rng, common))
    for text in texts:
        case = {"text": text}
        for name, pre_tokenizer in PRE_TOKENIZERS.items():
            # A character of the byte-level alphabet is a byte.
            case[name] = [len(piece) for piece, _ in pre_tokenizer.pre_tokenize_str(text)]
        for name, tokenizer in tokenizers.items():
            case[name + "_ids"] = tokenizer.encode(text, add_special_tokens=False).ids
        print(json.dumps(case, separators=(",", ":")))


main()
