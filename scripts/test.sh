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
marks=()
if [ "${1:-}" = "--all" ]; then
    shift
    # MMagic in an environment of its own, beside .venv; without it its tests skip themselves and say so.
    ./scripts/mmagic_env.sh || echo "test.sh: MMagic's environment couldn't be made; its tests will be skipped"
    marks=(-m "slow or not slow")
fi
if [ $# -gt 0 ]; then
    exec python -m pytest "${marks[@]}" "$@"
fi

# Each folder in a process of its own: what crashes in compiled code is named and the rest still runs, and nothing that
# one leaves behind in its process reaches another.
failed=()
for part in tests/test_*.py "tests/"*/; do
    find "$part" -name 'test_*.py' | grep -q . || continue
    status=0
    python -m pytest "${marks[@]}" "$part" || status=$?
    [ $status -eq 0 ] || [ $status -eq 5 ] || failed+=("$part (exit $status)")  # 5: all of them are slow ones
done
if [ ${#failed[@]} -gt 0 ]; then
    printf 'test.sh: failed: %s\n' "${failed[@]}"
    exit 1
fi
echo "test.sh: all tests passed"
