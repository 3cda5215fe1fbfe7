#!/usr/bin/env bash
# Build, or reuse, an environment in which MMagic 1.2.0 runs on today's stack; the project's own isn't changed.
set -euo pipefail
called_from=$PWD
cd "$(dirname "$0")/.."

usage() {
    echo "usage: ./scripts/mmagic_env.sh [--base FOLDER] [FOLDER]"
    sed -n '2s/^# //p' scripts/mmagic_env.sh
    echo "  FOLDER         the environment (default: .venv-mmagic in the project's root)"
    echo "  --base FOLDER  a virtual environment with ifan_plugin[mm,benchmark], whose torch, mmengine and mmcv-lite it"
    echo "                 shares (default: .venv, made if need be)"
    echo "examples:"
    echo "  ./scripts/mmagic_env.sh"
    echo "  ./scripts/mmagic_env.sh --base ~/envs/research ~/envs/mmagic"
}

fail() {
    echo "mmagic_env: $1" >&2
    exit 2
}

absolute() { case "$1" in /*) echo "$1" ;; *) echo "$called_from/$1" ;; esac; }

base="" folder=""
while [ $# -gt 0 ]; do
    case "$1" in
        -h | --help) usage && exit 0 ;;
        --base)
            [ -n "${2:-}" ] || fail "--base needs the folder of a virtual environment"
            base=$(absolute "$2")
            shift
            ;;
        -*) fail "unknown flag '$1'; valid are --base and --help" ;;
        "") fail "the folder's name is empty" ;;
        *)
            [ -z "$folder" ] || fail "one folder only, '$1' is a second one"
            folder=$(absolute "$1")
            ;;
    esac
    shift
done
folder=${folder:-$PWD/.venv-mmagic}

if [ -z "$base" ]; then
    source scripts/setup_env.sh
    base=$PWD/.venv
fi
[ -x "$base/bin/python" ] || fail "--base: no virtual environment in $base (it has no bin/python)"
if [ -e "$folder" ] && [ ! -f "$folder/ifan_stamp" ] && [ -n "$(ls -A "$folder")" ]; then
    fail "$folder is there already and wasn't made by this script; name another folder"
fi
missing=$("$base/bin/python" - <<'PY'
from importlib.util import find_spec
needed = ("torch", "torchvision", "mmengine", "mmcv", "lpips", "scipy", "imageio", "requests", "einops")
print(" ".join(name for name in needed if find_spec(name) is None))
PY
)
[ -z "$missing" ] || fail "--base: $base lacks $missing; install ifan_plugin[mm,benchmark] there"

# The same inputs make the same environment: nothing is installed again while they stay as they are.
stamp=$({
    cat scripts/mmagic_env.sh scripts/mmagic/requirements.txt scripts/mmagic/ifan_mmagic_shim.py
    "$base/bin/python" -c 'import sys, sysconfig; print(sys.version, sysconfig.get_path("purelib"))'
} | cksum | cut -d' ' -f1)
if [ "$(cat "$folder/ifan_stamp" 2>/dev/null)" != "$stamp" ]; then
    echo "mmagic_env: installing MMagic into $folder"
    rm -rf "$folder"
    mkdir -p "$folder"
    echo unfinished > "$folder/ifan_stamp"
    "$base/bin/python" -m venv "$folder"
    # The base's packages are found after the environment's own, so that torch (5 GB) isn't installed twice. (venv's
    # --system-site-packages would show those of the interpreter that made the base, not the base's.) pip never writes there.
    "$folder/bin/python" - "$("$base/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" <<'PY'
import pathlib, shutil, sys, sysconfig
site = pathlib.Path(sysconfig.get_path("purelib"))
(site / "ifan_base.pth").write_text(f"import site; site.addsitedir({sys.argv[1]!a})\n", encoding="ascii")
shutil.copy("scripts/mmagic/ifan_mmagic_shim.py", site)
(site / "ifan_mmagic_shim.pth").write_text("import ifan_mmagic_shim\n", encoding="ascii")
PY
    "$folder/bin/python" -m pip --disable-pip-version-check install \
        --no-deps --ignore-installed --requirement scripts/mmagic/requirements.txt
    "$folder/bin/python" -W ignore -c 'import mmagic.datasets, mmagic.engine, mmagic.evaluation, mmagic.models, mmagic.visualization'
    echo "$stamp" > "$folder/ifan_stamp"
fi
"$folder/bin/python" -W ignore -c 'import mmagic, torch, sys; print(f"mmagic_env: MMagic {mmagic.__version__}, torch {torch.__version__}: {sys.executable}")'
