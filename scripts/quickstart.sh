#!/usr/bin/env bash
# The main job in one command: make data, restore it with the network that ships with the package, train a small IFAN of
# one's own in BasicSR's loop, test it on scenes it never saw.
# Needs Python and the package registry; uses a GPU if there is one. About ten minutes on 2 CPU cores, install included.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "${1:-}" = "-h" ] || [ "${1:-}" = "--help" ]; then
    sed -n '2,5s/^# //p' "$0"
    echo "usage: ./scripts/quickstart.sh      results go to results/IFAN_quickstart/"
    exit 0
fi

step() { printf '\n== %s (%dm%02ds so far)\n' "$1" $((SECONDS / 60)) $((SECONDS % 60)); }

step "1/5 Setting up"
source scripts/setup_env.sh

step "2/5 Simulating a small dual-pixel data set"
if [ -d datasets/quickstart/test_c ]; then
    echo "datasets/quickstart is there already"
else
    basicsr simulate --preset quickstart --save-coc --out datasets/quickstart
fi

step "3/5 Restoring the test pictures with the network that ships with the package"
basicsr deblur datasets/quickstart/test_c/source --out results/ifan_small --compare --save-disparity --overwrite

step "4/5 Training a small IFAN (each line shows the time left as eta)"
basicsr train -opt options/train_IFAN_quickstart.yml 2>&1 | python -u scripts/only_progress.py

step "5/5 Testing on scenes it never saw"
basicsr test -opt options/test/test_IFAN_quickstart.yml 2>&1 | python -u scripts/only_progress.py

step "Done"
echo "Look at results/ifan_small: what the shipped network makes of the test pictures, side by side with them"
echo "and at results/IFAN_quickstart/quickstart_test/contact_sheet.png"
