"""Makes the engine's golden data with Hugging Face transformers, in F32.

usage: reference.py GGUF [--out FILE] [--hf-dir DIR] [--prompts N]

GGUF is the demo model, SmolLM2-135M-Instruct.Q4_1.gguf; transformers dequantizes it to F32.
--out writes the data (default: smollm2_135m.json beside this script); --hf-dir writes the F32
model as a Hugging Face directory (config.json, model.safetensors, tokenizer.json ...).
README.md here says which versions made the committed file, and what its fields are."""
import argparse
import hashlib
import json
import os
import time

import torch
import transformers

import reference_prompts

HERE = os.path.dirname(os.path.abspath(__file__))
STEPS = 64
LOGIT_STEPS = (0, 1, 7, 31, 63)  # at which output positions logits are kept
TOP = 16
STRIDED = 64


def load(path):
    folder, name = os.path.split(os.path.abspath(path))
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=name,
                                                              dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=name)
    model.eval()
    return model, tokenizer


def save_directory(model, tokenizer, folder):
    # save_pretrained refuses a model that came from a GGUF until it forgets that it did.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def kept_logits(logits, step):
    values, ids = torch.topk(logits, TOP)
    stride = logits.shape[0] // STRIDED
    return {"step": step, "top_ids": ids.tolist(),
            "top": [round(v, 5) for v in values.tolist()],
            "strided": [round(v, 5) for v in logits[::stride][:STRIDED].tolist()]}


def greedy(model, ids):
    """64 tokens, past any end of sequence; ties go to the lowest id."""
    out, margins, kept = [], [], []
    with torch.inference_mode():
        result = model(torch.tensor([ids]), use_cache=True, logits_to_keep=1)
        for step in range(STEPS):
            logits = result.logits[0, -1].float()
            best = torch.topk(logits, 2).values
            margins.append(round((best[0] - best[1]).item(), 5))
            token = int((logits == best[0]).nonzero()[0])
            out.append(token)
            if step in LOGIT_STEPS:
                kept.append(kept_logits(logits, step))
            if step + 1 < STEPS:
                result = model(torch.tensor([[token]]), past_key_values=result.past_key_values,
                               use_cache=True)
    return out, margins, kept


def one(model, tokenizer, prompt):
    record = {"name": prompt["name"]}
    if "messages" in prompt:
        record["messages"] = prompt["messages"]
        text = tokenizer.apply_chat_template(prompt["messages"], tokenize=False,
                                             add_generation_prompt=True)
        record["rendered"] = text
    else:
        text = record["text"] = prompt["text"]
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    record["prompt_ids"] = ids
    record["ids"], record["margins"], record["logits"] = greedy(model, ids)
    return record


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for piece in iter(lambda: file.read(1 << 20), b""):
            digest.update(piece)
    return digest.hexdigest()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("gguf")
    parser.add_argument("--out", default=os.path.join(HERE, "smollm2_135m.json"))
    parser.add_argument("--hf-dir")
    parser.add_argument("--prompts", type=int, default=len(reference_prompts.PROMPTS))
    options = parser.parse_args()
    model, tokenizer = load(options.gguf)
    records = []
    for number, prompt in enumerate(reference_prompts.PROMPTS[:options.prompts]):
        start = time.time()
        records.append(one(model, tokenizer, prompt))
        print(f"{number + 1:2} {prompt['name']}: {len(records[-1]['prompt_ids'])} ids, "
              f"least margin {min(records[-1]['margins']):.4f}, {time.time() - start:.1f} s",
              flush=True)
    data = {
        "model": os.path.basename(options.gguf), "sha256": sha256(options.gguf),
        "torch": torch.__version__, "transformers": transformers.__version__,
        "dtype": "float32", "steps": STEPS,
        "strided_ids": [i * (model.config.vocab_size // STRIDED) for i in range(STRIDED)],
        "prompts": records,
    }
    with open(options.out, "w", encoding="utf-8") as file:
        file.write("{\n")
        for key, value in data.items():
            if key != "prompts":
                file.write(f"{json.dumps(key)}: {json.dumps(value, separators=(',', ':'))},\n")
        lines = [json.dumps(r, ensure_ascii=False, separators=(",", ":")) for r in records]
        file.write('"prompts": [\n' + ",\n".join(lines) + "\n]}\n")
    print(f"{options.out}: {os.path.getsize(options.out)} bytes")
    if options.hf_dir:
        save_directory(model, tokenizer, options.hf_dir)
        print(f"{options.hf_dir}: written")


if __name__ == "__main__":
    main()
