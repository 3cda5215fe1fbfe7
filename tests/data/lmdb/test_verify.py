"""Databases whose faults are found and named, and whole ones that pass."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import lmdb
import numpy as np
import pytest

from ifan_plugin.common.errors import UserError
from ifan_plugin.data.lmdb import verify as lmdb_verify
from ifan_plugin.data.lmdb.create import create
from ifan_plugin.data.lmdb.verify import verify


@pytest.fixture(params=["png", "raw"])
def databases(dpdd, tmp_path, request) -> Path:
    """Centre view and sharp pictures of three scenes."""
    create(
        tmp_path / "out", layout="dpdd", root=dpdd, splits=["val"], views=["center"], encoding=request.param, workers=1
    )
    return tmp_path / "out"


def change(path: Path, key: str, value: bytes | None) -> None:
    """Put or delete a value behind the lists' back."""
    with lmdb.open(str(path), map_size=2**24) as environment, environment.begin(write=True) as transaction:
        assert transaction.delete(key.encode()) if value is None else transaction.put(key.encode(), value)


def value(path: Path, key: str) -> bytes:
    with lmdb.open(str(path), readonly=True, lock=False) as environment, environment.begin() as transaction:
        return transaction.get(key.encode())


def faults(*paths: Path, workers: int = 1) -> list[str]:
    found = [fault for verdict in verify(paths, workers) for fault in verdict.faults]
    assert all("\n" not in fault for fault in found)
    return found


@pytest.mark.parametrize("workers", [1, 2])
def test_whole_ones_pass(databases, workers):
    verdicts = verify([databases], workers)
    assert [str(verdict.path.relative_to(databases)) for verdict in verdicts] == ["val/center.lmdb", "val/target.lmdb"]
    for verdict in verdicts:
        assert (verdict.pictures, verdict.faults) == (3, [])
        assert "16 bits, 64x48: all well" in str(verdict)


def test_a_changed_picture_differs_from_its_checksum(databases):
    path = databases / "val/center.lmdb"
    changed = bytearray(value(path, "1P0A0003"))
    changed[-40] ^= 1
    change(path, "1P0A0003", bytes(changed))
    assert faults(databases) == [f"{path}: 1P0A0003: differs from its checksum; make the database again"]
    (path / "checksums.txt").unlink()
    if verify([path], 1)[0].about.startswith("png"):
        assert len(faults(path)) == 1  # the PNG's own
    else:
        assert "no checksums to compare" in str(verify([path], 1)[0])


def test_missing_and_extra_keys(databases):
    path = databases / "val/target.lmdb"
    kept = value(path, "1P0A0001")
    change(path, "1P0A0001", None)
    assert "meta_info.txt lists '1P0A0001', but the database has no such key" in faults(path)[0]
    change(path, "1P0A0001", kept)
    assert faults(path) == []
    change(path, "another", kept)
    assert "the database has 'another', meta_info.txt doesn't" in faults(path)[0]


def test_a_truncated_file(databases):
    path = databases / "val/target.lmdb"
    os.truncate(path / "data.mdb", (path / "data.mdb").stat().st_size // 2)
    (fault,) = faults(path)
    assert "data.mdb: is truncated" in fault


def test_lists_that_lie(databases):
    path = databases / "val/center.lmdb"
    text = (path / "meta_info.txt").read_text()
    (path / "meta_info.txt").write_text(text.replace("1P0A0003.png (48,64,3)", "1P0A0003.png (48,60,3)"))
    assert "1P0A0003" in faults(path)[0]
    (path / "meta_info.txt").write_text("".join(text.splitlines(keepends=True)[:2]))
    assert "counts 3 pictures, meta_info.txt has 2" in faults(path)[0]
    (path / "meta_info.txt").write_text(text)
    sums = (path / "checksums.txt").read_text()
    (path / "checksums.txt").write_text(sums.replace("1P0A0003", "1P0A0009"))
    assert "checksums.txt: its keys aren't those of the database" in faults(path)[0]


def test_another_bit_depth_than_said(dpdd, tmp_path):
    create(tmp_path, layout="dpdd", root=dpdd, splits=["val"], views=["center"], workers=1)
    path = tmp_path / "val/center.lmdb"
    (path / "checksums.txt").unlink()
    change(path, "1P0A0005", cv2.imencode(".png", np.zeros((48, 64, 3), np.uint8))[1].tobytes())
    assert faults(path) == [f"{path}: 1P0A0005: has 8 bits, the database 16"]


def test_many_faults_are_counted(dpdd, tmp_path, monkeypatch):
    create(tmp_path, layout="dpdd", root=dpdd, splits=["train"], views=["center"], workers=1)
    path = tmp_path / "train/center.lmdb"
    for number in range(5):
        change(path, f"1P0A{2 * number + 1:04}", b"no picture")
    monkeypatch.setattr(lmdb_verify, "_SHOWN", 2)
    found = faults(path)
    assert len(found) == 3
    assert found[-1] == f"{path}: and 3 more such pictures"


def test_roles_of_one_split_must_agree(dpdd, tmp_path):
    create(tmp_path / "a", layout="dpdd", root=dpdd, splits=["val"], views=["center"], workers=1)
    create(tmp_path / "b", layout="dpdd", root=dpdd, splits=["test"], views=["left"], workers=1)
    (tmp_path / "b/test/left.lmdb").rename(tmp_path / "a/val/left.lmdb")
    assert faults(tmp_path / "a") == []  # three scenes named alike
    create(tmp_path / "c", layout="dpdd", root=dpdd, splits=["train"], views=["left"], workers=1)
    (tmp_path / "c/train/left.lmdb").rename(tmp_path / "a/val/right.lmdb")
    (fault,) = faults(tmp_path / "a")
    assert "val/right.lmdb: keys or sizes differ from another role's: 5 pictures, center.lmdb has 3" in fault
    assert faults(tmp_path / "a/val/right.lmdb", tmp_path / "a/val/left.lmdb") == []  # given alone, not as a split


def test_a_crash_while_reading_is_one_line(databases, monkeypatch):
    """Damage deep in the file can crash LMDB itself: only the process that reads."""
    monkeypatch.setattr(lmdb_verify, "_faults_of", crash)
    monkeypatch.setattr(lmdb_verify, "_CHUNK", 1)
    with pytest.raises(UserError, match="a process crashed while reading; one of them is damaged"):
        verify([databases], workers=2)


def crash(path, keys):
    os._exit(9)


def test_nothing_there(tmp_path):
    with pytest.raises(UserError, match="nowhere: folder not found"):
        verify([tmp_path / "nowhere"])
    with pytest.raises(UserError, match="no LMDB found"):
        verify([tmp_path])
    (tmp_path / "x.lmdb").mkdir()
    assert "not a whole LMDB" in faults(tmp_path / "x.lmdb")[0]
