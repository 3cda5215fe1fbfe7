#!/usr/bin/env bash
# Set up, build, lint, test. Without arguments the default tests; --all runs the slow ones too; others go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "${1:-}" = "-h" ] || [ "${1:-}" = "--help" ]; then
    echo "usage: ./scripts/test.sh [--all | PYTEST ARGUMENTS]"
    sed -n '2s/^# //p' "$0"
    echo "examples:"
    echo "  ./scripts/test.sh"
    echo "  ./scripts/test.sh --all"
    echo "  ./scripts/test.sh tests/ops -k gradcheck"
    exit 0
fi

source scripts/setup_env.sh

echo "== build"
rm -rf build dist
python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir dist .
ls dist
# tests/packaging try this wheel away from the checkout.
IFAN_TEST_WHEEL=$(ls "$PWD"/dist/ifan_plugin-*-abi3-*.whl 2>/dev/null || true)
export IFAN_TEST_WHEEL

echo "== lint"
ruff check .
ruff format --check .
find ifan_plugin/ops/csrc tests/ops -name '*.[ch]pp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' |
    xargs clang-format --dry-run --Werror
lint-imports --no-logo
mypy

echo "== test"
# The slow tests train and measure, each with all cores; of the default ones as many folders run at once as there are
# cores, with a thread each: threads that wait for one another spin, and two such runs would slow each other down.
marks="not slow"
jobs=$(python -c 'from ifan_plugin.common.machine import usable_cores; print(min(usable_cores(), 4))')
if [ "${1:-}" = "--all" ]; then
    shift
    # MMagic in an environment of its own, beside .venv; without it its tests skip themselves and say so.
    ./scripts/mmagic_env.sh || echo "test.sh: MMagic's environment couldn't be made; its tests will be skipped"
    marks="slow or not slow"
    jobs=1
fi
if [ $# -gt 0 ]; then
    exec python -m pytest -m "$marks" "$@"
fi
[ "$jobs" -eq 1 ] || export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

# Each folder in a process of its own: what crashes in compiled code is named and the rest still runs, and nothing that
# one leaves behind in its process reaches another. Several at once are told in a line each; what failed, in full.
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
run_part() {
    local log="$logs/${1//\//_}" status=0
    if [ "$jobs" -eq 1 ]; then
        python -m pytest -m "$marks" "$1" || status=$?
    else
        python -m pytest -m "$marks" "$1" >"$log.log" 2>&1 || status=$?
        echo "$1: $(tail -n 1 "$log.log" | sed 's/^=* *//; s/ *=*$//')"
    fi
    [ $status -eq 0 ] || [ $status -eq 5 ] || echo "$1 (exit $status)" >"$log.failed" # 5: all of them are slow ones
}
export -f run_part
export jobs logs marks
for part in tests/test_*.py "tests/"*/; do
    [ -z "$(find "$part" -name 'test_*.py' -print -quit)" ] || printf '%s\0' "${part%/}"
done | xargs -0 -n 1 -P "$jobs" bash -c 'run_part "$1"' run_part

if [ "$jobs" -gt 1 ]; then
    echo "== skipped, and why"
    cat "$logs"/*.log | grep '^SKIPPED' | sort -u || echo "nothing"
fi
failed=()
for mark in "$logs"/*.failed; do
    [ -e "$mark" ] || continue
    failed+=("$(cat "$mark")")
    if [ "$jobs" -gt 1 ]; then
        echo "== failed: $(cat "$mark")"
        cat "${mark%.failed}.log"
    fi
done
if [ ${#failed[@]} -gt 0 ]; then
    printf 'test.sh: failed: %s\n' "${failed[@]}"
    exit 1
fi
echo "test.sh: all tests passed"
