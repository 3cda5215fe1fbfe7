"""``python -m ifan_plugin.install_basicsr``: build BasicSR's wheel and install it. Standard library and pip only.

BasicSR 1.4.2 comes as a source distribution alone, and plain pip has trouble with it: its ``setup_requires`` names
torch, so an isolated build downloads torch a second time, a build through the old ``setup.py`` interface fetches torch
and its CUDA packages as eggs, unpinned, and on Python 3.13 its ``setup.py`` fails. Nothing of that is needed: without
``BASICSR_EXT`` the package is pure Python. Here pip builds it through the standard interface (PEP 517) without
isolation, which ignores ``setup_requires``, with setuptools as the one build requirement.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

VERSION = "1.4.2"
BUILD_PATH = Path(__file__).parent / "build_path"
OLDEST_SETUPTOOLS = (70, 1)  # builds wheels without the package `wheel`


class InstallError(Exception):
    """Something that the user can mend; one line."""


def build_parser() -> argparse.ArgumentParser:
    """The parser of ``python -m ifan_plugin.install_basicsr``."""
    parser = argparse.ArgumentParser(
        prog="python -m ifan_plugin.install_basicsr",
        description=f"Build the wheel of BasicSR {VERSION} (seconds) and install it, with what it requires, into this"
        " Python's environment. `basicsr train`, `test` and `benchmark` need it.",
        epilog="examples:\n"
        "  python -m ifan_plugin.install_basicsr\n"
        "  python -m ifan_plugin.install_basicsr --constraint constraints.txt\n"
        "  python -m ifan_plugin.install_basicsr --sdist basicsr-1.4.2.tar.gz --wheel-dir wheels --no-index",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--constraint", metavar="FILE", type=Path, help="pip's constraints for all that is installed")
    parser.add_argument("--sdist", metavar="FILE", type=Path, help=f"basicsr-{VERSION}.tar.gz, if it is here already")
    parser.add_argument("--wheel-dir", metavar="DIR", type=Path, help="write the wheel there and install nothing")
    parser.add_argument("--no-index", action="store_true", help="use no package index (with --sdist)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Build and install. Returns the exit status: 0 done, 2 invalid input (one line), else pip's."""
    arguments = build_parser().parse_args(argv)
    try:
        return _install(arguments)
    except InstallError as error:
        sys.stderr.write(f"install_basicsr: {error}\n")
        return 2
    except subprocess.CalledProcessError as error:  # pip has said why
        sys.stderr.write(f"install_basicsr: pip failed (exit status {error.returncode}); its message stands above\n")
        return error.returncode


def _install(arguments: argparse.Namespace) -> int:
    for path in filter(None, (arguments.constraint, arguments.sdist)):
        if not path.is_file():
            raise InstallError(f"{path}: no such file")
    if arguments.no_index and arguments.sdist is None:
        raise InstallError("--no-index needs --sdist FILE")
    if importlib.util.find_spec("pip") is None:
        raise InstallError(f"{sys.executable} has no pip; `{sys.executable} -m ensurepip` installs it")
    if arguments.wheel_dir is None and (found := _installed("basicsr")) == VERSION:
        sys.stdout.write(f"install_basicsr: BasicSR {found} is installed already\n")
        return 0
    common = ["--no-index"] if arguments.no_index else []
    if arguments.constraint:
        common += ["--constraint", str(arguments.constraint)]
    with tempfile.TemporaryDirectory(prefix="install_basicsr_") as work:
        wheels = arguments.wheel_dir or Path(work) / "wheels"
        path = [str(BUILD_PATH), *_build_tools(Path(work) / "tools", common)]
        _pip(
            ["wheel", "--no-deps", "--no-build-isolation", "--use-pep517", "--wheel-dir", str(wheels), *common],
            [str(arguments.sdist or f"basicsr=={VERSION}")],
            PYTHONPATH=os.pathsep.join(path),
        )
        wheel = wheels / f"basicsr-{VERSION}-py3-none-any.whl"
        if not wheel.is_file():
            raise InstallError(f"{arguments.sdist}: isn't the source distribution of BasicSR {VERSION}")
        if arguments.wheel_dir is None:
            _pip(["install", *common], [str(wheel)])
    return 0


def _build_tools(folder: Path, common: list[str]) -> list[str]:
    """Folders to put on the path so that setuptools can build wheels: none where this environment's own can."""
    version = tuple(int(number) for number in re.findall(r"\d+", _installed("setuptools") or "0")[:2])
    if version >= OLDEST_SETUPTOOLS or (version > (40,) and _installed("wheel")):
        return []
    oldest = ".".join(map(str, OLDEST_SETUPTOOLS))
    _pip(["install", "--quiet", "--target", str(folder), *common], [f"setuptools>={oldest}"])
    return [str(folder)]


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _pip(options: list[str], targets: list[str], **environment: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *options, *targets]
    subprocess.run(command, check=True, env={**os.environ, **environment})
