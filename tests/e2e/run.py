#!/usr/bin/env python3
"""Runs the end-to-end tests: the real program, real sockets, real clients.

    GRAMME_BIN=build/gramme GRAMME_MODEL=demo.gguf GRAMME_PYTHON=venv/bin/python tests/e2e/run.py

GRAMME_PYTHON is a Python with the openai package; without it, or without a model file (whose
tokenizer and template are used; nothing is computed), the run is skipped: exit 77.  Arguments
name tests as unittest does (test_http, test_http.Smuggling); --but FILES runs all others.

Most of their time is waiting, so several run at once (GRAMME_E2E_JOBS, 6 unless told; 1 shows each
test as it runs), each in a process of its own; what one of them starts is found by its process
ids, never by its name."""
import concurrent.futures
import io
import multiprocessing
import os
import pathlib
import sys
import time
import unittest

HERE = pathlib.Path(__file__).resolve().parent
SKIPPED = 77
JOBS = int(os.environ.get("GRAMME_E2E_JOBS", "6"))


def flat(suite):
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from flat(test)
        else:
            yield test


def units(suite):
    """Names that may run apart: tests one by one, or a class whose tests share what it set up."""
    names = []
    for test in flat(suite):
        shares = type(test).setUpClass.__func__ is not unittest.TestCase.setUpClass.__func__
        name = test.id().rsplit(".", 1)[0] if shares else test.id()
        if name not in names:
            names.append(name)
    return names


def run_unit(name):
    """One unit in this process: its report, tests, failures, skipped tests and seconds."""
    started, out = time.monotonic(), io.StringIO()
    suite = unittest.defaultTestLoader.loadTestsFromName(name)
    result = unittest.TextTestRunner(stream=out, verbosity=2).run(suite)
    return (out.getvalue(), result.testsRun, len(result.failures) + len(result.errors), len(result.skipped),
            time.monotonic() - started)


def run_together(names):
    """As run_unit, in JOBS processes; reports as they end."""
    tests = bad = skipped = 0
    with concurrent.futures.ProcessPoolExecutor(JOBS, multiprocessing.get_context("fork")) as pool:
        waiting = {pool.submit(run_unit, name): name for name in names}
        for done in concurrent.futures.as_completed(waiting):
            text, run, failed, left_out, seconds = done.result()
            tests, bad, skipped = tests + run, bad + failed, skipped + left_out
            print(f"{'FAILED' if failed else 'ok':6} {seconds:6.1f} s  {waiting[done]}", flush=True)
            if failed:
                print(text, flush=True)
    return tests, bad, skipped


def main():
    python = os.environ.get("GRAMME_PYTHON")
    if not python:
        print("skipped: GRAMME_PYTHON (a Python with the openai package) is not set")
        return SKIPPED
    if os.environ.get("GRAMME_E2E_CHILD") != "1":
        os.environ["GRAMME_E2E_CHILD"] = "1"
        os.execv(python, [python, str(HERE / "run.py")] + sys.argv[1:])
    sys.path.insert(0, str(HERE))
    import harness

    if not harness.MODEL:
        print("skipped: no model file (set GRAMME_MODEL, or put one into build/models)")
        return SKIPPED
    if not harness.can_serve():
        print(f"skipped: {harness.BINARY} has no 'serve' command")
        return SKIPPED
    loader = unittest.TestLoader()
    if sys.argv[1:2] == ["--but"]:
        files = sorted(path.stem for path in HERE.glob("test_*.py") if path.stem not in sys.argv[2:])
        suite = loader.loadTestsFromNames(files)
    elif len(sys.argv) > 1:
        suite = loader.loadTestsFromNames(sys.argv[1:])
    else:
        suite = loader.discover(str(HERE), pattern="test_*.py")
    if JOBS > 1:
        tests, bad, skipped = run_together(units(suite))
    else:
        result = unittest.TextTestRunner(verbosity=2).run(suite)
        tests, bad, skipped = result.testsRun, len(result.failures) + len(result.errors), len(result.skipped)
    print(f"{tests - bad - skipped} passed, {bad} failed")
    return 1 if bad or not tests else 0


if __name__ == "__main__":
    sys.exit(main())
