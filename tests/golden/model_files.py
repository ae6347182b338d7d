"""Model files of every family and storage type, made here from random weights; what the loader
reads out of them must be bit for bit what numpy and the gguf package say.

usage: model_files.py MODEL_ROWS FOLDER     (GRAMME_PYTHON: a Python with numpy, gguf, safetensors)

Exit 77 (skipped) when GRAMME_PYTHON is unset.  Nothing is committed: FOLDER is in the build tree.
"""
import json
import math
import os
import shutil
import subprocess
import sys

if os.environ.get("GRAMME_MODEL_FILES_INSIDE") != "1":
    if not os.environ.get("GRAMME_PYTHON"):
        print("GRAMME_PYTHON is not set: skipped")
        sys.exit(77)
    os.environ["GRAMME_MODEL_FILES_INSIDE"] = "1"
    python = os.environ["GRAMME_PYTHON"]
    os.execv(python, [python] + sys.argv)

import gguf
import numpy as np
from gguf import quants
from safetensors.numpy import save_file

ROLES = ["embedding", "final_norm", "head", "attn_norm", "q", "k", "v", "o", "q_bias", "k_bias",
         "v_bias", "o_bias", "q_norm", "k_norm", "ffn_norm", "gate", "up", "down", "gate_bias",
         "up_bias", "down_bias"]
HF = {"embedding": "model.embed_tokens.weight", "final_norm": "model.norm.weight",
      "head": "lm_head.weight", "attn_norm": "input_layernorm.weight",
      "q": "self_attn.q_proj.weight", "k": "self_attn.k_proj.weight",
      "v": "self_attn.v_proj.weight", "o": "self_attn.o_proj.weight",
      "q_bias": "self_attn.q_proj.bias", "k_bias": "self_attn.k_proj.bias",
      "v_bias": "self_attn.v_proj.bias", "o_bias": "self_attn.o_proj.bias",
      "q_norm": "self_attn.q_norm.weight", "k_norm": "self_attn.k_norm.weight",
      "ffn_norm": "post_attention_layernorm.weight", "gate": "mlp.gate_proj.weight",
      "up": "mlp.up_proj.weight", "down": "mlp.down_proj.weight", "gate_bias": "mlp.gate_proj.bias",
      "up_bias": "mlp.up_proj.bias", "down_bias": "mlp.down_proj.bias"}
GGUF = {"embedding": "token_embd.weight", "final_norm": "output_norm.weight",
        "head": "output.weight", "attn_norm": "attn_norm.weight", "q": "attn_q.weight",
        "k": "attn_k.weight", "v": "attn_v.weight", "o": "attn_output.weight",
        "q_bias": "attn_q.bias", "k_bias": "attn_k.bias", "v_bias": "attn_v.bias",
        "o_bias": "attn_output.bias", "q_norm": "attn_q_norm.weight",
        "k_norm": "attn_k_norm.weight", "ffn_norm": "ffn_norm.weight", "gate": "ffn_gate.weight",
        "up": "ffn_up.weight", "down": "ffn_down.weight", "gate_bias": "ffn_gate.bias",
        "up_bias": "ffn_up.bias", "down_bias": "ffn_down.bias"}
GLOBAL = {"embedding", "final_norm", "head"}
TYPE = {name: getattr(gguf.GGMLQuantizationType, name) for name in
        ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"]}

seed = int(os.environ.get("GRAMME_SEED", "20240229"))
rng = np.random.default_rng(seed)
checks = 0


class Shape:
    def __init__(self, family, hidden=64, ffn=96, heads=4, kv_heads=2, head_dim=16, vocab=48,
                 layers=2, tied=False, qkv_bias=False, o_bias=False, mlp_bias=False):
        self.__dict__.update(locals())

    def tensors(self):
        """(role, layer) -> shape"""
        h, q, kv = self.hidden, self.heads * self.head_dim, self.kv_heads * self.head_dim
        out = {("embedding", 0): (self.vocab, h), ("final_norm", 0): (h,)}
        if not self.tied:
            out["head", 0] = (self.vocab, h)
        for i in range(self.layers):
            layer = {"attn_norm": (h,), "q": (q, h), "k": (kv, h), "v": (kv, h), "o": (h, q),
                     "ffn_norm": (h,), "gate": (self.ffn, h), "up": (self.ffn, h),
                     "down": (h, self.ffn)}
            if self.qkv_bias:
                layer |= {"q_bias": (q,), "k_bias": (kv,), "v_bias": (kv,)}
            if self.o_bias:
                layer["o_bias"] = (h,)
            if self.mlp_bias:
                layer |= {"gate_bias": (self.ffn,), "up_bias": (self.ffn,), "down_bias": (h,)}
            if self.family == "qwen3":
                layer |= {"q_norm": (self.head_dim,), "k_norm": (self.head_dim,)}
            out |= {(role, i): shape for role, shape in layer.items()}
        return out

    def config(self, **more):
        names = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM",
                 "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
        config = {"model_type": self.family, "architectures": [names[self.family]],
                  "hidden_size": self.hidden, "intermediate_size": self.ffn,
                  "num_hidden_layers": self.layers, "num_attention_heads": self.heads,
                  "num_key_value_heads": self.kv_heads, "head_dim": self.head_dim,
                  "vocab_size": self.vocab, "rms_norm_eps": 1e-5, "hidden_act": "silu",
                  "max_position_embeddings": 4096, "rope_theta": 10000.0,
                  "tie_word_embeddings": self.tied, "bos_token_id": 1, "eos_token_id": 2,
                  "torch_dtype": "bfloat16", "use_cache": True, "initializer_range": 0.02}
        if self.family == "llama":
            config |= {"attention_bias": self.qkv_bias, "mlp_bias": self.mlp_bias}
        if self.family == "mistral":
            config["sliding_window"] = None
        return config | more


def bf16_bits(x):
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def bf16_values(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


def make_weights(shape, dtype):
    """f32 weights that dtype holds exactly."""
    out = {}
    for key, size in shape.tensors().items():
        x = rng.standard_normal(size).astype(np.float32)
        if dtype == "F16":
            x = x.astype(np.float16).astype(np.float32)
        if dtype == "BF16":
            x = bf16_values(bf16_bits(x))
        out[key] = x
    return out


def write_safetensors(path, tensors, dtype):
    """BF16 by hand (numpy has none), the others by the library."""
    if dtype != "BF16":
        kind = np.float16 if dtype == "F16" else np.float32
        save_file({n: np.ascontiguousarray(x.astype(kind)) for n, x in tensors.items()}, path,
                  metadata={"format": "pt"})
        return
    header, at, data = {"__metadata__": {"format": "pt"}}, 0, b""
    for name, x in tensors.items():
        bits = bf16_bits(x).tobytes()
        header[name] = {"dtype": "BF16", "shape": list(x.shape), "data_offsets": [at, at + len(bits)]}
        at += len(bits)
        data += bits
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text + data)


def hf_name(role, layer):
    return HF[role] if role in GLOBAL else f"model.layers.{layer}.{HF[role]}"


def gguf_name(role, layer):
    return GGUF[role] if role in GLOBAL else f"blk.{layer}.{GGUF[role]}"


def write_hf(path, shape, weights, dtype, shards=1, **config):
    shutil.rmtree(path, ignore_errors=True)
    os.makedirs(path)
    with open(f"{path}/config.json", "w") as f:
        json.dump(shape.config(**config), f)
    named = {hf_name(*key): x for key, x in weights.items()}
    if shards == 1:
        write_safetensors(f"{path}/model.safetensors", named, dtype)
        return
    names, where = list(named), {}
    for i in range(shards):
        file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        part = names[i::shards]
        write_safetensors(f"{path}/{file}", {n: named[n] for n in part}, dtype)
        where |= {n: file for n in part}
    with open(f"{path}/model.safetensors.index.json", "w") as f:
        json.dump({"metadata": {"total_size": 1}, "weight_map": where}, f)
    with open(f"{path}/consolidated.safetensors", "wb") as f:
        f.write(b"not looked at")


def permute(x, heads):
    """Half-split rows of each head to interleaved ones, as files of the llama architecture have
    them."""
    return x.reshape(heads, 2, x.shape[0] // heads // 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)


def random_blocks(type_name, rows, columns):
    """Random bytes with finite scales: any block is a legal one."""
    block, size = gguf.GGML_QUANT_SIZES[TYPE[type_name]]
    data = rng.integers(0, 256, (rows, columns // block, size), dtype=np.uint8)
    places = {"Q8_0": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2],
              "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}[type_name]
    for at in places:
        half = (rng.standard_normal((rows, columns // block)) * 0.01).astype(np.float16)
        half.reshape(-1)[::37] = np.float16(6e-8)  # subnormal
        half.reshape(-1)[1::41] = np.float16(0)
        data[:, :, at:at + 2] = half.view(np.uint8).reshape(rows, columns // block, 2)
    return data.reshape(rows, columns // block * size)


def write_gguf(path, shape, weights, type_name, keys=None, divisors=None, split=0):
    """Returns what the loader must give: (role, layer) -> f32, in half-split order."""
    arch = "llama" if shape.family == "mistral" else shape.family
    if split:
        writer = gguf.GGUFWriter(path, arch, split_max_tensors=split)
    else:
        writer = gguf.GGUFWriter(path, arch)
    writer.add_block_count(shape.layers)
    writer.add_context_length(4096)
    writer.add_embedding_length(shape.hidden)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_eos_token_id(2)
    for key, value in (keys or {}).items():
        {str: writer.add_string, int: writer.add_uint32, float: writer.add_float32}[type(value)](
            f"{arch}.{key}", value)
    expected = {}
    for (role, layer), x in weights.items():
        name, heads = gguf_name(role, layer), None
        if arch == "llama" and role in ("q", "q_bias"):
            heads = shape.heads
        if arch == "llama" and role in ("k", "k_bias"):
            heads = shape.kv_heads
        stored = permute(x, heads) if heads else x
        if x.ndim == 1:
            writer.add_tensor(name, stored.astype(np.float32))
            expected[role, layer] = x
            continue
        if type_name == "F32":
            writer.add_tensor(name, stored.astype(np.float32))
        elif type_name == "F16":
            writer.add_tensor(name, stored.astype(np.float16))
        elif type_name == "BF16":
            writer.add_tensor(name, bf16_bits(stored).view(np.uint8), raw_dtype=TYPE["BF16"])
        else:
            data = random_blocks(type_name, *x.shape)
            writer.add_tensor(name, data, raw_dtype=TYPE[type_name])
            stored = quants.dequantize(data, TYPE[type_name])
            x = unpermute(stored, heads) if heads else stored
        expected[role, layer] = x
    if divisors is not None:
        writer.add_tensor("rope_freqs.weight", divisors.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return expected


def unpermute(x, heads):
    return x.reshape(heads, x.shape[0] // heads // 2, 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)


def read(path):
    """spec, (role, layer) -> (type, f32)"""
    result = subprocess.run([sys.argv[1], path], capture_output=True)
    if result.returncode:
        raise SystemExit(f"{path}: {result.stderr.decode()}")
    line, _, rest = result.stdout.partition(b"\n")
    spec, tensors = json.loads(line), {}
    while rest:
        line, _, rest = rest.partition(b"\n")
        role, layer, rows, columns, kind = line.split()
        rows, columns = int(rows), int(columns)
        values = np.frombuffer(rest[:4 * rows * columns], np.float32).reshape(rows, columns)
        rest = rest[4 * rows * columns:]
        tensors[ROLES[int(role)], int(layer)] = (kind.decode(), values)
    return spec, tensors


def same_bits(a, b):
    return np.array_equal(np.ascontiguousarray(a).view(np.uint32),
                          np.ascontiguousarray(b).view(np.uint32))


def compare(path, expected, shape):
    global checks
    spec, tensors = read(path)
    wanted = dict(expected)
    if shape.tied:
        wanted["head", 0] = wanted["embedding", 0]
    assert set(tensors) == set(wanted), (path, set(tensors) ^ set(wanted))
    for key, (kind, values) in tensors.items():
        x = wanted[key].reshape(values.shape)
        assert same_bits(values, x), f"{path}: {key} ({kind}) differs"
        checks += 1
    for name in ("layers", "hidden", "ffn", "heads", "kv_heads", "head_dim", "vocab"):
        assert spec[name] == getattr(shape, name), (path, name, spec)
    assert spec["tied"] == shape.tied and spec["qkv_bias"] == shape.qkv_bias, (path, spec)
    assert spec["eos"] == [2], (path, spec)
    return spec


def families(folder):
    shapes = [Shape("llama"), Shape("llama", tied=True), Shape("mistral", heads=6, kv_heads=2),
              Shape("llama", qkv_bias=True, o_bias=True, mlp_bias=True),
              Shape("qwen2", tied=True, qkv_bias=True), Shape("qwen3", head_dim=32)]
    for i, shape in enumerate(shapes):
        for dtype, shards in (("F32", 1), ("F16", 3), ("BF16", 1), ("BF16", 4)):
            weights = make_weights(shape, dtype)
            path = f"{folder}/{shape.family}-{i}-{dtype}-{shards}"
            write_hf(path, shape, weights, dtype, shards)
            hf = compare(path, weights, shape)
            assert hf["weight_type"] == dtype.lower(), hf
            expected = write_gguf(path + ".gguf", shape, weights, dtype)
            ours = compare(path + ".gguf", expected, shape)
            assert ours["inv_freq"] == hf["inv_freq"], path


def storage_types(folder):
    shape = Shape("llama", hidden=256, ffn=512, heads=8, kv_heads=4, head_dim=32)
    for name in TYPE:
        weights = make_weights(shape, name)
        expected = write_gguf(f"{folder}/type-{name}.gguf", shape, weights, name)
        spec = compare(f"{folder}/type-{name}.gguf", expected, shape)
        assert spec["weight_type"] == name.lower(), spec


def split(folder):
    shape = Shape("qwen3", head_dim=32)
    weights = make_weights(shape, "F32")
    for old in os.listdir(folder):
        if old.startswith("split-"):
            os.remove(f"{folder}/{old}")
    expected = write_gguf(f"{folder}/split.gguf", shape, weights, "F32", split=7)
    parts = sorted(f for f in os.listdir(folder) if f.startswith("split-"))
    assert len(parts) > 2, parts
    compare(f"{folder}/{parts[0]}", expected, shape)


# --- rope: transformers' modeling_rope_utils in numpy, each step rounded to f32 ---------------

def inv_freq(theta, dim):
    exponent = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    return np.float32(1) / np.power(np.float64(theta), exponent.astype(np.float64)).astype(np.float32)


def llama3(freq, factor, low, high, original):
    wavelen = (np.float32(1) / freq) * np.float32(2 * math.pi)
    out = np.where(wavelen > np.float32(original / low), freq / np.float32(factor), freq)
    smooth = ((np.float32(1) / wavelen) * np.float32(original) - np.float32(low)) / np.float32(high - low)
    smoothed = (np.float32(1) - smooth) * out / np.float32(factor) + smooth * out
    medium = ~(wavelen < np.float32(original / high)) & ~(wavelen > np.float32(original / low))
    return np.where(medium, smoothed, out)


def llama3_divisors(theta, dim, factor, low, high, original):
    """As the converter of GGUF files computes rope_freqs.weight."""
    out = []
    for freq in inv_freq(theta, dim).astype(np.float64):
        wavelen = 2 * math.pi / freq
        if wavelen < original / high:
            out.append(1)
        elif wavelen > original / low:
            out.append(factor)
        else:
            smooth = (original / wavelen - low) / (high - low)
            out.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(out, np.float32)


def yarn(theta, dim, factor, original, fast=32, slow=1):
    def dimension(turns):
        return dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))
    low, high = max(math.floor(dimension(fast)), 0), min(math.ceil(dimension(slow)), dim - 1)
    if low == high:
        high += 0.001
    ramp = np.clip((np.arange(dim // 2, dtype=np.float32) - np.float32(low)) / np.float32(high - low), 0, 1)
    pos = np.float32(1) / inv_freq(theta, dim)
    keep = np.float32(1) - ramp
    return (np.float32(1) / (np.float32(factor) * pos)) * (np.float32(1) - keep) + inv_freq(theta, dim) * keep


def close(found, wanted, what):
    global checks
    found = np.array(found, np.float32)
    assert np.all(np.abs(found - wanted) <= 2.5e-7 * np.abs(wanted)), (what, found, wanted)
    checks += 1


def rope(folder):
    shape = Shape("llama", heads=2, kv_heads=1, head_dim=64)
    weights = make_weights(shape, "F32")
    path = f"{folder}/rope"

    def hf(**config):
        write_hf(path, shape, weights, "F32", **config)
        return read(path)[0]

    close(hf(rope_theta=500000.0)["inv_freq"], inv_freq(500000.0, 64), "default")
    new = hf(rope_theta=None, rope_parameters={"rope_type": "default", "rope_theta": 1e6})
    close(new["inv_freq"], inv_freq(1e6, 64), "rope_parameters")
    linear = hf(rope_scaling={"type": "linear", "factor": 4.0})
    close(linear["inv_freq"], inv_freq(1e4, 64) / np.float32(4), "linear")
    assert linear["context"] == 16384, linear
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 8192}
    three = hf(rope_scaling=scaling)
    close(three["inv_freq"], llama3(inv_freq(1e4, 64), 8, 1, 4, 8192), "llama3")
    write_gguf(f"{folder}/rope.gguf", shape, weights, "F32",
               divisors=llama3_divisors(1e4, 64, 8, 1, 4, 8192))
    assert read(f"{folder}/rope.gguf")[0]["inv_freq"] == three["inv_freq"], "rope_freqs.weight"
    stretched = hf(rope_scaling={"type": "yarn", "factor": 4.0,
                                 "original_max_position_embeddings": 2048})
    close(stretched["inv_freq"], yarn(1e4, 64, 4, 2048), "yarn")
    close([stretched["rope_scale"]], np.array([0.1 * math.log(4) + 1], np.float32), "yarn scale")
    assert stretched["context"] == 8192, stretched
    write_gguf(f"{folder}/yarn.gguf", shape, weights, "F32",
               keys={"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0,
                     "rope.scaling.original_context_length": 2048})
    found = read(f"{folder}/yarn.gguf")[0]
    assert found["inv_freq"] == stretched["inv_freq"], "yarn of a GGUF"
    assert found["rope_scale"] == stretched["rope_scale"] and found["context"] == 8192, found


def main():
    folder = sys.argv[2]
    os.makedirs(folder, exist_ok=True)
    families(folder)
    storage_types(folder)
    split(folder)
    rope(folder)
    shutil.rmtree(folder)
    print(f"{checks} tensors and tables agree, seed {seed}")


main()
