"""Killed runs, full disks and damage while databases are made: nothing half is taken for whole, and work goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import lmdb
import numpy as np
import pytest
from helpers import ROOT, hold

from ifan_plugin.common.errors import UserError
from ifan_plugin.data.lmdb import work as lmdb_work
from ifan_plugin.data.lmdb import writer as lmdb_writer
from ifan_plugin.data.lmdb.create import create
from ifan_plugin.data.lmdb.read import LmdbPictures
from ifan_plugin.data.lmdb.verify import verify
from ifan_plugin.images.image_io import write_image


def make(root: Path, out: Path, layout: str = "dpdd", **arguments):
    return create(out, layout=layout, root=root, **{"workers": 1, **arguments})


def stored(path: Path) -> dict[str, bytes]:
    """All of a database, read with nothing of ours."""
    with lmdb.open(str(path), readonly=True, lock=False) as environment, environment.begin() as transaction:
        return {bytes(key).decode(): bytes(value) for key, value in transaction.cursor()}


def refusal(*arguments, **more) -> str:
    with pytest.raises(UserError) as caught:
        make(*arguments, **more)
    message = str(caught.value)
    assert "\n" not in message
    return message


def is_running(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def stop(*_):
    raise KeyboardInterrupt


def test_a_killed_run_goes_on(tmp_path, monkeypatch):
    """SIGKILL in the middle of the work; its processes go, nothing is taken for whole, and work isn't done twice."""
    source = tmp_path / "a.png"
    write_image(source, np.random.default_rng(0).random((120, 120, 3)))
    for role in ("center", "target"):
        (tmp_path / role).mkdir()
        for number in range(150):
            os.link(source, tmp_path / role / f"{number:04}.png")
    script = tmp_path / "run.py"
    script.write_text(
        "import sys\nfrom ifan_plugin.data.lmdb import create as lmdb_create, writer as lmdb_writer\nlmdb_writer.COMMIT_BYTES = 1\n"
        "if __name__ == '__main__':\n"
        "    lmdb_create.create('out', layout='folders', workers=2, folders={'center': 'center', 'target': 'target'})\n"
    )
    run = subprocess.Popen([sys.executable, script], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)})
    journal = tmp_path / "out/train/.center.lmdb.partial/journal.txt"
    deadline = time.monotonic() + 60
    while not journal.exists() or journal.read_text().count("\n") < 10:
        assert run.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    children = [int(pid) for pid in Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()]
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert len(children) >= 2
    while any(is_running(pid) for pid in children):
        assert time.monotonic() < deadline, "workers outlive a killed run"
        time.sleep(0.02)
    assert [path.name for path in (tmp_path / "out/train").iterdir() if path.suffix == ".lmdb"] == []
    with open(journal, "a") as file:
        file.write("deadbeef 200")  # as if a line was being written

    jobs, original = [], lmdb_work.prepare
    monkeypatch.setattr(lmdb_work, "prepare", lambda job: jobs.append(job) or original(job))
    folders = {role: tmp_path / role for role in ("center", "target")}
    report = make(None, tmp_path / "out", "folders", folders=folders)
    assert report.continued >= 10
    assert len(jobs) == 300 - report.continued > 0
    assert not [fault for verdict in verify([tmp_path / "out"], workers=1) for fault in verdict.faults]
    (expected,) = original(jobs[0]).pictures
    found = stored(tmp_path / "out/train/center.lmdb")
    assert list(found) == [f"{number:04}" for number in range(150)]
    assert set(found.values()) == {expected.value}
    assert sorted(path.name for path in (tmp_path / "out/train").iterdir()) == ["center.lmdb", "target.lmdb"]


def test_a_partial_of_another_plan_is_begun_anew(dpdd, tmp_path, monkeypatch):
    monkeypatch.setattr(lmdb_writer.DatabaseWriter, "finish", stop)
    with pytest.raises(KeyboardInterrupt):
        make(dpdd, tmp_path, splits=["val"], views=["center"])
    assert (tmp_path / "val/.center.lmdb.partial/data.mdb").exists()
    monkeypatch.undo()
    report = make(dpdd, tmp_path, splits=["val"], views=["center"], bit_depth=8)
    assert report.continued == 0
    assert LmdbPictures(tmp_path / "val/center.lmdb").info.bit_depth == 8


@pytest.mark.parametrize("step", ["finish", "publish"])
def test_a_stop_between_the_last_steps(dpdd, tmp_path, monkeypatch, step):
    """All pictures are there; the first role is finished (or in its place), the second isn't."""
    original = getattr(lmdb_writer.DatabaseWriter, step)
    monkeypatch.setattr(
        lmdb_writer.DatabaseWriter, step, lambda w, *a: original(w, *a) if w.path.name == "center.lmdb" else stop()
    )
    with pytest.raises(KeyboardInterrupt):
        make(dpdd, tmp_path, splits=["val"], views=["center"])
    monkeypatch.undo()
    monkeypatch.setattr(lmdb_work, "prepare", None)  # would fail
    report = make(dpdd, tmp_path, splits=["val"], views=["center"])
    assert [path.name for path in report.up_to_date] == (["center.lmdb"] if step == "publish" else [])
    assert report.continued == (3 if step == "publish" else 6)
    assert not [fault for verdict in verify([tmp_path], workers=1) for fault in verdict.faults]


@pytest.mark.parametrize("damage", ["truncate", "garbage", "journal"])
def test_a_damaged_partial_is_begun_anew(dpdd, tmp_path, monkeypatch, damage):
    monkeypatch.setattr(lmdb_writer.DatabaseWriter, "finish", stop)
    with pytest.raises(KeyboardInterrupt):
        make(dpdd, tmp_path, splits=["val"], views=["center"])
    monkeypatch.undo()
    partial = tmp_path / "val/.center.lmdb.partial"
    if damage == "truncate":
        os.truncate(partial / "data.mdb", 12288)
    elif damage == "garbage":
        (partial / "data.mdb").write_bytes(b"\1" * 100_000)
    else:
        (partial / "journal.txt").write_text("nonsense\n")
    report = make(dpdd, tmp_path, splits=["val"], views=["center"])
    assert report.continued == 3  # the other role's
    assert not [fault for verdict in verify([tmp_path], workers=1) for fault in verdict.faults]


def test_the_map_grows(dpdd, tmp_path, monkeypatch):
    monkeypatch.setattr(lmdb_writer, "FIRST_MAP_BYTES", 2**15)
    make(dpdd, tmp_path, splits=["train"], encoding="raw")
    assert (tmp_path / "train/left.lmdb/data.mdb").stat().st_size > 2**16
    assert not [fault for verdict in verify([tmp_path], workers=1) for fault in verdict.faults]


@pytest.mark.parametrize("kind", [lmdb.DiskError, lmdb.Error])
def test_a_full_disk_leaves_the_old_whole_and_the_new_to_go_on(dpdd, tmp_path, monkeypatch, kind):
    make(dpdd, tmp_path, splits=["val"], views=["center"])
    old = stored(tmp_path / "val/center.lmdb")
    monkeypatch.setattr(lmdb_writer, "COMMIT_BYTES", 1)
    original, count = lmdb_writer.DatabaseWriter._try_to_write, []

    def full(writer, pictures):
        count.append(1)
        if len(count) > 3:
            monkeypatch.setattr(lmdb_writer.shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
            raise kind("mdb_txn_commit: Input/output error")  # what LMDB calls the short write on a full disk
        return original(writer, pictures)

    monkeypatch.setattr(lmdb_writer.DatabaseWriter, "_try_to_write", full)
    message = refusal(dpdd, tmp_path, splits=["val"], views=["center"], encoding="raw", overwrite=True)
    assert "val: can't be written: no space left on the disk; about 0 MB more are needed, 0 MB are free" in message
    assert stored(tmp_path / "val/center.lmdb") == old
    monkeypatch.undo()
    report = make(dpdd, tmp_path, splits=["val"], views=["center"], encoding="raw", overwrite=True)
    assert report.continued == 3
    assert LmdbPictures(tmp_path / "val/center.lmdb").info.encoding == "raw"


def test_the_systems_own_limit_ends_in_one_line(dpdd, tmp_path):
    script = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (60000, 60000));"
        "from ifan_plugin.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    arguments = [
        "lmdb",
        "create",
        "--layout",
        "dpdd",
        "--root",
        dpdd,
        "--out",
        tmp_path,
        "--split",
        "train",
        "--workers",
        "1",
    ]
    command = [sys.executable, "-c", script, *map(str, arguments), "--encoding", "raw"]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2, done.stderr
    line = done.stderr.splitlines()[-1]
    assert line.startswith(f"basicsr: {tmp_path / 'train'}: can't be written: ")
    assert "MB more are needed" in line
    assert "Traceback" not in done.stderr
    make(dpdd, tmp_path, splits=["train"], encoding="raw")
    assert not [fault for verdict in verify([tmp_path], workers=1) for fault in verdict.faults]


def test_a_second_run_is_kept_away(dpdd, tmp_path):
    holder = hold(tmp_path / ".lock")
    try:
        assert f"{tmp_path}: is in use by another run (process {holder.pid}" in refusal(dpdd, tmp_path)
    finally:
        holder.kill()
        holder.wait()
    make(dpdd, tmp_path, splits=["val"], views=["center"])
    assert not (tmp_path / ".lock").exists()
    assert os.listdir(tmp_path) == ["val"]


def test_what_a_killed_exchange_left_is_swept(dpdd, tmp_path):
    make(dpdd, tmp_path, splits=["val"], views=["center"])
    old = tmp_path / "val" / ".center.lmdb.old"
    old.mkdir()
    (old / "data.mdb").write_bytes(b"old")
    make(dpdd, tmp_path, splits=["val"], views=["center"])
    assert not old.exists()


def test_memory_is_bounded(dpdd, tmp_path, monkeypatch):
    """No more jobs at once than the window, however many pictures there are."""
    waiting, most = [], []

    class Slow(lmdb_work._Here):
        def submit(self, function, /, *args, **kwargs):
            future = super().submit(function, *args, **kwargs)
            waiting.append(future)
            most.append(sum(not f.taken for f in waiting))
            return future

    class Taken(lmdb_work.Future):
        taken = False

        def result(self, timeout=None):
            self.taken = True
            return super().result(timeout)

    monkeypatch.setattr(lmdb_work, "Future", Taken)
    monkeypatch.setattr(lmdb_work, "executor", lambda workers: Slow())
    make(dpdd, tmp_path, splits=["train"], workers=4)
    assert len(waiting) == 20
    assert max(most) == 6
