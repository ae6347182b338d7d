#!/usr/bin/env python3
"""Runs the end-to-end tests: the real program, real sockets, real clients.

    GRAMME_BIN=build/gramme GRAMME_MODEL=demo.gguf GRAMME_PYTHON=venv/bin/python tests/e2e/run.py

GRAMME_PYTHON is a Python with the openai package; without it, or without a model file (whose
tokenizer and template are used; nothing is computed), the run is skipped: exit 77.  Arguments
name tests as unittest does (test_http, test_http.Smuggling); --but FILES runs all others."""
import os
import pathlib
import sys
import unittest

HERE = pathlib.Path(__file__).resolve().parent
SKIPPED = 77


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
    result = unittest.TextTestRunner(verbosity=2).run(suite)
    bad = len(result.failures) + len(result.errors)
    print(f"{result.testsRun - bad - len(result.skipped)} passed, {bad} failed")
    return 0 if result.wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(main())
