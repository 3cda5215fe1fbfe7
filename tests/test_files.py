"""Files are whole or not there."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import torch

from ifan_plugin.errors import UserError
from ifan_plugin.files import expanded, remove_remains, save_atomically, written_aside


def test_the_new_content_takes_the_place_of_the_old(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with written_aside(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a.bin"]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


def test_an_interruption_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def interrupted():
        with written_aside(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("name", ["a" * 251 + ".png", "ü" * 120 + ".webp", "a" + "日" * 83 + ".jpg"])
def test_names_as_long_as_file_systems_take(tmp_path, name):
    """The file aside has one of its own, of whole characters, that is found again."""
    try:
        (tmp_path / name).touch()
    except OSError:
        pytest.skip("this file system takes no name of 255 bytes")
    with written_aside(tmp_path / name) as file:
        (aside,) = set(os.listdir(os.fsencode(tmp_path))) - {os.fsencode(name)}
        aside.decode("utf-8")
        file.write(b"new")
    assert (tmp_path / name).read_bytes() == b"new"
    assert os.listdir(tmp_path) == [name]
    (tmp_path / os.fsdecode(aside)).touch()
    remove_remains(tmp_path)
    assert os.listdir(tmp_path) == [name]


def test_paths_as_people_give_them(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert expanded("~/ä b.png", "--out") == tmp_path / "ä b.png"
    with pytest.raises(UserError, match=r"^--out ~no such user/x\.png: no home folder is known for ~no such user; "):
        expanded("~no such user/x.png", "--out")
    with pytest.raises(UserError, match=r"^--out: is empty; give the name of a file or a folder$"):
        expanded("", "--out")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~no such user.png").touch()  # as editors call what they keep
    assert expanded("~no such user.png", "INPUT").is_file()
    assert expanded("./~", "--out") == tmp_path / "~"
    assert expanded(expanded("./~no such user/a", "--out"), "--out") == tmp_path / "~no such user" / "a"
    assert expanded("a/../~b", "--out") == expanded("./a/../~b", "--out") == Path("a/../~b")


def test_a_checkpoint_comes_back(tmp_path):
    save_atomically({"a": torch.arange(3)}, tmp_path / "a.pth")
    assert torch.equal(torch.load(tmp_path / "a.pth", weights_only=True)["a"], torch.arange(3))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full, which only Linux has")
def test_a_full_disk_ends_in_one_line(tmp_path, monkeypatch):
    path = tmp_path / "a.pth"
    save_atomically({"a": 1}, path)
    before = path.read_bytes()
    real_save = torch.save

    def onto_a_full_disk(value, file):
        real_save(value, "/dev/full")

    monkeypatch.setattr(torch, "save", onto_a_full_disk)
    with pytest.raises(UserError, match=r"a\.pth: couldn't be saved") as caught:
        save_atomically({"a": 2}, path)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.pth"]


def test_a_missing_folder_ends_in_one_line(tmp_path):
    with pytest.raises(UserError, match="couldn't be saved"):
        save_atomically({}, tmp_path / "none" / "a.pth")
