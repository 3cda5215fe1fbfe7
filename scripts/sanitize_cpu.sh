#!/usr/bin/env bash
# The CPU operator under AddressSanitizer and UndefinedBehaviorSanitizer: built apart, its tests and its 2,000 odd calls.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "${1:-}" = "-h" ] || [ "${1:-}" = "--help" ]; then
    echo "usage: ./scripts/sanitize_cpu.sh [FOLDER]"
    sed -n '2s/^# //p' "$0"
    echo "FOLDER (default: a temporary one) keeps the build; IFAN_TEST_CASES=first:count chooses among the calls."
    echo "exit status: 0 nothing found, 77 this machine's compiler has no sanitizers (said), else what was found"
    exit 0
fi

python=${PYTHON:-python3}
compiler=${CXX:-g++}
flags="-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer"
folder=${1:-$(mktemp -d)}
[ -n "${1:-}" ] || trap 'rm -rf "$folder"' EXIT
mkdir -p "$folder"

runtime=$("$compiler" -print-file-name=libasan.so 2>/dev/null || true)
# shellcheck disable=SC2086
if ! echo 'int main() {}' | "$compiler" $flags -x c++ - -o "$folder/trial" 2>"$folder/trial.txt" || [ ! -e "$runtime" ]; then
    echo "sanitize_cpu: skipped: $compiler has no AddressSanitizer here ($(head -n 1 "$folder/trial.txt"))"
    exit 77
fi

echo "== build in $folder"
# A copy, so that the build in use isn't touched; without -O3, which takes minutes with all the checks.
rm -rf "$folder/tree"
mkdir -p "$folder/tree"
cp -r setup.py pyproject.toml README.md LICENSE ifan_plugin tests options "$folder/tree/"
rm -f "$folder"/tree/ifan_plugin/_C*
sed -i 's/"-O3"/"-O1"/' "$folder/tree/setup.py"
cd "$folder/tree"
CFLAGS="$flags" CXXFLAGS="$flags" LDFLAGS="-fsanitize=address,undefined" IFAN_NO_CUDA=1 \
    "$python" setup.py --quiet build_ext --inplace

echo "== run"
# Python and torch keep memory until the end: leaks aren't looked for. Both take large blocks and free them in other
# libraries, which isn't a mismatch of ours.
export LD_PRELOAD="$runtime $("$compiler" -print-file-name=libstdc++.so.6)"
export ASAN_OPTIONS=detect_leaks=0:alloc_dealloc_mismatch=0:allocator_may_return_null=1:halt_on_error=1
export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
export PYTHONPATH=$PWD PYTHONMALLOC=malloc OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}
"$python" - <<'PY'
from ifan_plugin.ops import _library
reason = _library.load()["cpu"]
if reason:
    raise SystemExit(f"sanitize_cpu: the operator isn't loaded: {reason}")
PY
"$python" -m pytest -q -p no:cacheprovider -m "slow or not slow" tests/reliability/test_operator.py \
    tests/ops/test_compiled.py tests/ops/test_iac.py
echo "sanitize_cpu: nothing found"
