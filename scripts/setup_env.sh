#!/usr/bin/env bash
# Make or reuse .venv with the plug-in and everything that its tests and the quickstart use. Sourced by the other scripts.
# PYTHON names the interpreter (default python3), 3.10 to 3.13. Run from the project's root.
set -euo pipefail

python=${PYTHON:-python3}
"$python" - <<'PY' || exit 2
import sys
if not (3, 10) <= sys.version_info[:2] <= (3, 13):
    sys.exit(f"setup: Python 3.10 to 3.13 is needed, {sys.executable} is {sys.version.split()[0]}; set PYTHON=python3.12")
PY

# Compiling for GPUs takes a minute more; the tests compile that source by themselves where nvcc is.
command -v nvidia-smi >/dev/null || export IFAN_NO_CUDA=${IFAN_NO_CUDA:-1}

# The same inputs make the same environment: nothing is installed again while they stay as they are.
stamp=$(find setup.py pyproject.toml constraints.txt scripts/setup_env.sh ifan_plugin/__init__.py ifan_plugin/ops/csrc \
    -type f | LC_ALL=C sort | xargs cat | cksum | cut -d' ' -f1)
if [ ! -x .venv/bin/python ] || [ "$(cat .venv/ifan_stamp 2>/dev/null)" != "$stamp" ]; then
    echo "setup: installing into .venv (the first time some 5 GB are downloaded, about four minutes)"
    [ -x .venv/bin/python ] || "$python" -m venv .venv
    pip=(.venv/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt)
    "${pip[@]}" setuptools wheel ninja
    if .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 13))'; then
        # BasicSR's setup.py reads its version through locals(), which Python 3.13 made a snapshot.
        PYTHONPATH="$PWD/scripts/basicsr_py313" "${pip[@]}" --no-deps --no-build-isolation basicsr==1.4.2
    fi
    # Without isolation BasicSR builds in seconds: alone, its build environment would fetch torch once more.
    .venv/bin/python -m pip --disable-pip-version-check install --constraint constraints.txt --no-build-isolation torch torchvision basicsr==1.4.2
    echo "setup: compiling the operator (a minute or two; without a compiler it runs from PyTorch)"
    "${pip[@]}" --no-build-isolation --editable '.[mm,benchmark,demo,raw,dev]'
    echo "$stamp" > .venv/ifan_stamp
fi
export PATH="$PWD/.venv/bin:$PATH"
