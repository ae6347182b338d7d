#!/usr/bin/env python3
"""Compares our tokenizer with the Hugging Face `tokenizers` library, id by id.

For each split pattern a small vocabulary is trained with the library itself, on strings made from
a seed; then strings of the same kind (all planes, runs of spaces, line ends, digits, contractions,
joined emoji, look-alikes of special tokens, tokens that strip) are encoded by both, and random ids
and the encodings are decoded by both.  The demo model's own vocabulary takes both of our ways, as
a GGUF vocabulary and as tokenizer.json.

usage: tokenizer_golden.py DRIVER FOLDER [NAME...]
DRIVER is the tokenizer_golden program, FOLDER is for what is made on the way.
GRAMME_PYTHON: a python that has numpy, gguf and tokenizers; without it the test is skipped (77).
GRAMME_MODEL: the demo model's GGUF file; without it that part is left out, with a message.
GRAMME_GOLDEN_COUNT: strings a pattern, else 60,000, and 200,000 with GRAMME_FULL.
GRAMME_GOLDEN_SEED: the seed, else 1.
"""

import codecs
import json
import os
import random
import struct
import subprocess
import sys
import time

if __name__ == "__main__" and "TOKENIZER_GOLDEN_INSIDE" not in os.environ:
    python = os.environ.get("GRAMME_PYTHON")
    if not python:
        print("skipped: GRAMME_PYTHON names no python with numpy, gguf and tokenizers")
        sys.exit(77)
    os.environ["TOKENIZER_GOLDEN_INSIDE"] = "1"
    os.execv(python, [python] + sys.argv)

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers, processors, trainers

NONE = 0xFFFFFFFF
CONTRACTIONS = "'s|'t|'re|'ve|'m|'ll|'d"
SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = (r"(?i:" + CONTRACTIONS + r")|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
          r" ?[^\s\p{L}\p{N}]+[\r\n]*|" + SPACES)
QWEN2 = LLAMA3.replace("{1,3}", "")
QWEN35 = (r"(?i:" + CONTRACTIONS + r")|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}|"
          r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|" + SPACES)
HEAD = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
TAIL = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|" + SPACES
GPT4O = (HEAD + "*" + TAIL + "+(?i:" + CONTRACTIONS + ")?|" + HEAD + "+" + TAIL + "*(?i:" +
         CONTRACTIONS + r")?|\p{N}{1,3}|" + REST)
TEKKEN = HEAD + "*" + TAIL + "+|" + HEAD + "+" + TAIL + r"*|\p{N}|" + REST
CL100K = (r"(?i:" + CONTRACTIONS + r")|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}|"
          r" ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+")
DEEPSEEK = [r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+",
            r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"
            r" ?[\p{P}\p{S}]+[\r\n]*|" + SPACES]
MARK = "\u2581"

ADDED = [AddedToken("<|im_start|>", special=True, normalized=False),
         AddedToken("<|im_end|>", special=True, normalized=False),
         AddedToken("<|im_", special=True, normalized=False),
         AddedToken("<tool>", special=False, normalized=False),
         AddedToken("[L]", special=True, normalized=False, lstrip=True),
         AddedToken("[R]", special=True, normalized=False, rstrip=True),
         AddedToken("[LR]", special=False, normalized=False, lstrip=True, rstrip=True),
         AddedToken("[N]", special=True, normalized=True),
         AddedToken("e\u0301\u0323", special=False, normalized=True),
         AddedToken("word", special=False, normalized=False, single_word=True),
         AddedToken("  and", special=False, normalized=True, rstrip=True, single_word=True),
         AddedToken("    ", special=False, normalized=False)]


# --- strings ------------------------------------------------------------------------------------

FRAGMENTS = [
    " ", " ", " ", "  ", "   ", "    ", "\t", "\n", "\r\n", "\r", "\n\n", " \n ", "\u3000", "\u00a0",
    "\u180e", "\u200b", "\u2028", "\x85", "\x0b", "'s", "'S", "'\u017f", "'t", "'RE", "'ve", "'M", "'ll",
    "'lL", "'d", "'", "''", "\u2019s", "0", "7", "12", "345", "6789", "\u0663", "\u00bd", "\u2167",
    "\U0001d7d8", "\u0e52", "Hello", "world", "the", "THE", "HTTPServer", "camelCase", "naïve", "a", "A",
    "é", "e\u0301", "\u0301", "\u0323\u0301", "\u0344", "\u212b", "ﬁ", "ß", "Ǆ", "ǅ", "ʰ", "中文",
    "日本語", "カタカナ", "한국어", "\u1112\u1161\u11ab", "русский", "ελληνικά", "עברית", "العربية",
    "हिन्दी", "ไทย", "\U00031350", "\U00020000", "\u08a0", "👍", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇫🇷", "👍🏽", "!", "?!", "...",
    "//", "/", "_", "-", "--", "#", "$1.50", "(", ")", "{}", "[", "]", "<", ">", "|", "<|im_start|>",
    "<|im_end|>", "<|im_", "<|im_start|", "im_end|>", "<tool>", "[L]", "[R]", "[LR]", "[N]", "[NN]", "word",
    "words", "  and", "and", "\u2581", "\u2581\u2581", "▁the", "<0x41>", "<s>", "</s>", "<unk>", "\x00",
    "\x1b", "\x7f", "\ufffd", "\ufeff", "\U0010ffff", "\U000e0001", "\ud7ff", "\ue000",
]


def any_char(rng):
    kind = rng.random()
    if kind < 0.3:
        return chr(rng.randrange(0x80))
    if kind < 0.6:
        return chr(rng.randrange(0x80, 0x3000))
    c = rng.randrange(0x110000) if kind < 0.8 else rng.randrange(0x20000)
    return chr(c) if not 0xD800 <= c < 0xE000 else "\u00e9"


def make_string(rng):
    if rng.random() < 0.02:
        return rng.choice(FRAGMENTS) * rng.randrange(1, 200)
    parts = []
    for _ in range(rng.randrange(14)):
        parts.append(rng.choice(FRAGMENTS) if rng.random() < 0.7 else any_char(rng))
    return "".join(parts)


# --- vocabularies -------------------------------------------------------------------------------

def byte_level(steps, normalizer=None, ignore_merges=False, decoder=None):
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps) if len(steps) > 1 else steps[0]
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer:
        tokenizer.normalizer = normalizer
    return tokenizer, dict(initial_alphabet=pre_tokenizers.ByteLevel.alphabet())


def split(pattern, behavior="isolated", invert=False):
    return pre_tokenizers.Split(Regex(pattern), behavior, invert)


def plain_bytes():
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def gpt2_bytes(space=False):
    return pre_tokenizers.ByteLevel(add_prefix_space=space, use_regex=True)


BYTE_TOKENS = ["<0x%02X>" % i for i in range(256)]
SPM_DECODER = decoders.Sequence([decoders.Replace(MARK, " "), decoders.ByteFallback(), decoders.Fuse(),
                                 decoders.Strip(" ", 1, 0)])


def metaspace(scheme, fallback=True, is_split=True):
    model = models.BPE(byte_fallback=fallback, fuse_unk=True, unk_token="<unk>")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=is_split)
    tokenizer.decoder = SPM_DECODER if fallback else decoders.Metaspace(prepend_scheme=scheme)
    return tokenizer, dict(special_tokens=["<unk>", "<s>", "</s>"] + (BYTE_TOKENS if fallback else []),
                           limit_alphabet=400)


def legacy_llama(unk_fused=True, fallback=True):
    model = models.BPE(byte_fallback=fallback, fuse_unk=unk_fused, unk_token="<unk>")
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(MARK), normalizers.Replace(" ", MARK)])
    tokenizer.decoder = SPM_DECODER
    return tokenizer, dict(special_tokens=["<unk>", "<s>", "</s>"] + (BYTE_TOKENS if fallback else []),
                           limit_alphabet=300)


def gemma():
    model = models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>")
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Replace(" ", MARK)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace(MARK, " "), decoders.ByteFallback(),
                                           decoders.Fuse()])
    return tokenizer, dict(special_tokens=["<unk>", "<s>", "</s>"] + BYTE_TOKENS, limit_alphabet=300)


def digits(individual):
    return pre_tokenizers.Digits(individual_digits=individual)


# name: (maker, share of the full count)
PATTERNS = {
    "gpt2": (lambda: byte_level([gpt2_bytes()]), 1),
    "llama3": (lambda: byte_level([split(LLAMA3), plain_bytes()], ignore_merges=True), 1),
    "qwen2": (lambda: byte_level([split(QWEN2), plain_bytes()], normalizers.NFC()), 1),
    "smollm": (lambda: byte_level([digits(True), gpt2_bytes()]), 1),
    "gpt4o": (lambda: byte_level([split(GPT4O), plain_bytes()]), 1),
    "metaspace": (lambda: metaspace("first"), 1),
    "qwen35": (lambda: byte_level([split(QWEN35), plain_bytes()], normalizers.NFC()), 0.2),
    "tekken": (lambda: byte_level([split(TEKKEN), plain_bytes()]), 0.2),
    "deepseek": (lambda: byte_level([split(p) for p in DEEPSEEK] + [plain_bytes()]), 0.2),
    "cl100k": (lambda: byte_level([split(CL100K, "removed", True), plain_bytes()]), 0.2),
    "starcoder": (lambda: byte_level([split(r"\p{N}"), gpt2_bytes()]), 0.1),
    "gpt2-space": (lambda: byte_level([gpt2_bytes(True)]), 0.1),
    "digit-runs": (lambda: byte_level([digits(False), gpt2_bytes(True)]), 0.1),
    "contiguous": (lambda: byte_level([split(r"[\s\p{P}]", "contiguous"), plain_bytes()]), 0.1),
    "previous": (lambda: byte_level([split(r"\P{L}", "merged_with_previous"), plain_bytes()]), 0.1),
    "next": (lambda: byte_level([split(r"\p{Lu}|\S\d", "merged_with_next"), plain_bytes()]), 0.1),
    "removed": (lambda: byte_level([split(r"[^\S\n]|\p{^C}\p{S}", "removed"), plain_bytes()]), 0.1),
    "empty": (lambda: byte_level([split(r"(?=\p{Lu})|,*"), plain_bytes()]), 0.1),
    "metaspace-always": (lambda: metaspace("always"), 0.1),
    "metaspace-unk": (lambda: metaspace("never", False), 0.1),
    "metaspace-whole": (lambda: metaspace("first", True, False), 0.1),
    "metaspace-join": (lambda: metaspace("always", False), 0.1),
    "llama": (lambda: legacy_llama(), 0.2),
    "llama-unk": (lambda: legacy_llama(False, False), 0.1),
    "gemma": (lambda: gemma(), 0.1),
}


def train(name, corpus):
    tokenizer, options = PATTERNS[name][0]()
    trainer = trainers.BpeTrainer(vocab_size=3000, show_progress=False, min_frequency=2, **options)
    tokenizer.train_from_iterator(corpus, trainer)
    if "special_tokens" in options:  # the byte tokens are tokens of the model, not added ones
        data = json.loads(tokenizer.to_str())
        data["added_tokens"] = [t for t in data["added_tokens"] if t["content"] not in BYTE_TOKENS]
        tokenizer = Tokenizer.from_str(json.dumps(data))
    tokenizer.add_tokens(ADDED)
    start = tokenizer.token_to_id("<|im_start|>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", start)])
    return tokenizer


# --- the driver ---------------------------------------------------------------------------------

def pack_string(text):
    data = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<I", len(data)) + data


def pack_lists(lists):
    return b"".join(struct.pack("<%dI" % (len(ids) + 1), len(ids), *ids) for ids in lists)


class Driver:
    def __init__(self, path, folder):
        self.path = path
        self.folder = folder

    def run(self, mode, source, data):
        into, out = os.path.join(self.folder, "driver.in"), os.path.join(self.folder, "driver.out")
        with open(into, "wb") as file:
            file.write(data)
        started = time.time()
        subprocess.check_call([self.path, mode, source, into, out])
        self.seconds = time.time() - started
        with open(out, "rb") as file:
            return file.read()

    def encode(self, mode, source, strings):
        return self.run(mode, source, b"".join(map(pack_string, strings)))

    def decode(self, mode, source, lists):
        data = self.run(mode, source, pack_lists(lists))
        at, texts = 0, []
        while at < len(data):
            (size,) = struct.unpack_from("<I", data, at)
            texts.append(data[at + 4:at + 4 + size].decode())
            at += 4 + size
        return texts


def unpack_lists(data):
    at, lists = 0, []
    while at < len(data):
        (count,) = struct.unpack_from("<I", data, at)
        lists.append(list(struct.unpack_from("<%dI" % count, data, at + 4)))
        at += 4 + 4 * count
    return lists


# --- comparing ----------------------------------------------------------------------------------

codecs.register_error("each_byte", lambda e: ("\ufffd" * (e.end - e.start), e.end))


def special_ids(tokenizer):
    """The reference does not know a special token again that its normalizer changes, and prints
    it even when special tokens are to be skipped; we skip it, so these are taken out first."""
    return {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}


def streamed_fallback(tokenizer, ids):
    """What a stream can print of byte tokens: the reference makes U+FFFD of every byte of a run
    that is broken anywhere, a stream has printed the run's whole characters by then."""
    out, run, mixed = [], b"", False

    def end_run():
        nonlocal run, mixed
        text = run.decode(errors="each_byte")
        out.append(text)
        mixed = mixed or ("\ufffd" in text and text != "\ufffd" * len(run))
        run = b""

    for i in ids:
        token = tokenizer.id_to_token(i)
        if token is None:
            continue
        if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            run += bytes([int(token[3:5], 16)])
            continue
        end_run()
        out.append(token.replace(MARK, " "))
    end_run()
    return "".join(out), mixed


class Failures:
    def __init__(self):
        self.count = 0

    def add(self, name, what, given, ours, theirs):
        self.count += 1
        if self.count <= 8:
            print("DIFFERENT %s %s: %r\n  ours      %r\n  reference %r" % (name, what, given, ours, theirs))


def compare_encode(name, driver, source, tokenizer, strings, special, failures):
    started = time.time()
    wanted = [e.ids for e in tokenizer.encode_batch_fast(strings, add_special_tokens=special)]
    reference_seconds = time.time() - started
    data = driver.encode("encode-special" if special else "encode", source, strings)
    if data != pack_lists(wanted):
        ours = unpack_lists(data)
        assert len(ours) == len(wanted)
        for text, a, b in zip(strings, ours, wanted):
            if a != b:
                failures.add(name, "encode", text, a, b)
    print("%-17s %7d strings, %9d ids; %5.2f s, the reference %5.2f s" %
          (name, len(strings), len(data) // 4 - len(wanted), driver.seconds, reference_seconds))
    return wanted


def compare_decode(name, driver, source, tokenizer, lists, failures):
    decoder = tokenizer.decoder
    special = special_ids(tokenizer)
    is_fallback = isinstance(decoder, decoders.Sequence)
    strips = is_fallback and "Strip" in json.loads(tokenizer.to_str())["decoder"]["decoders"][-1]["type"]
    mixed_count = 0
    for skip in (False, True):
        ours = driver.decode("decode-skip" if skip else "decode", source, lists)
        for ids, a in zip(lists, ours):
            if skip:
                ids = [i for i in ids if i not in special]
            b = tokenizer.decode(ids, skip_special_tokens=skip)
            if a == b:
                continue
            if is_fallback:
                text, mixed = streamed_fallback(tokenizer, ids)
                if strips and text.startswith(" "):
                    text = text[1:]
                if mixed and a == text:
                    mixed_count += 1
                    continue
            failures.add(name, "decode", ids, a, b)
    if mixed_count > len(lists):
        failures.add(name, "decode", "too many broken runs", mixed_count, len(lists))


def random_lists(rng, size, count):
    """Ids anywhere, some past the end, some from a short range (byte tokens lie together)."""
    lists = []
    for _ in range(count):
        kind = rng.random()
        first = rng.randrange(size)
        last = size + 3 if kind < 0.5 else min(size + 3, first + 260)
        first = 0 if kind < 0.5 else first
        if kind > 0.75:
            first, last = 0, min(size, 300)
        lists.append([rng.randrange(first, last) for _ in range(rng.randrange(20))])
    return lists


def check_pattern(name, driver, corpus, strings, rng, failures):
    tokenizer = train(name, corpus)
    path = os.path.join(driver.folder, name + ".json")
    tokenizer.save(path)
    tokenizer = Tokenizer.from_file(path)
    source = "json:" + path
    special = rng.random() < 0.5
    encoded = compare_encode(name, driver, source, tokenizer, strings, special, failures)
    lists = random_lists(rng, tokenizer.get_vocab_size(), 2000) + encoded[:2000]
    compare_decode(name, driver, source, tokenizer, lists, failures)


# --- GGUF vocabularies ---------------------------------------------------------------------------

def write_vocab(path, model, pre, tokens, scores, types, merges, ids, flags):
    with open(path, "wb") as file:
        file.write(pack_string(model) + pack_string(pre) + struct.pack("<I", len(tokens)))
        for token, score, kind in zip(tokens, scores, types):
            file.write(pack_string(token) + struct.pack("<fI", score, kind))
        file.write(struct.pack("<I", len(merges)) + b"".join(map(pack_string, merges)))
        file.write(struct.pack("<7I", *(ids + flags)))


def check_model(path, driver, strings, rng, failures):
    """The demo model (a SmolLM2): its vocabulary as GGUF holds it, against the reference."""
    import gguf
    fields = gguf.GGUFReader(path).fields

    def value(key, otherwise=None):
        key = "tokenizer.ggml." + key
        return fields[key].contents() if key in fields else otherwise

    if value("model") != "gpt2" or value("pre") != "smollm":
        print("left out: GRAMME_MODEL is no SmolLM2")
        return
    tokens, types, merges = value("tokens"), value("token_type"), value("merges")
    ids = [value(k + "_token_id", NONE) for k in ("bos", "eos", "unknown", "padding")]
    vocab_path = os.path.join(driver.folder, "model.vocab")
    write_vocab(vocab_path, "gpt2", "smollm", tokens, [0.0] * len(tokens), types, merges, ids, [0, 0, 0])
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)},
                                     merges=[tuple(m.split(" ")) for m in merges]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits(True), gpt2_bytes()])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([t for t, kind in zip(tokens, types) if kind == 3])
    json_path = os.path.join(driver.folder, "model.json")
    tokenizer.save(json_path)
    for source in ("vocab:" + vocab_path, "json:" + json_path):
        name = "model " + source.split(":")[0]
        encoded = compare_encode(name, driver, source, tokenizer, strings, False, failures)
        lists = random_lists(rng, len(tokens), 2000) + encoded[:2000]
        compare_decode(name, driver, source, tokenizer, lists, failures)


def check_sentencepiece(driver, corpus, strings, rng, failures):
    """A llama vocabulary with scores, its merges made the way the reference's converter does."""
    trained = json.loads(train("llama", corpus).to_str())["model"]["vocab"]
    tokens = [t for t, _ in sorted(trained.items(), key=lambda item: item[1])]
    types = [2] + [3, 3] + [6] * 256 + [1] * (len(tokens) - 259)
    scores = [0.0] * 259 + [-float(i // 3) for i in range(len(tokens) - 259)]
    vocab = {t: i for i, t in enumerate(tokens)}
    merges = []
    for token, score in zip(tokens[259:], scores[259:]):
        local = [(token[:i], token[i:], score) for i in range(1, len(token))
                 if token[:i] in vocab and token[i:] in vocab]
        merges += sorted(local, key=lambda m: (vocab[m[0]], vocab[m[1]]))
    merges = sorted(merges, key=lambda m: (m[2], len(m[0]), len(m[1])), reverse=True)
    tokenizer, _ = legacy_llama()
    tokenizer.model = models.BPE(vocab=vocab, merges=[m[:2] for m in merges], byte_fallback=True,
                                 fuse_unk=True, unk_token="<unk>")
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in tokens[:3]])
    path = os.path.join(driver.folder, "sentencepiece.vocab")
    write_vocab(path, "llama", "", tokens, scores, types, [], [1, 2, 0, NONE], [1, 0, 1])
    encoded = compare_encode("sentencepiece", driver, "vocab:" + path, tokenizer, strings, False, failures)
    lists = random_lists(rng, len(tokens), 2000) + encoded[:2000]
    compare_decode("sentencepiece", driver, "vocab:" + path, tokenizer, lists, failures)


def main():
    driver = Driver(sys.argv[1], sys.argv[2])
    os.makedirs(driver.folder, exist_ok=True)
    only = sys.argv[3:]
    full = "200000" if os.environ.get("GRAMME_FULL") else "60000"
    count = int(os.environ.get("GRAMME_GOLDEN_COUNT", full))
    seed = int(os.environ.get("GRAMME_GOLDEN_SEED", "1"))
    print("seed %d, %d strings" % (seed, count))
    rng = random.Random(seed)
    corpus = [make_string(rng) for _ in range(8000)]
    strings = [make_string(rng) for _ in range(count)]
    failures = Failures()
    for name, (_, share) in PATTERNS.items():
        if not only or name in only:
            check_pattern(name, driver, corpus, strings[:int(count * share)], rng, failures)
    if not only or "sentencepiece" in only:
        check_sentencepiece(driver, corpus, strings[:count // 5], rng, failures)
    model = os.environ.get("GRAMME_MODEL")
    if not only or "model" in only:
        if model and os.path.exists(model):
            check_model(model, driver, strings, rng, failures)
        else:
            print("left out: GRAMME_MODEL names no file, so not the demo model's vocabulary")
    print("%d differences" % failures.count)
    return 1 if failures.count else 0


sys.exit(main())
