#!/usr/bin/env bash
# Set up and run the default tests on every supported Python with the newest torch, and on 3.11 with the oldest torch.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    echo "usage: ./scripts/matrix.sh [--tests PATHS] [--again] [ROW …]"
    sed -n '2s/^# //p' scripts/matrix.sh
    echo "One environment at a time, made in FOLDER/ROW and removed afterwards; a row that passed on this commit isn't run"
    echo "again. docs/matrix.json keeps the rows, docs/matrix.md shows them. A row takes a download of some 3 GB and the tests."
    echo "  ROW            3.10, 3.11, 3.12, 3.13, or 3.11-torch2.10 (default: all of them)"
    echo "  --tests PATHS  run these tests and not the default ones; the table isn't written"
    echo "  --again        run rows that have passed, too"
    echo "environment: PYTHON3_10 … PYTHON3_13 (interpreters; default python3.10 … on the PATH or below ~/.pyenv),"
    echo "             MATRIX_FOLDER (default /tmp/ifan_matrix)"
    echo "examples:"
    echo "  ./scripts/matrix.sh"
    echo "  ./scripts/matrix.sh 3.13 3.11-torch2.10"
    echo "  ./scripts/matrix.sh --tests 'tests/ops tests/archs' 3.10"
}

fail() { echo "matrix: $1" >&2 && exit 2; }

all=(3.10 3.11 3.12 3.13 3.11-torch2.10)
rows=() tests="" again=""
while [ $# -gt 0 ]; do
    case "$1" in
        -h | --help) usage && exit 0 ;;
        --tests) [ -n "${2:-}" ] || fail "--tests needs paths" ; tests=$2 ; shift ;;
        --again) again=1 ;;
        -*) fail "unknown flag '$1'; valid: --tests, --again, --help" ;;
        *) [[ " ${all[*]} " == *" $1 "* ]] || fail "unknown row '$1'; valid: ${all[*]}" ; rows+=("$1") ;;
    esac
    shift
done
[ ${#rows[@]} -gt 0 ] || rows=("${all[@]}")

interpreter() {
    local variable="PYTHON3_${1#3.}"
    local found=${!variable:-}
    [ -n "$found" ] || found=$(ls -d "$HOME"/.pyenv/versions/"$1".*/bin/python 2>/dev/null | tail -1 || true)
    [ -n "$found" ] || found=$(command -v "python$1" || true)
    [ -n "$found" ] || fail "no Python $1; set $variable"
    echo "$found"
}

folder=${MATRIX_FOLDER:-/tmp/ifan_matrix}
mkdir -p "$folder"
failed=()
for row in "${rows[@]}"; do
    python=$(interpreter "${row%%-*}")
    if [ -z "$tests$again" ] && "$python" scripts/matrix_table.py has "$row" "$(git rev-parse HEAD)"; then
        echo "== $row: passed on this commit already (docs/matrix.json)"
        continue
    fi
    echo "== $row ($python)"
    place=$folder/$row
    rm -rf "$place"
    # A clone, so that nothing that lies about in the checkout helps; the commit is what the table names.
    git clone --quiet . "$place/tree"
    cd "$place/tree"
    constraints=$place/constraints.txt
    if [ "$row" = 3.11-torch2.10 ]; then
        # torch and what it pins itself are free, within this version.
        grep -vE '^((torch|torchvision|triton)==|nvidia-|cuda-)' constraints.txt > "$constraints"
        printf 'torch==2.10.*\ntorchvision==0.25.*\n' >> "$constraints"
    else
        cp constraints.txt "$constraints"
    fi
    started=$SECONDS status=0
    (
        export PYTHON=$python IFAN_VENV=$place/venv IFAN_CONSTRAINTS=$constraints OMP_NUM_THREADS=1
        source scripts/setup_env.sh
        if [ "$row" = 3.11-torch2.10 ] && [ -n "${MATRIX_WHEEL:-}" ]; then
            # The wheel that the newest torch built, in place of the editable install: the ABI's promise.
            echo "matrix: the wheel $MATRIX_WHEEL"
            unzip -qjo "$MATRIX_WHEEL" 'ifan_plugin/_C.abi3.so' -d ifan_plugin
        fi
        # shellcheck disable=SC2086
        nice python -m pytest -q -p no:cacheprovider --junit-xml "$place/junit.xml" $tests
    ) > "$place/log.txt" 2>&1 || status=$?
    tail -5 "$place/log.txt"
    cd - > /dev/null
    if [ -z "$tests" ]; then
        "$place/venv/bin/python" "$place/tree/scripts/matrix_table.py" add "$row" --folder docs --junit "$place/junit.xml" \
            --commit "$(git rev-parse HEAD)" --seconds $((SECONDS - started)) || status=1
    fi
    [ "$status" = 0 ] || failed+=("$row")
    cp "$place/log.txt" "$folder/$row.log"
    rm -rf "$place"
    echo "matrix: $row ended with status $status; its log: $folder/$row.log"
done
[ ${#failed[@]} -eq 0 ] || { echo "matrix: failed: ${failed[*]}" >&2 && exit 1; }
