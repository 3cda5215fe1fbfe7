"""What pyproject.toml, constraints.txt and the README promise, held against one another."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from helpers import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    from pip._vendor import tomli as tomllib

PYTHONS = ("3.10", "3.11", "3.12", "3.13")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PROJECT["project"]["optional-dependencies"]
PINS = [Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]


def pins(python: str) -> dict[str, str]:
    """Name -> version for one Python, each pinned once."""
    environment = {"python_version": python, "python_full_version": f"{python}.1"}
    found: dict[str, str] = {}
    for pin in PINS:
        if pin.marker is None or pin.marker.evaluate(environment):
            name = canonicalize_name(pin.name)
            (specifier,) = pin.specifier
            assert specifier.operator == "==", pin
            assert name not in found, f"{name} is pinned twice for Python {python}"
            found[name] = specifier.version
    return found


def wanted(python: str) -> list[Requirement]:
    """All that set-up asks for by name."""
    requirements = [*PROJECT["project"]["dependencies"], *PROJECT["build-system"]["requires"]]
    requirements += [one for extra in EXTRAS.values() for one in extra if not one.startswith("ifan_plugin")]
    requirements += ["pip", "setuptools", "wheel", "ninja", "cython"]
    parsed = map(Requirement, requirements)
    return [one for one in parsed if one.marker is None or one.marker.evaluate({"python_version": python, "extra": ""})]


@pytest.mark.parametrize("python", PYTHONS)
def test_everything_is_pinned_for_every_python_to_what_the_metadata_allows(python):
    found = pins(python)
    for requirement in wanted(python):
        name = canonicalize_name(requirement.name)
        assert name in found, f"constraints.txt has no {requirement.name} for Python {python}"
        assert requirement.specifier.contains(found[name], prereleases=True), (requirement, found[name])


@pytest.mark.slow
def test_this_environment_is_the_pinned_one_or_says_where_it_differs():
    """Set-up installed nothing that the constraints don't name."""
    if Path(sys.prefix, "ifan_stamp").is_file() is False:
        pytest.skip("this environment wasn't made by scripts/setup_env.sh")
    import importlib.metadata as metadata

    found = pins(f"{sys.version_info.major}.{sys.version_info.minor}")
    # Of the environment's own folder: setuptools puts its vendored copies on the path once it is imported.
    installed = metadata.distributions(path=[sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    names = {canonicalize_name(one.metadata["Name"]) for one in installed}
    unpinned = names - set(found) - {"ifan-plugin"}
    assert not unpinned, f"installed but not in constraints.txt: {sorted(unpinned)}"


def test_the_floors_and_pythons_are_said_alike():
    project = PROJECT["project"]
    floor = next(one for one in project["dependencies"] if one.startswith("torch>"))
    assert floor == "torch>=2.10"
    assert floor in PROJECT["build-system"]["requires"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "torch 2.10 or later" in readme
    assert "torch >= 2.6, Python" not in readme
    classifiers = [one.rsplit(" ", 1)[1] for one in project["classifiers"] if re.search(r":: 3\.\d+$", one)]
    assert tuple(classifiers) == PYTHONS
    assert project["requires-python"] == f">={PYTHONS[0]}"


def test_every_extra_stands_in_the_table_of_the_installation():
    page = (ROOT / "docs" / "start" / "install.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z]+)` \|", page.partition("## Extras")[2], re.M)
    assert sorted(rows) == sorted(EXTRAS)


def test_the_readme_of_the_metadata_has_no_relative_link():
    """With and without the place where the project is published."""
    code = (
        "import setuptools, sys\n"
        "setuptools.setup = lambda **given: sys.stdout.write(given['long_description'])\n"
        "__file__ = 'setup.py'\n"
        "exec(compile(open('setup.py').read(), 'setup.py', 'exec'))\n"
    )
    for home in ("", "https://example.org/ifan_plugin"):
        environment = {**os.environ, "IFAN_NO_EXT": "1", "IFAN_PROJECT_URL": home}
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        links = re.findall(r"\]\(([^)\s]+)\)", done.stdout)
        assert not [link for link in links if not link.startswith(("https://", "http://", "#"))]
        assert (f"]({home}/raw/HEAD/docs/real.jpg)" in done.stdout) == bool(home)
        assert "![" in done.stdout or not home
