"""The shell and Python blocks of README and the guides, run on small data; what they show is what they print."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from doc_examples import PAGES, Block, blocks, write_command, write_data
from helpers import ROOT, python_path

BY_PAGE = {str(page.relative_to(ROOT)): blocks(page) for page in PAGES}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the blocks run, with the data that they name."""
    folder = tmp_path_factory.mktemp("examples")
    (folder / "bin").mkdir()
    write_data(folder)
    write_command(folder / "bin")
    (folder / "options").symlink_to(ROOT / "options")
    return folder


def run(block: Block, folder: Path) -> subprocess.CompletedProcess:
    """Run a block as a reader does, in a process of its own."""
    path = os.pathsep.join([str(folder / "bin"), os.environ["PATH"]])
    environment = {**os.environ, "PYTHONPATH": python_path(), "OMP_NUM_THREADS": "1", "PATH": path}
    command = [sys.executable, "-c", block.code] if block.language == "python" else ["bash", "-euc", block.code]
    return subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300, check=False
    )  # fmt: skip


def is_shown(shown: str, printed: str) -> bool:
    """Whether a page shows what was printed; ``...`` stands for anything, and white space is of any kind."""
    parts = [re.escape(" ".join(part.split())) for part in shown.split("...")]
    return re.fullmatch(".*".join(parts), " ".join(printed.split()), re.S) is not None


@pytest.mark.parametrize(
    ("shown", "same"),
    [
        ("a\nb\n", True), ("...\nb\n", True), ("a\n...\n", True), ("a b\n...", True), ("a\n", False), ("...\na\n", False),
        ("...a...b...", True), ("...b...a...", False),
    ],
)  # fmt: skip
def test_what_counts_as_shown(shown, same):
    assert is_shown(shown, "a\nb\n") == same


@pytest.mark.parametrize("page", BY_PAGE)
def test_what_is_not_run_says_why(page):
    for block in BY_PAGE[page]:
        assert block.not_run is None or len(block.not_run.split()) >= 2, block.name


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page, found in BY_PAGE.items() if any(not one.not_run for one in found)])
def test_the_blocks_of_a_page_run_and_print_what_is_shown(page, folder):
    if "export" in page:
        pytest.importorskip("onnxruntime", reason="onnxruntime isn't installed (pip install ifan_plugin[onnx])")
    for block in BY_PAGE[page]:
        if block.not_run:
            continue
        done = run(block, folder)
        assert done.returncode == 0, f"{block.name}:\n{done.stdout}"
        if block.shown is not None:
            assert is_shown(block.shown, done.stdout), f"{block.name} shows\n{block.shown}\nand prints\n{done.stdout}"


def test_every_guide_has_a_block_that_runs():
    guides = [page for page in BY_PAGE if page.startswith("docs/guides/")]
    assert len(guides) > 8
    without = [page for page in guides if all(one.not_run for one in BY_PAGE[page])]
    assert without == ["docs/guides/mmengine.md", "docs/guides/several_gpus.md"], "these have tests of their own"
