#!/usr/bin/env python3
"""Compares tokenize_lines with the Python tokenizer libraries on a corpus and prints every kind of mismatch.

usage: compare_tokenizers.py --tool build/release/tests/models/tokenize_lines --corpus FILE [--fixtures DIR] CASE...
CASE:  smollm2=MODEL.gguf     against tokenizers (BPE with SmolLM2's pre-tokenizers)
       gemma3=MODEL.gguf      against sentencepiece and transformers' GemmaTokenizer
       qwen2=qwen.tiktoken    against transformers' Qwen2Tokenizer and tiktoken
       qwen35=FILE.tiktoken   against tokenizers and tiktoken
       deepseek-v3=tokenizer.json   against tokenizers
Needs: tokenizers transformers tiktoken sentencepiece protobuf gguf. Invalid UTF-8 reaches the libraries with U+FFFD for
each illegal sequence (errors="replace"). Vocabularies that come as tiktoken or JSON files are written as GGUF first.
--fixtures writes DIR/<case>.hashes (FNV-1a of the ids, u32 a record) for the records of the committed corpus.
"""
import argparse
import base64
import json
import os
import struct
import subprocess
import sys
import tempfile
import unicodedata

import gguf
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

QWEN2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN35 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CONTROL, USER_DEFINED = 3, 4


def read_records(path):
    data, records, at = open(path, "rb").read(), [], 0
    while at < len(data):
        (n,) = struct.unpack_from("<I", data, at)
        records.append(data[at + 4:at + 4 + n])
        at += 4 + n
    return records


def byte_alphabet():
    printable = list(range(0x21, 0x7F)) + list(range(0xA1, 0xAD)) + list(range(0xAE, 0x100))
    others = [b for b in range(256) if b not in printable]
    return {b: chr(b) for b in printable} | {b: chr(0x100 + i) for i, b in enumerate(others)}


ALPHABET = byte_alphabet()


def mapped(raw):
    return "".join(ALPHABET[b] for b in raw)


class Vocab:
    """What a GGUF file says about tokens."""

    def __init__(self, path):
        fields = gguf.GGUFReader(path).fields
        get = lambda key, default=None: fields["tokenizer.ggml." + key].contents() if "tokenizer.ggml." + key in fields else default
        self.tokens, self.types = get("tokens"), get("token_type")
        self.merges = [tuple(m.split(" ", 1)) for m in get("merges", [])]
        self.scores, self.unknown = get("scores"), get("unknown_token_id")
        self.ids = {}
        for i, t in enumerate(self.tokens):
            self.ids.setdefault(t, i)

    def of_type(self, *types):
        return [t for t, kind in zip(self.tokens, self.types) if kind in types]


def write_gguf(path, pre, tokens, types, merges):
    w = gguf.GGUFWriter(path, "llama")
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre(pre)
    w.add_token_list(tokens)
    w.add_token_types(types)
    w.add_token_merges(merges)
    w.add_add_bos_token(False)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.close()


def tiktoken_vocab(path, specials):
    """Ranks and the merges they stand for: a token comes from merging, by rank, its bytes as far as lower ranks allow. Tokens
    that no merge of two makes (232 of Qwen3.6's) have no merge, and tiktoken's way to them, a piece that is such a token as a
    whole, is closed by leaving them out of the ranks."""
    ranks = {}
    for line in open(path, "rb"):
        token, rank = line.split()
        ranks[base64.b64decode(token)] = int(rank)
    merges, unmerged = [], []
    for token, limit in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) == 1:
            continue
        parts = [bytes([b]) for b in token]
        while len(parts) > 2:
            pairs = [(ranks.get(parts[i] + parts[i + 1], limit), i) for i in range(len(parts) - 1)]
            rank, i = min(pairs)
            if rank >= limit:
                break
            parts[i:i + 2] = [parts[i] + parts[i + 1]]
        if len(parts) == 2:
            merges.append(mapped(parts[0]) + " " + mapped(parts[1]))
        else:
            unmerged.append(token)
    tokens = [mapped(t) for t, _ in sorted(ranks.items(), key=lambda item: item[1])]
    assert sorted(ranks.values()) == list(range(len(ranks)))
    for token in unmerged:
        del ranks[token]
    if unmerged:
        print(f"{path}: {len(unmerged)} of {len(tokens)} tokens can't be made by merging two", flush=True)
    return ranks, tokens + specials, [1] * len(tokens) + [CONTROL] * len(specials), merges


def hf_bpe(v, normalizer, pre_tokenizer, parses_special):
    t = Tokenizer(models.BPE(vocab=dict(v.ids), merges=v.merges, fuse_unk=False, byte_fallback=False))
    t.normalizer, t.pre_tokenizer, t.decoder = normalizer, pre_tokenizer, decoders.ByteLevel()
    t.add_tokens([AddedToken(x, normalized=False) for x in v.of_type(USER_DEFINED)])
    if parses_special:
        t.add_special_tokens([AddedToken(x, normalized=False, special=True) for x in v.of_type(CONTROL)])
    return t


def split(*patterns):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(p), behavior="isolated") for p in patterns])


def byte_level(*patterns):
    return pre_tokenizers.Sequence([split(*patterns), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


class HfReference:
    def __init__(self, name, tokenizer):
        self.name, self.tokenizer = name, tokenizer

    def encode_all(self, texts):
        return [e.ids for e in self.tokenizer.encode_batch(texts, add_special_tokens=False)]

    def decode(self, ids):
        return self.tokenizer.decode(ids, skip_special_tokens=False)


class TiktokenReference:
    def __init__(self, name, ranks, pattern, specials, parses_special):
        import tiktoken
        self.name, self.parses_special = name, parses_special
        self.encoding = tiktoken.Encoding("x", pat_str=pattern, mergeable_ranks=ranks, special_tokens={s: max(ranks.values()) + 1 + i for i, s in enumerate(specials)})

    def encode_all(self, texts):
        allowed = "all" if self.parses_special else set()
        return [self.encoding.encode(unicodedata.normalize("NFC", t), allowed_special=allowed, disallowed_special=()) for t in texts]

    def decode(self, ids):
        return self.encoding.decode(ids)


class SentencePieceReference:
    """The vocabulary of the GGUF file as a SentencePiece model: BPE, byte fallback, no normalisation."""

    def __init__(self, v):
        import sentencepiece
        from sentencepiece import sentencepiece_model_pb2 as pb
        self.name = "sentencepiece"
        m = pb.ModelProto()
        m.trainer_spec.model_type = pb.TrainerSpec.BPE
        m.trainer_spec.byte_fallback = True
        m.trainer_spec.unk_id, m.trainer_spec.bos_id, m.trainer_spec.eos_id, m.trainer_spec.pad_id = 3, 2, 1, 0
        m.normalizer_spec.name = "identity"
        m.normalizer_spec.add_dummy_prefix = False
        m.normalizer_spec.remove_extra_whitespaces = False
        m.normalizer_spec.escape_whitespaces = True
        for i, (text, kind, score) in enumerate(zip(v.tokens, v.types, v.scores)):
            p = m.pieces.add()
            p.piece, p.score = text.replace(" ", "\u2581"), score
            p.type = pb.ModelProto.SentencePiece.UNKNOWN if i == 3 else kind
        self.model = sentencepiece.SentencePieceProcessor(model_proto=m.SerializeToString())

    def encode_all(self, texts):
        return [self.model.encode(t) for t in texts]

    def decode(self, ids):
        return self.model.decode(ids)


def gemma_reference(v, parses_special):
    from transformers import GemmaTokenizer
    from transformers.tokenization_utils_base import generate_merges
    ids = {t.replace(" ", "\u2581"): i for i, t in enumerate(v.tokens)}
    scores = {t.replace(" ", "\u2581"): s for t, s, kind in zip(v.tokens, v.scores, v.types) if kind == 1}
    merges = generate_merges(ids, scores, skip_tokens=v.of_type(CONTROL, 6))
    t = GemmaTokenizer(vocab=ids, merges=merges)._tokenizer
    plain = Tokenizer(t.model)
    plain.normalizer, plain.pre_tokenizer, plain.decoder = t.normalizer, t.pre_tokenizer, t.decoder
    plain.add_tokens([AddedToken(x.replace(" ", "\u2581"), normalized=True) for x in v.of_type(USER_DEFINED)])
    if parses_special:
        plain.add_special_tokens([AddedToken(x, normalized=False, special=True) for x in v.of_type(CONTROL)])
    return HfReference("transformers", plain)


def run_tool(tool, model, corpus, special):
    out = subprocess.run([tool, model, corpus, "decode"] + (["special"] if special else []), capture_output=True, check=True)
    sys.stderr.write(out.stderr.decode())
    rows = []
    for line in out.stdout.decode().splitlines():
        ids, text = line.split("\t")
        rows.append(([int(x) for x in ids.split()], bytes.fromhex(text)))
    return rows


def fnv1a(ids):
    h = 0x811C9DC5
    for b in struct.pack(f"<{len(ids)}i", *ids):
        h = ((h ^ b) * 0x01000193) & 0xFFFFFFFF
    return h


def compare(case, reference, rows, texts, checks_text, shown=12):
    ids = reference.encode_all(texts)
    bad_ids = [i for i in range(len(texts)) if ids[i] != rows[i][0]]
    bad_text = [i for i in range(len(texts)) if checks_text and reference.decode(ids[i]).encode("utf-8", "replace") != rows[i][1].decode("utf-8", "replace").encode()]
    print(f"{case} against {reference.name}: {len(texts)} records, {sum(map(len, ids))} ids, {len(bad_ids)} with other ids, {len(bad_text)} with other text", flush=True)
    for i in bad_ids[:shown]:
        ours, theirs = rows[i][0], ids[i]
        at = next((k for k in range(min(len(ours), len(theirs))) if ours[k] != theirs[k]), min(len(ours), len(theirs)))
        print(f"  record {i}: {texts[i][:60]!r} differs at token {at}: ours {ours[at - 1 if at else 0:at + 5]} theirs {theirs[at - 1 if at else 0:at + 5]}")
    for i in bad_text[:shown]:
        print(f"  record {i}: text {rows[i][1][:80]!r} theirs {reference.decode(ids[i])[:60]!r}")
    return len(bad_ids) + len(bad_text), ids


def references_of(case, path, v, special):
    """The libraries to ask, for a GGUF file's vocabulary `v`."""
    if case == "smollm2":
        pre = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
        return [HfReference("tokenizers", hf_bpe(v, None, pre, special))]
    if case == "gemma3":
        return [gemma_reference(v, special)] + ([] if special else [SentencePieceReference(v)])
    if case in ("qwen2", "qwen35"):
        ranks = tiktoken_vocab_cache[path][0]
        pattern = QWEN2 if case == "qwen2" else QWEN35
        if case == "qwen2":
            from transformers import Qwen2Tokenizer
            t = Qwen2Tokenizer(vocab=dict(v.ids), merges=v.merges)._tokenizer
            hf = hf_bpe(v, t.normalizer, t.pre_tokenizer, special)
        else:
            hf = hf_bpe(v, normalizers.NFC(), byte_level(pattern), special)
        return [HfReference("transformers" if case == "qwen2" else "tokenizers", hf), TiktokenReference("tiktoken", ranks, pattern, v.of_type(CONTROL), special)]
    if case == "deepseek-v3":
        j = json.load(open(path))
        if not special:   # the ids of the added tokens must stay
            j["model"]["vocab"] |= {t["content"]: t["id"] for t in j["added_tokens"]}
            j["added_tokens"] = [t for t in j["added_tokens"] if not t["special"]]
        return [HfReference("tokenizers", Tokenizer.from_str(json.dumps(j)))]
    raise SystemExit(f"unknown case {case}")


tiktoken_vocab_cache = {}


def gguf_of(case, path, folder):
    if path.endswith(".gguf"):
        return path
    out = os.path.join(folder, case + ".gguf")
    if case == "deepseek-v3":
        j = json.load(open(path))
        texts = {i: t for t, i in j["model"]["vocab"].items()}
        types = dict.fromkeys(texts, 1)
        for t in j["added_tokens"]:
            texts[t["id"]], types[t["id"]] = t["content"], CONTROL if t["special"] else USER_DEFINED
        assert sorted(texts) == list(range(len(texts)))
        merges = [m if isinstance(m, str) else " ".join(m) for m in j["model"]["merges"]]
        write_gguf(out, "deepseek-v3", [texts[i] for i in range(len(texts))], [types[i] for i in range(len(texts))], merges)
    else:
        specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>", "<tool_call>", "<|fim_prefix|>"]
        tiktoken_vocab_cache[path] = tiktoken_vocab(path, specials)
        write_gguf(out, case, *tiktoken_vocab_cache[path][1:])
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tool", required=True)
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--fixtures")
    parser.add_argument("cases", nargs="+")
    args = parser.parse_args()
    texts = [r.decode("utf-8", "replace") for r in read_records(args.corpus)]
    n_bad = 0
    with tempfile.TemporaryDirectory() as folder:
        for case, path in (c.split("=", 1) for c in args.cases):
            model = gguf_of(case, path, folder)
            v = Vocab(model)
            for special in (False, True):
                rows = run_tool(args.tool, model, args.corpus, special)
                assert len(rows) == len(texts)
                name = case + (" with special tokens" if special else "")
                for reference in references_of(case, path, v, special):
                    bad, ids = compare(name, reference, rows, texts, checks_text=True)
                    n_bad += bad
                if args.fixtures and not special:
                    with open(os.path.join(args.fixtures, case + ".hashes"), "wb") as out:
                        out.write(b"".join(struct.pack("<I", fnv1a(x)) for x in ids))
    print(f"{n_bad} mismatches")
    return 1 if n_bad else 0


if __name__ == "__main__":
    sys.exit(main())
