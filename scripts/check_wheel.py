"""Check a built wheel: its compiled operator's ABI, the glibc it needs, what it carries."""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

OLDEST_TORCH = (2, 10)


def main() -> int:
    """Returns 0, or 1 with one line a fault."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example:\n  python scripts/check_wheel.py dist/cpu/*.whl",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("wheel", type=Path, nargs="+")
    parser.add_argument("--newest-glibc", default="2.34", metavar="VERSION", help="newest symbol (default: 2.34)")
    arguments = parser.parse_args()
    faults = []
    for wheel in arguments.wheel:
        found = check(wheel, numbers(arguments.newest_glibc))
        sys.stdout.write(f"{wheel.name}: {'; '.join(found) if found else 'as it should be'}\n")
        faults += found
    return 1 if faults else 0


def check(wheel: Path, newest_glibc: tuple[int, ...]) -> list[str]:
    """What is wrong with a wheel."""
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
        names = archive.namelist()
        libraries = sorted(Path(folder).rglob("*.so*"))
        faults = [f"no {name}" for name in missing(names)]
        if not any(library.name == "_C.abi3.so" for library in libraries):
            faults.append("no compiled operator (ifan_plugin/_C.abi3.so)")
        faults += [f"carries {one.name}" for one in libraries if one.parent.name != "ifan_plugin"]
        if "-abi3-" not in wheel.name:
            faults.append("its tag isn't abi3")
        for library in libraries:
            faults += [f"{library.name}: {fault}" for fault in check_library(library, newest_glibc)]
    return faults


def missing(names: list[str]) -> list[str]:
    needed = ("recipes/train_IFAN_DPDD.yml", "recipes/mm/ifan_dpdd.py", "install_basicsr/build_path/sitecustomize.py")
    needed = (*needed, "py.typed", "benchmark/page.html", "benchmark/published.json")
    return [name for name in needed if f"ifan_plugin/{name}" not in names]


def check_library(library: Path, newest_glibc: tuple[int, ...]) -> list[str]:
    """ABI of torch, and the newest versioned symbol of glibc, as the dynamic linker sees it."""
    shown = subprocess.run(["objdump", "-T", str(library)], capture_output=True, text=True, check=True).stdout
    glibc = max((numbers(version) for version in re.findall(r"\(GLIBC_([\d.]+)\)", shown)), default=(0,))
    faults = [f"needs glibc {'.'.join(map(str, glibc))}"] if glibc > newest_glibc else []
    command = Path(sys.executable).parent / "torch-abi-audit"
    if not command.is_file():
        sys.stderr.write("check_wheel: torch-abi-audit isn't installed (it needs Python 3.11): the ABI isn't checked\n")
        return faults
    audit = subprocess.run([command, "--json", str(library)], capture_output=True, text=True, check=True).stdout
    found = json.loads(audit)
    (one,) = [*found["extensions"], *found["bundled_libs"]]
    if not (one["torch"]["uses_torch"] and one["torch"]["stable"]):
        faults.append(f"not torch's stable ABI: {', '.join(one['torch']['unstable_symbols'][:3]) or 'no torch at all'}")
    oldest = one["torch"]["min_torch_version"] or "unknown"
    if numbers(oldest)[:2] != OLDEST_TORCH:
        faults.append(f"runs from torch {oldest} on, not from {'.'.join(map(str, OLDEST_TORCH))}")
    return faults


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(one) for one in re.findall(r"\d+", version))


if __name__ == "__main__":
    sys.exit(main())
