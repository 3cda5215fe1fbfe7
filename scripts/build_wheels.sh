#!/usr/bin/env bash
# Build the wheels that a release carries: dist/cpu (abi3, manylinux) and, where nvcc is, dist/cu13 (with the CUDA operator).
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    echo "usage: ./scripts/build_wheels.sh [cpu] [cuda]      (default: cpu, and cuda where nvcc is)"
    sed -n '2s/^# //p' scripts/build_wheels.sh
    echo "Each is repaired for manylinux with libtorch and the CUDA runtime left out (torch brings them), and checked:"
    echo "the newest glibc symbol, torch's stable ABI with torch 2.10 as the oldest."
    echo "examples:"
    echo "  ./scripts/build_wheels.sh"
    echo "  ./scripts/build_wheels.sh cpu"
    echo "  MAX_JOBS=8 CUDA_HOME=/usr/local/cuda ./scripts/build_wheels.sh cuda"
}

kinds=()
for argument in "$@"; do
    case "$argument" in
        -h | --help) usage && exit 0 ;;
        cpu | cuda) kinds+=("$argument") ;;
        *) echo "build_wheels: unknown argument '$argument'; valid: cpu, cuda, --help" >&2 && exit 2 ;;
    esac
done
if [ ${#kinds[@]} -eq 0 ]; then
    kinds=(cpu)
    if command -v nvcc >/dev/null; then kinds+=(cuda); else echo "build_wheels: no nvcc: no CUDA wheel"; fi
fi

source scripts/setup_env.sh
unset IFAN_NO_EXT IFAN_NO_CUDA

# Turing to Blackwell; PTX of the newest, so that later GPUs compile it for themselves.
architectures="7.5;8.0;8.6;8.9;9.0;10.0;12.0+PTX"
newest_glibc=2.34

for kind in "${kinds[@]}"; do
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    rm -rf build
    if [ "$kind" = cpu ]; then
        folder=dist/cpu
        settings=(IFAN_NO_CUDA=1)
    else
        folder=dist/cu$(nvcc --version | sed -n 's/.*release \([0-9]*\)\..*/\1/p')
        settings=(FORCE_CUDA=1 "TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-$architectures}")
        echo "build_wheels: compiling for GPUs $architectures takes several minutes a core"
    fi
    echo "== $kind"
    env "${settings[@]}" python -m pip --disable-pip-version-check wheel --quiet --no-deps --no-build-isolation --wheel-dir "$work" .
    rm -rf "$folder"
    python -m auditwheel repair --exclude 'libtorch*' --exclude 'libc10*' --exclude 'libcuda*' --exclude 'libcudart*' \
        --wheel-dir "$folder" "$work"/ifan_plugin-*.whl
    python scripts/check_wheel.py --newest-glibc "$newest_glibc" "$folder"/ifan_plugin-*.whl
    rm -rf "$work" build
    trap - EXIT
done
ls -l dist/*/*.whl
