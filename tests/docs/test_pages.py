"""README and the pages of docs/: length, links, charts, the drawing of the folders, and addresses elsewhere."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from helpers import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    from pip._vendor import tomli as tomllib

DOCS = ROOT / "docs"
TOP = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")]
PAGES = [*TOP, *sorted(DOCS.rglob("*.md"))]
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
ADDRESS = re.compile(r"https?://[^\s)>\]`'\"]+")


def prose(page: Path) -> str:
    """The page without its blocks of code."""
    return re.sub(r"^( *)```.*?^\1```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)


def anchors(page: Path) -> set[str]:
    found = re.findall(r"^#+ (.+)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in found}


def test_every_page_is_in_the_sites_contents():
    """What the slow test of the site would say minutes later, in the suite that everybody runs."""
    listed = set(re.findall(r"[\w/]+\.md$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.M))
    made_as_it_builds = {"commands.md"}
    assert listed - made_as_it_builds == {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}


def test_the_readme_is_short():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 90
    assert text.count("<!-- quickstart table -->") == text.count("<!-- end -->") == 1


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for link in LINK.findall(prose(page)):
        if urlsplit(link).scheme:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link}: nothing is there"
        if page.is_relative_to(DOCS):
            assert target.is_relative_to(DOCS), f"{link}: leaves the site"
        assert not anchor or anchor in anchors(target), f"{link}: no such heading"


def test_addresses_elsewhere_are_well_formed_and_in_one_list():
    listed = set(ADDRESS.findall((DOCS / "links.md").read_text(encoding="utf-8")))
    for address in listed:
        parts = urlsplit(address)
        assert parts.hostname, address
        assert "." in parts.hostname, address
    used = {address.rstrip(".,;") for page in PAGES for address in ADDRESS.findall(prose(page))}
    assert {one for one in used if urlsplit(one).hostname not in ("127.0.0.1", "localhost")} == listed


def test_the_charts_are_those_of_the_committed_figures(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    drawn = importlib.import_module("draw_charts").charts()
    assert sorted(drawn) == sorted(path.name for path in (DOCS / "charts").iterdir())
    for name, text in drawn.items():
        assert (DOCS / "charts" / name).read_text(encoding="utf-8") == text, "run: python scripts/draw_charts.py"
        assert name in (DOCS / "performance.md").read_text(encoding="utf-8")


def test_the_drawing_and_the_table_of_folders_are_the_packages():
    layers = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"][
        0
    ]
    floors = [re.findall(r"[a-z]+", layer) for layer in layers["layers"][1:]]
    drawn = re.findall(r'class="b" x="24"[^>]*>([^<]+)<', (DOCS / "figures" / "design.svg").read_text(encoding="utf-8"))
    assert [re.findall(r"[a-z]+", line) for line in drawn] == floors
    table = re.findall(r"^\| `([a-z]+)/` \|", (DOCS / "design.md").read_text(encoding="utf-8"), re.M)
    assert sorted(table) == sorted({name for floor in floors for name in floor} - {"spandrel"})


def test_the_citation_is_of_this_version():
    from ifan_plugin import __version__

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__
    assert citation["license"] == "Apache-2.0"
    assert citation["preferred-citation"]["year"] == 2021


def test_the_python_reference_has_all_that_is_public():
    public = (DOCS / "public.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(ifan_plugin[\w.]*)` \| (.*) \|$", public, re.M)
    reference = re.findall(r"^::: ([\w.]+)$", (DOCS / "api.md").read_text(encoding="utf-8"), re.M)
    shown = {name.rpartition(".")[2] for name in reference}
    wanted = {name for module, names in rows for name in re.findall(r"`(\w+)`", names) if module not in reference}
    assert len(rows) == 8
    assert wanted - shown == {"register", "__version__"}, "these stand in the page's first lines"
