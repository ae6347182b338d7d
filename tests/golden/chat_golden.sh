#!/bin/sh
# Runs chat_golden.py with the python that GRAMME_PYTHON names; 77 (skipped) without one.
if [ -z "${GRAMME_PYTHON:-}" ]; then
    echo "skipped: GRAMME_PYTHON names no python with jinja2"
    exit 77
fi
exec "$GRAMME_PYTHON" "$@"
