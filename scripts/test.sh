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
if [ "${1:-}" = "--all" ]; then
    shift
    # MMagic in an environment of its own, beside .venv; without it its tests skip themselves and say so.
    ./scripts/mmagic_env.sh || echo "test.sh: MMagic's environment couldn't be made; its tests will be skipped"
    exec python -m pytest -m "slow or not slow" "$@"
fi
exec python -m pytest "$@"
