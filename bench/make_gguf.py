#!/usr/bin/env python3
"""make_gguf - a GGUF of the Llama-3.2-1B shape with seeded random weights, for speed only.

usage: make_gguf.py VOCABULARY.gguf OUT.gguf bf16|q8_0

The vocabulary (tokens, merges, special ids) is copied from an existing GGUF and padded with unused
tokens to 128,256 entries, so that llama.cpp and gramme load the very same file.  Needs the PyPI
packages numpy and gguf.
"""
import sys

import numpy
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter
from gguf.quants import quantize

HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD_DIM, FFN, VOCAB, CONTEXT = 2048, 16, 32, 8, 64, 8192, 128256, 131072


def field_value(reader, name):
    field = reader.get_field(name)
    return None if field is None else field.contents()


def matrix(generator, rows, columns, kind):
    values = generator.standard_normal((rows, columns), dtype=numpy.float32) * numpy.float32(0.02)
    if kind == "bf16":
        bits = values.view(numpy.uint32)
        return ((bits + 0x8000) >> 16).astype(numpy.uint16).view(numpy.uint8), GGMLQuantizationType.BF16
    return quantize(values, GGMLQuantizationType.Q8_0), GGMLQuantizationType.Q8_0


def main():
    if len(sys.argv) != 4 or sys.argv[3] not in ("bf16", "q8_0"):
        print(__doc__)
        return 2
    source, target, kind = sys.argv[1:]
    reader = GGUFReader(source)
    writer = GGUFWriter(target, "llama")
    writer.add_name("dummy-1b")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FFN)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(500000.0)
    writer.add_vocab_size(VOCAB)
    tokens = field_value(reader, "tokenizer.ggml.tokens")
    types = field_value(reader, "tokenizer.ggml.token_type")
    tokens = list(tokens) + [f"<unused{i}>" for i in range(VOCAB - len(tokens))]
    types = list(types) + [5] * (VOCAB - len(types))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(field_value(reader, "tokenizer.ggml.pre"))
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(field_value(reader, "tokenizer.ggml.merges"))
    writer.add_bos_token_id(field_value(reader, "tokenizer.ggml.bos_token_id"))
    writer.add_eos_token_id(field_value(reader, "tokenizer.ggml.eos_token_id"))
    generator = numpy.random.default_rng(1)
    ones = numpy.ones(HIDDEN, dtype=numpy.float32)
    shapes = [("token_embd.weight", VOCAB, HIDDEN), ("output_norm.weight", 0, 0)]
    for layer in range(LAYERS):
        prefix = f"blk.{layer}."
        shapes += [(prefix + "attn_norm.weight", 0, 0), (prefix + "attn_q.weight", HEADS * HEAD_DIM, HIDDEN),
                   (prefix + "attn_k.weight", KV_HEADS * HEAD_DIM, HIDDEN),
                   (prefix + "attn_v.weight", KV_HEADS * HEAD_DIM, HIDDEN),
                   (prefix + "attn_output.weight", HIDDEN, HEADS * HEAD_DIM), (prefix + "ffn_norm.weight", 0, 0),
                   (prefix + "ffn_gate.weight", FFN, HIDDEN), (prefix + "ffn_up.weight", FFN, HIDDEN),
                   (prefix + "ffn_down.weight", HIDDEN, FFN)]
    for name, rows, columns in shapes:
        if not rows:
            writer.add_tensor(name, ones)
            continue
        data, raw = matrix(generator, rows, columns, kind)
        writer.add_tensor(name, data, raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return 0


sys.exit(main())
