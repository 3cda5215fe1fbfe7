#!/usr/bin/env bash
# Everything that needs a GPU, in one command: build, tests, sanitizer, speed, memory; tables as Markdown and JSON.
# PYTHON names an interpreter that has torch (2.11 or later); nothing is installed or fetched. See --help.
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${PYTHON:-python3}" scripts/gpu_check.py "$@"
