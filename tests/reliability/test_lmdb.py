"""Databases whose lists or data are damaged: `verify`, reading and `create` refuse them in one line a fault."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import write_lmdb
from reliability.attack import NASTY_NAMES, attack
from reliability.test_checkpoints import flipped

from ifan_plugin.common.errors import UserError
from ifan_plugin.data.lmdb.create import create
from ifan_plugin.data.lmdb.read import LmdbPictures
from ifan_plugin.data.lmdb.verify import verify
from ifan_plugin.images.image_io import write_image

JSONS = [
    "", "[]", "{}", "null", "3", '"x"', "[" * 30000, '{"a": ' * 30000, "9" * 6000, '{"count": ' + "9" * 6000 + "}", "NaN", "\ufeff{}",
    '{"encoding": ["png"]}', '{"encoding": "raw", "bit_depth": 16, "count": 3}', '{"bit_depth": 8.0}', '{"count": true}', '{"count": -3}',
    '{"count": 3, "patch": 7, "layout": [], "split": {}, "role": null, "quarter_turns": 1000000000000000}', '{"x": 1}',
]  # fmt: skip
LINES = [
    "", "\n", "a.png (8,8,3) 1\n", "a.png (8,8,1) 1\n", "a.png (999999999,999999999,3) 1\n", "a.png (0,0,3) 1\n", "a.png (-1,8,3) 1\n",
    "a.png (" + "9" * 6000 + ",8,3) 1\n", "a (8,8,3)\n", "a.png (8,8,3) 1\n" * 2, "\0.png (8,8,3) 1\n", "x" * 600 + ".png (8,8,3) 1\n", "../x.png (8,8,3) 1\n",
    *(f"{name}.png (8,8,3) 1\n" for name in NASTY_NAMES if "\udcff" not in name),
]  # fmt: skip


def case(root: Path, rng: random.Random) -> Callable[[], str]:
    kind = rng.choice(["png", "raw", "made"])
    folder = root / "attack.lmdb"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(root / kind / "train" / "center.lmdb", folder)
    name = rng.choice(["info.json", "meta_info.txt", "data.mdb", "checksums.txt", "plan.json", "lock.mdb"])
    path, how = folder / name, rng.randrange(8)
    if how == 0:
        path.unlink(missing_ok=True)
    elif how == 1 and name != "data.mdb":
        path.unlink(missing_ok=True)
        path.mkdir()
    elif how < 5 and name.endswith((".json", ".txt")):
        path.write_text(rng.choice(JSONS if name.endswith(".json") else LINES), encoding="utf-8")
    elif name == "data.mdb":  # LMDB trusts its pages, see below: here they are cut, or not a database at all
        data = path.read_bytes()
        path.write_bytes(rng.choice([b"", data[: rng.randrange(len(data))], rng.randbytes(200), b"text" * 5000]))
    elif path.exists():
        path.write_bytes(flipped(path.read_bytes(), rng))

    def check() -> str:
        return "\n".join(map(str, verify([folder], workers=1)))

    def read() -> None:
        pictures = LmdbPictures(folder)
        try:
            for key in [entry.key for entry in pictures.entries][:20]:
                pictures.read(key)
        finally:
            pictures.close()

    def make_again() -> str:
        place = root / "again" / "train"
        shutil.rmtree(place.parent, ignore_errors=True)
        place.mkdir(parents=True)
        shutil.copytree(folder, place / rng.choice(["center.lmdb", "left.lmdb", ".center.lmdb.partial"]))
        folders = {"center": root / "pictures"}
        return str(create(place.parent, layout="folders", folders=folders, workers=1, overwrite=rng.random() < 0.3))

    return rng.choice([check, read, make_again])


@pytest.mark.slow
def test_two_thousand_databases(tmp_path):
    make(tmp_path)
    faults = attack(lambda rng: case(tmp_path, rng), cases=2000, seconds=90)
    assert not faults, "\n".join(faults)


@pytest.mark.slow
def test_pages_that_lie(tmp_path):
    """LMDB trusts its pages: what is wrong in them may end the process that looks, which is a worker of `verify`."""
    make(tmp_path)
    folder = tmp_path / "attack.lmdb"
    said = []
    for number in range(12):
        rng = random.Random(number)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / "raw" / "train" / "center.lmdb", folder)
        data = bytearray((folder / "data.mdb").read_bytes())
        for _ in range(40):
            data[rng.randrange(8192, len(data))] = rng.randrange(256)
        (folder / "data.mdb").write_bytes(data)
        with contextlib.suppress(UserError):
            said += verify([folder], workers=2)
    assert all(verdict.faults for verdict in said), said


def make(folder: Path) -> None:
    """The whole databases that are damaged then."""
    rng = np.random.default_rng(0)
    for number in range(3):
        write_image(folder / "pictures" / f"{number}.png", rng.random((8, 8, 3)))
    folders = {"center": folder / "pictures"}
    create(folder / "png", layout="folders", folders=folders, workers=1)
    create(folder / "raw", layout="folders", folders=folders, workers=1, encoding="raw")
    pixels = {name: rng.integers(0, 256, (8, 8, 3), np.uint8) for name in ("a", "b", "ü")}
    made = write_lmdb(folder / "made" / "train" / "center.lmdb", pixels)
    (made / "plan.json").write_text(json.dumps(["not", "facts"]))
