"""Writes texts and the ids that the Python library `tokenizers` gives them, for `examples/tokenizer_pairs.rs`.

    python tokenizer_ids.py TOKENIZER.json > TOKENIZER.json.ids.jsonl
    python tokenizer_ids.py TOKENIZER.model > TOKENIZER.model.ids.jsonl     (with the library `sentencepiece`)
    python tokenizer_ids.py --small FOLDER

The last writes the small tokenizers of every kind that the tests use, trained on the texts below, each with its ids.
Needs `tokenizers` 0.23 or newer and `sentencepiece` 0.2 or newer.
"""

import io
import json
import os
import random
import sys

PROSE = """The quick brown fox jumps over the lazy dog. It wasn't the first time; we've seen 12 of them since 1999, they'll come again!
A tokenizer cuts a text into pieces, and every piece has a number. Numbers such as 3.14159, 1,000,000 and 2024 are cut as well.
def encode(text: str) -> list[int]:
    return [vocabulary[piece] for piece in cut(text)]  # the pieces of the text
Der schnelle braune Fuchs springt über den faulen Hund. L'été, à Noël, ça dépend où l'on est né.
Привет, мир! Быстрая лиса прыгает через собаку. 你好，世界。 こんにちは世界 مرحبا بالعالم नमस्ते दुनिया 안녕하세요 세계
"""

WRITTEN = [
    "", " ", "  ", "   a  b   ", "\n", " \n\n x\n", "\t\ttab", "a\r\nb\r\n\r\nc", "Hello world", " Hello  world ", "hello, WORLD! it's 12:30",
    "we'll they've I'M DON'T", "3.14159 1,000,000 0x1F 12345678", "x" * 150, "^" * 60, "a" * 200, " " * 40, "é e\u0301 ﬁ Å ½ ²", "Ünïcödé ǅ ẞ İ",
    "漢字かなカナ ｶﾀ 한국어", "नमस्ते मस्ते", "مرحبا العالم", "שלום", "👋🏽👨‍👩‍👧‍👦🇩🇪🎉", "\u0000\u0001\u007f\ufffd\ufeff", "\u00a0\u3000\u2028\u0085", "▁ ▁▁x ▁a", "<0x41> <0xE2>",
    "<s> </s> <unk>", "[CLS] [MASK] [SEP]", "a<tool>b <tool>", "<tool>  x", "for (int i = 0; i < n; ++i) { a[i] += '\\n'; }", "\U0010ffff\ue000\u0378",
    "foo.bar(baz)->qux; $x @y #z %w", "``quoted'' \"text\" — dash – …", "e" + "\u0301" * 30, "ＦＵＬＬ ｗｉｄｔｈ １２３", "ſtraße ῼ ŉ", "a\u200bb\u200dc\u00ad",
]

ALPHABETS = [
    "abcdefghijklmnopqrstuvwxyz", "ABCXYZ", "0123456789", "     ", " \n\r\t", "\u00a0\u2003\u3000\u0085\u2028", "'\"`’▁", ".,;:!?-_()[]{}<>|/\\@#$%^&*+=~",
    "àéîõüßñçøåÅΩµπλЖдя", "漢字かなカナ한국어ｶＡ１", "٠١٢०१२½²Ⅷ①", "मस्तेنامعשלום\u0301\u0308\u0323", "👋🏽👨\u200d👩🇩🇪🎉\ufe0f", "\u0000\u007f\u00ad\u200b\ufeff\ue000", "ﬁﷺ㎏㍿ǆ",
]


def texts(count, seed):
    rng = random.Random(seed)
    found = WRITTEN + PROSE.splitlines() + [PROSE]
    words = PROSE.split()
    while len(found) < count:
        if rng.random() < 0.4:
            found.append(rng.choice(["", " "]) + " ".join(rng.choice(words) for _ in range(rng.randint(1, 12))))
            continue
        alphabets = rng.sample(ALPHABETS, rng.randint(1, 5))
        found.append("".join("".join(rng.choice(rng.choice(alphabets)) for _ in range(rng.randint(1, 8))) for _ in range(rng.randint(1, 10))))
    return found


def write(encode, cases, file):
    for text in cases:
        ids, decoded = encode(text)
        print(json.dumps({"text": text, "ids": ids, "decoded": decoded}, separators=(",", ":")), file=file)


def encoder(path):
    if path.endswith(".model"):
        from sentencepiece import SentencePieceProcessor

        processor = SentencePieceProcessor(model_file=path)

        def encode(text):
            ids = processor.encode(text)
            return ids, processor.decode(ids)

        return encode
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(path)
    tokenizer.no_padding()
    tokenizer.no_truncation()

    def encode(text):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        return ids, tokenizer.decode(ids, skip_special_tokens=False)

    return encode


def small(folder):
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from sentencepiece import SentencePieceTrainer

    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bytes_alphabet = pre_tokenizers.ByteLevel.alphabet()
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    lines = PROSE.splitlines()
    added = [AddedToken("<tool>", normalized=False), AddedToken("<Think>", special=False, normalized=True), AddedToken("<strip>", lstrip=True, rstrip=True, normalized=False)]
    llama = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    sp_decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])

    def bpe(name, pre_tokenizer, normalizer=None, size=700):
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizer
        if normalizer:
            tokenizer.normalizer = normalizer
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=bytes_alphabet, special_tokens=["<|end|>"], show_progress=False)
        tokenizer.train_from_iterator(lines, trainer)
        save(name, tokenizer)

    def save(name, tokenizer):
        tokenizer.add_tokens(added)
        tokenizer.save(f"{folder}/{name}.json", pretty=False)

    def split(*patterns):
        return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns] + [byte_level])

    tail = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    upper, lower = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
    words = r"[^\r\n\p{L}\p{N}]?"
    contraction = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    o200k = f"{words}{upper}*{lower}+{contraction}|{words}{upper}+{lower}*{contraction}|" + r"\p{N}{1,3}|" + tail
    bpe("gpt-4o", split(o200k), size=500)
    v3 = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
    bpe("deepseek-v3", split(r"\p{N}{1,3}", "[一-龥\u3040-ゟ゠-ヿ]+", v3), size=500)
    bpe("bloom", split(" ?[^(\\s|[.,!?…。，、।۔،])]+"), size=500)
    bpe("falcon", pre_tokenizers.Sequence([pre_tokenizers.Punctuation("contiguous"), pre_tokenizers.ByteLevel(add_prefix_space=False), pre_tokenizers.Digits(False), pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated")]), size=500)
    bpe("roberta", pre_tokenizers.ByteLevel(add_prefix_space=True), normalizers.NFC(), size=500)

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer, tokenizer.decoder = llama, sp_decoder
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=["<unk>", "<s>", "</s>"] + fallback, max_token_length=16, show_progress=False)
    # Without a pre-tokenizer a trainer would merge across words.
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    tokenizer.train_from_iterator(lines, trainer)
    tokenizer.pre_tokenizer = None
    tokenizer = json.loads(tokenizer.to_str())
    tokenizer["added_tokens"] = tokenizer["added_tokens"][:3]
    llama_json = json.dumps(tokenizer)
    save("llama", Tokenizer.from_str(llama_json))
    tokenizer["normalizer"] = None
    tokenizer["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    save("mistral", Tokenizer.from_str(json.dumps(tokenizer)))
    del tokenizer["decoder"]["decoders"][3]
    tokenizer["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    tokenizer["pre_tokenizer"] = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    save("gemma", Tokenizer.from_str(json.dumps(tokenizer)))

    for name, lowercase in [("bert", True), ("bert-cased", False)]:
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(vocab_size=350, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], show_progress=False)
        tokenizer.train_from_iterator(lines, trainer)
        tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
        save(name, tokenizer)

    for name, byte_fallback in [("unigram", False), ("unigram-bytes", True)]:
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=300, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False)
        tokenizer.train_from_iterator(lines, trainer)
        if byte_fallback:
            whole = json.loads(tokenizer.to_str())
            whole["model"]["vocab"] += [[byte, -20.0] for byte in fallback]
            whole["model"]["byte_fallback"] = True
            tokenizer = Tokenizer.from_str(json.dumps(whole))
            tokenizer.decoder = sp_decoder
        save(name, tokenizer)

    for name, kind, more in [
        ("sp-bpe", "bpe", {"byte_fallback": True, "normalization_rule_name": "identity", "remove_extra_whitespaces": False}),
        ("sp-bpe-nfkc", "bpe", {}),
        ("sp-unigram", "unigram", {}),
        ("sp-unigram-bytes", "unigram", {"byte_fallback": True, "normalization_rule_name": "nmt_nfkc_cf"}),
    ]:
        model = io.BytesIO()
        size = 400 if not more.get("byte_fallback") else 600
        SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=model, model_type=kind, vocab_size=size, hard_vocab_limit=False, character_coverage=0.98, minloglevel=2, **more)
        with open(f"{folder}/{name}.model", "wb") as file:
            file.write(model.getvalue())

    for name in sorted(os.listdir(folder)):
        if name.endswith((".json", ".model")):
            with open(f"{folder}/{name}.ids.jsonl", "w") as file:
                write(encoder(f"{folder}/{name}"), texts(160, 7), file)


if sys.argv[1] == "--small":
    small(sys.argv[2])
else:
    write(encoder(sys.argv[1]), texts(2000, 1), sys.stdout)
