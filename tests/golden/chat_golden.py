"""Compares the template engine with jinja2, byte for byte.

usage: chat_golden.py DRIVER [--seed N] [--expressions N] [--templates N] [--show N]
DRIVER is the built chat_golden.  Exit 77 without jinja2."""
import argparse
import copy
import json
import os
import resource
import subprocess
import sys
import warnings

try:
    import jinja2  # noqa: F401
except ImportError:
    print("skipped: this python has no jinja2")
    sys.exit(77)

import chat_cases
import chat_random
import chat_reference

os.environ["TZ"] = "UTC"
warnings.simplefilter("ignore")  # of the code that jinja2 generates
NOW_S = int(chat_reference.NOW.replace(tzinfo=chat_reference.datetime.timezone.utc).timestamp())


NO_LIMIT = resource.getrlimit(resource.RLIMIT_AS)[1]


def run_driver(driver, requests):
    lines = "".join(json.dumps(r) + "\n" for r in requests)
    done = subprocess.run([driver], input=lines.encode(), stdout=subprocess.PIPE, check=False,
                          preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS,
                                                                (NO_LIMIT, NO_LIMIT)))
    answers = [json.loads(line) for line in done.stdout.decode().split("\n") if line]
    if done.returncode or len(answers) != len(requests):
        print(f"the driver ended with {done.returncode} after {len(answers)} answers; next:")
        print(requests[len(answers)]["template"] if len(answers) < len(requests) else "-")
        sys.exit(1)
    return answers


def differs(kind, expected, answer):
    """A word about the difference, or None; "" when the answer is outside the 64-bit subset."""
    if answer.get("error") in ("not supported", "over a limit") or "MemoryError" in expected:
        return ""
    if kind == "text":
        if "text" not in answer:
            return f"failed: {answer['message']}"
        return None if answer["text"] == expected else "text"
    if "text" in answer:
        return "should have failed: " + expected
    if kind == "refused":
        same = answer["error"] == "usage" and answer["message"] == expected
        return None if same else f"wrong refusal: {answer['message']}"
    return None if answer["error"] == "bad format" else f"wrong error {answer['error']}"


def compare(driver, name, cases, show):
    """cases: (label, template, variables).  Prints and counts the differences."""
    env = chat_reference.environment(chat_reference.NOW)
    requests = [{"template": t, "variables": v, "now": NOW_S} for _, t, v in cases]
    answers = run_driver(driver, requests)
    bad = texts = refused = outside = 0
    for (label, source, variables), answer in zip(cases, answers):
        kind, expected = chat_reference.render(env, source, copy.deepcopy(variables))
        if kind == "text" and any(w in expected for w in (" at 0x", "<bound method")):
            outside += 1  # a printed function or address: no one can know it
            continue
        what = differs(kind, expected, answer)
        texts += kind == "text"
        refused += kind != "text"
        if what == "":
            outside += 1
        elif what:
            bad += 1
            if bad <= show:
                print(f"--- {name} {label}: {what}\n{source}")
                print(f"expected ({kind}): {expected!r}")
                print(f"answer: {answer.get('text', answer.get('message'))!r}")
    print(f"{name}: {len(cases)} cases, {texts} texts, {refused} errors, "
          f"{outside} outside the subset, {bad} differ")
    return bad, answers


def check_marks(driver, cases):
    """The content of messages is shifted into a private area: exactly these characters, and
    whatever else came from the messages, may lie in the user's ranges."""
    requests = [{"template": t, "variables": chat_cases.shift(v), "now": NOW_S}
                for _, t, v in cases]
    bad = checked = 0
    for (label, _, _), answer in zip(cases, run_driver(driver, requests)):
        if "text" not in answer:
            continue
        data = answer["text"].encode()
        inside = bytearray(len(data))
        for first, end in answer["ranges"]:
            inside[first:end] = b"\1" * (end - first)
        at = 0
        for character in answer["text"]:
            width = len(character.encode())
            if chat_cases.is_shifted(character):
                checked += 1
                if inside[at:at + width] != b"\1" * width:
                    bad += 1
                    print(f"--- marks {label}: a user's character at {at} is not marked")
                    break
            elif character in chat_cases.NEVER_USER and any(inside[at:at + width]):
                bad += 1
                print(f"--- marks {label}: the template's character at {at} is marked")
                break
            at += width
    print(f"marks: {len(cases)} cases, {checked} characters, {bad} wrong")
    return bad


def demo_template():
    """The template of the demo model, when it is there."""
    path = os.environ.get("GRAMME_MODEL") or os.path.join(
        os.environ.get("GRAMME_BUILD", "build"), "models", "SmolLM2-135M-Instruct.Q4_1.gguf")
    if not os.path.isfile(path):
        print(f"demo template: skipped, no model at {path} (GRAMME_MODEL names it)")
        return None
    return chat_cases.gguf_string(path, "tokenizer.chat_template")


def check_reference(driver, source):
    """The demo template on the chats of the engine's data: what transformers rendered."""
    chats = chat_cases.reference_chats()
    requests = [{"template": source, "now": NOW_S, "variables": {
        "messages": m, "add_generation_prompt": True, "tools": None}} for _, m, _ in chats]
    bad = 0
    for (name, _, rendered), answer in zip(chats, run_driver(driver, requests)):
        if answer.get("text") != rendered:
            bad += 1
            print(f"--- reference {name}: {answer.get('text')!r}, not {rendered!r}")
    print(f"reference: {len(chats)} chats, {bad} differ")
    return bad


def main():
    # 'x' * big in the reference: MemoryError, not swap.  Not for the driver.
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, NO_LIMIT))
    parser = argparse.ArgumentParser()
    parser.add_argument("driver")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--expressions", type=int, default=4000)
    parser.add_argument("--templates", type=int, default=1500)
    parser.add_argument("--show", type=int, default=10)
    options = parser.parse_args()
    print(f"seed {options.seed}")
    bad = 0
    cases = chat_cases.matrix()
    source = demo_template()
    if source:
        bad += check_reference(options.driver, source)
        cases += [(f"demo/{n}", source, v) for n, v in chat_cases.conversations()]
    bad += compare(options.driver, "families", cases, options.show)[0]
    bad += check_marks(options.driver, cases)
    bad += compare(options.driver, "snippets", chat_cases.snippets(), options.show)[0]
    base = options.seed * 1000003
    cases = [(base + i, chat_random.expression(base + i), chat_random.VARIABLES)
             for i in range(options.expressions)]
    bad += compare(options.driver, "expressions", cases, options.show)[0]
    cases = [(base + i, chat_random.template(base + i), chat_random.VARIABLES)
             for i in range(options.templates)]
    bad += compare(options.driver, "templates", cases, options.show)[0]
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
