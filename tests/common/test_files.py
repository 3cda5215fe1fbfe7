"""Files are whole or not there."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from helpers import python_path
from PIL import Image

from ifan_plugin.common import files
from ifan_plugin.common.errors import UserError
from ifan_plugin.common.files import expanded, remove_remains, save_atomically, temporary_folder, written_aside


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


def test_what_killed_processes_left_is_swept_and_the_living_are_left_alone(tmp_path):
    code = (
        "import sys, time; from ifan_plugin.common.files import written_aside\n"
        f"with written_aside({str(tmp_path / 'a.bin')!r}) as file: print('open', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": python_path()}
    )
    assert process.stdout.readline() == "open\n"
    with written_aside(tmp_path / "b.bin") as ours:  # the first file that this process writes here
        ours.write(b"b")
        remove_remains(tmp_path)
        assert len(list(tmp_path.glob(".*.aside.*"))) == 2
    process.kill()
    process.wait()
    process.stdout.close()
    files._swept.discard(tmp_path)  # as in a process that starts now
    with written_aside(tmp_path / "b.bin") as ours:
        ours.write(b"c")
    assert os.listdir(tmp_path) == ["b.bin"]


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


@contextmanager
def at_most_64_kib():
    """No file of this process may grow beyond: a write then fails in the middle, as on a full disk.

    No fixture, since what pytest prints behind a test may go to a larger file.
    """
    resource = pytest.importorskip("resource", reason="needs the limits that Unix sets to a process")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


LIBRARIES = {
    "torch": lambda file: torch.save({"a": torch.zeros(10**5)}, file),
    "numpy": lambda file: np.save(file, np.zeros(10**5)),
    "pillow": lambda file: Image.fromarray(NOISE).save(file, "JPEG", quality=100),
    "tifffile": lambda file: tifffile.imwrite(file, NOISE, photometric="rgb"),
    "nobody's": lambda file: file.write(bytes(10**5)),
    "behind the block": lambda file: [file.write(b"x") for _ in range(2**16 + 1)],
}
NOISE = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)


@pytest.mark.parametrize("writer", LIBRARIES)
def test_a_failed_write_ends_in_one_line_whoever_writes(writer, tmp_path):
    """Libraries tell it in words of their own, or not at all."""
    path = tmp_path / "a.bin"
    path.write_bytes(b"whole")
    with (
        at_most_64_kib(),
        pytest.raises(UserError, match=r"a\.bin: can't be written: File too large$") as caught,
        written_aside(path) as file,
    ):
        LIBRARIES[writer](file)
    assert caught.value.__cause__.errno == errno.EFBIG
    assert path.read_bytes() == b"whole"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_missing_folder_ends_in_one_line(tmp_path):
    with pytest.raises(UserError, match="can't be written: No such file"):
        save_atomically({}, tmp_path / "none" / "a.pth")


def test_a_killed_processs_temporary_folder_goes_with_the_next_and_a_living_ones_stays(tmp_path, monkeypatch):
    program = (
        "import sys\nfrom ifan_plugin.common.files import temporary_folder\n"
        "with temporary_folder('x_') as folder:\n    (folder / 'a').touch(); print(folder, flush=True); sys.stdin.read()"
    )
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "x_of_somebody").mkdir()  # without a lock: nothing tells that it is ours
    command = [sys.executable, "-c", program]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "env": {**os.environ, "PYTHONPATH": python_path()}}
    killed, living = subprocess.Popen(command, **pipes), subprocess.Popen(command, **pipes)
    left, kept = (Path(os.fsdecode(each.stdout.readline().strip())) for each in (killed, living))
    assert left.is_dir()
    assert kept.is_dir()
    killed.kill()
    killed.communicate()
    with temporary_folder("x_") as own:
        assert sorted(tmp_path.iterdir()) == sorted([kept, own, tmp_path / "x_of_somebody"])
    assert not own.exists()
    living.communicate()  # its standard input ends, and so does it
    assert not kept.exists()
