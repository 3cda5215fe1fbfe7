"""The blocks of README.md and the guides, and the small data that they run on."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from helpers import ROOT, write_dpdd

PAGES = [
    ROOT / "README.md",
    *sorted(path for folder in ("start", "guides") for path in (ROOT / "docs" / folder).glob("*.md")),
]
"""All whose blocks are run. docs/plugin.md has a test of its own, tests/test_docs_plugin.py."""

NOT_RUN = re.compile(r"<!-- not run: (.*?) -->\s*$", re.S)
BLOCK = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", re.S | re.M)

SMALL = {
    "datasets:train": {
        "patch_size": 32,
        "batch_size_per_gpu": 2,
        "num_worker_per_gpu": 0,
        "persistent_workers": "false",
    },
    "network_g": {"width": 4, "num_steps": 2, "res_units": 1},
    "network_r": {"num_steps": 2},
    "train": {"total_iter": 4},
    "val": {"val_freq": 4},
    "logger": {"print_freq": 1, "save_checkpoint_freq": 2, "use_tb_logger": "false"},
}
"""What training is given beside what a block says, so that it ends in seconds: part of an option file -> values."""

COMMAND = '''#!{python}
"""`basicsr` of this tree; training is made small."""
import sys
from ifan_plugin.cli import main
arguments, small = sys.argv[1:], {small!r}
if arguments[:1] == ["train"] and "--help" not in arguments:
    if "--force_yml" not in arguments:
        arguments.append("--force_yml")
    place = arguments.index("--force_yml") + 1
    arguments[place:place] = small  # before those of the block, which win
if __name__ == "__main__":  # its worker processes import this file
    sys.exit(main(arguments))
'''


@dataclass(frozen=True)
class Block:
    """A fenced block. ``shown`` is the text of the block behind it, if that is ``text``: what it prints."""

    page: Path
    number: int
    language: str
    code: str
    not_run: str | None
    shown: str | None

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.number}"


def blocks(page: Path) -> list[Block]:
    """A page's shell and Python blocks, in order."""
    text = page.read_text(encoding="utf-8")
    found = list(BLOCK.finditer(text))
    result = []
    for number, one in enumerate(found):
        if one[2] not in ("bash", "python"):
            continue
        behind = found[number + 1] if number + 1 < len(found) else None
        shown = behind if behind and behind[2] == "text" and not text[one.end() : behind.start()].strip() else None
        marked = NOT_RUN.search(text[: one.start()].rstrip() + "\n")
        line = text.count("\n", 0, one.start()) + 1
        result.append(Block(page, line, one[2], _dedented(one), marked[1] if marked else None, _dedented(shown)))
    return result


def _dedented(block: re.Match | None) -> str | None:
    return block and re.sub(rf"^{block[1]}", "", block[3], flags=re.M)


def write_data(folder: Path) -> None:
    """What the blocks name: DPDD, photographs, depth, checkpoints; each as small as the commands allow."""
    from ifan_plugin.archs import IFAN
    from ifan_plugin.weights.official import to_official

    write_dpdd(folder / "datasets" / "DPDD", {"train": 3, "val": 1, "test": 2}, height=48, width=64)
    rng = np.random.default_rng(1)
    for name in (
        "photos/IMG_0001.jpg",
        "photos/IMG_0002.jpg",
        "photo.jpg",
        "photographs/one.png",
        "photographs/two.png",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        picture = cv2.resize(rng.integers(0, 256, (8, 12, 3), np.uint8), (96, 64), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / name), picture)
    for split in ("train", "val"):
        for role in ("sharp", "depth"):
            (folder / "datasets" / "RGBD" / split / role).mkdir(parents=True)
        for number in range(2):
            there = folder / "datasets" / "RGBD" / split
            picture = cv2.resize(rng.integers(0, 256, (9, 12, 3), np.uint8), (96, 72), interpolation=cv2.INTER_CUBIC)
            cv2.imwrite(str(there / "sharp" / f"{number}.png"), picture)
            depth = cv2.resize(rng.uniform(1, 4, (3, 4)), (96, 72)).astype(np.float32)
            np.save(there / "depth" / f"{number}.npy", depth)
    (folder / "weights").mkdir()
    for name, dual in (("IFAN", False), ("IFAN_dual", True)):
        torch.manual_seed(0)
        network = IFAN(width=4, num_steps=2, res_units=1, dual_pixel=dual, isotropic=True)
        torch.save(to_official(network.state_dict()), folder / "weights" / f"{name}.pytorch")


def write_command(folder: Path) -> None:
    """The command ``basicsr`` as the blocks call it."""
    small = [f"{part}:{key}={value}" for part, values in SMALL.items() for key, value in values.items()]
    path = folder / "basicsr"
    path.write_text(COMMAND.format(python=sys.executable, small=small))
    path.chmod(0o755)
