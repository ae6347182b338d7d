#!/usr/bin/env python3
"""engine_golden - the engine beside transformers F32 on 32 prompts of 64 greedy tokens.

Goal: prompt ids and rendered templates are equal; with every reference token forced, the engine's
best token is the reference's wherever the reference's margin passes the bound of the numerics
class (numerics.md 6), and logits lie within its tolerance.  Logits are compared as distances from
the best one, which is what logprobs keep.

usage: engine_golden.py ENGINE_GOLDEN [MODEL]     GRAMME_BIN, GRAMME_MODEL; exit 77 without
"""
import json
import math
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
# class, KV, the margin past which greedy must agree, the most that a logit may be off
CASES = [("f32a", "f32", 0.01, 1e-3), ("f32a", "f16", 0.05, 0.05), ("q8a32", "f16", 1.0, None)]


def check_text(prompts, gramme, model):
    """Ids and rendered templates; returns the number of failures."""
    failed = 0
    texts = [p.get("rendered", p.get("text")) for p in prompts]
    out = subprocess.run([gramme, "tokenize", "-m", model, "--jsonl"], check=True, capture_output=True,
                         text=True, input="".join(json.dumps(t) + "\n" for t in texts)).stdout.splitlines()
    for prompt, line in zip(prompts, out):
        if json.loads(line) != prompt["prompt_ids"]:
            failed += 1
            print(f"{prompt['name']}: other prompt ids")
    for prompt in prompts:
        if "messages" not in prompt:
            continue
        rendered = subprocess.run([gramme, "render", "-m", model], check=True, capture_output=True, input=json.dumps(
            {"messages": prompt["messages"], "add_generation_prompt": True}).encode()).stdout.decode()
        if rendered != prompt["rendered"]:
            failed += 1
            print(f"{prompt['name']}: renders to {rendered!r}")
    return failed


def run_engine(program, model, numerics, kv, prompts):
    lines = "".join(f"{len(p['prompt_ids'])} {','.join(map(str, p['prompt_ids'] + p['ids']))}\n" for p in prompts)
    out = subprocess.run([program, model, numerics, kv], check=True, capture_output=True, text=True, input=lines).stdout
    result, rows = [], []
    for line in out.splitlines():
        if line == "end":
            result.append(rows)
            rows = []
            continue
        fields = line.split()
        rows.append({int(i): float(v) for i, v in zip(fields[2::2], fields[3::2])})
    return result


def compare(prompts, answers, margin_bound, logit_bound):
    wrong, disputed, errors, checked = 0, 0, [], 0
    for prompt, rows in zip(prompts, answers):
        if len(rows) != len(prompt["ids"]):
            print(f"{prompt['name']}: {len(rows)} positions, {len(prompt['ids'])} wanted")
            wrong += 1
            continue
        for step, (row, wanted, margin) in enumerate(zip(rows, prompt["ids"], prompt["margins"])):
            best = max(row, key=row.get)
            checked += 1
            if best != wanted:
                disputed += 1
                if margin > margin_bound:
                    wrong += 1
                    print(f"{prompt['name']}, step {step}: token {best}, not {wanted}, margin {margin}")
        for entry in prompt["logits"]:
            row, ids, values = rows[entry["step"]], entry["top_ids"], entry["top"]
            if ids[0] not in row:
                continue
            errors += [abs((row[i] - row[ids[0]]) - (v - values[0])) for i, v in zip(ids[1:], values[1:]) if i in row]
    largest = max(errors)
    if logit_bound and largest > logit_bound:
        wrong += 1
        print(f"a logit is off by {largest}, {logit_bound} is allowed")
    print(f"  {checked} tokens, {disputed} differ within the margin, logit error: largest {largest:.6f}, "
          f"rms {math.sqrt(sum(e * e for e in errors) / len(errors)):.6f}")
    return wrong


def main():
    gramme, model = os.environ.get("GRAMME_BIN"), os.environ.get("GRAMME_MODEL")
    if len(sys.argv) > 2:
        model = sys.argv[2]
    if not gramme or not model:
        print("GRAMME_BIN and GRAMME_MODEL are not set")
        return 77
    with open(os.path.join(HERE, "smollm2_135m.json"), encoding="utf-8") as file:
        prompts = json.load(file)["prompts"]
    assert len(prompts) == 32 and all(len(p["ids"]) == 64 for p in prompts)
    failed = check_text(prompts, gramme, model)
    for numerics, kv, margin, logit in CASES:
        print(f"{numerics}, kv {kv}: margin {margin}, logits within {logit}", flush=True)
        failed += compare(prompts, run_engine(sys.argv[1], model, numerics, kv, prompts), margin, logit)
    print(f"{failed} wrong")
    return 1 if failed else 0


sys.exit(main())
