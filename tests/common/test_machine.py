"""Faults of the machine are one line that says what to do; faults of the program keep their traceback."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from helpers import ROOT, basicsr, small_options, write_dpdd, write_options

from ifan_plugin import cli
from ifan_plugin.common import machine

MISSING = [
    (ImportError("libGL.so.1: cannot open shared object file: No such file or directory"), "libgl1"),
    (ImportError("libgthread-2.0.so.0: cannot open shared object file: No such file or directory"), "libgl1"),
    (ImportError("libxcb-shm.so.0: cannot open shared object file: No such file"), "libxcb-shm.so.0"),
    (OSError("libcudart.so.13: cannot open shared object file: No such file or directory"), "libcudart.so.13"),
]
SMALL_MEMORY = [
    RuntimeError(
        "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are out of"
        " shared memory. Please try to raise your shared memory limit."
    ),
    RuntimeError("unable to write to file </torch_7_1_0>: No space left on device (28)"),
    RuntimeError("unable to mmap 80 bytes from file </torch_7_1_0>: Cannot allocate memory (12)"),
    RuntimeError("unable to allocate shared memory(shm) for file </torch_7_1_0>: Success (0)"),
    OSError(28, "No space left on device", "/dev/shm/torch_7"),
]
OURS = [
    RuntimeError("a fault"),
    RuntimeError("DataLoader worker (pid 7) exited unexpectedly with exit code 1"),
    OSError(13, "Permission denied"),  # of what, it doesn't say
    ImportError("cannot import name 'x' from 'y'"),
    ValueError("libGL.so.1: cannot open shared object file"),
]


@pytest.mark.parametrize(("error", "said"), MISSING, ids=range(len(MISSING)))
def test_a_missing_library_is_named(error, said):
    line = machine.explain(error)
    assert said in line
    assert "\n" not in line


@pytest.mark.parametrize("error", SMALL_MEMORY, ids=range(len(SMALL_MEMORY)))
def test_too_little_shared_memory(error):
    line = machine.explain(error)
    assert "--shm-size" in line
    assert "num_worker_per_gpu: 0" in line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(28, "No space left on device", "/home/me/a.png"), "/home/me/a.png: can't be written: No space left on device; df -h"),
        (OSError(122, "Disk quota exceeded"), "a file: can't be written: Disk quota exceeded; df -h"),
        (OSError(30, "Read-only file system", "a.log"), "a.log: can't be written: Read-only file system; df -h"),
        (PermissionError(13, "Permission denied", "a.log"), "a.log: permission denied"),
    ],
)  # fmt: skip
def test_what_cannot_be_written(error, line):
    assert machine.explain(error).startswith(line)


@pytest.mark.parametrize("error", OURS, ids=range(len(OURS)))
def test_other_faults_are_left_alone(error):
    assert machine.explain(error) is None


def test_the_command_ends_in_that_line(monkeypatch, capsys):
    from ifan_plugin.cli import doctor

    def fails(argv):
        raise MISSING[0][0]

    monkeypatch.setattr(doctor, "main", fails)
    assert cli.main(["doctor"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("basicsr: OpenCV can't be loaded: this machine has no libGL.so.1; apt-get install libgl1")
    assert error.count("\n") == 1


def test_doctor_names_the_part_that_fails(tmp_path):
    """OpenCV as it is without libGL; BasicSR, which would fail with it, isn't blamed."""
    (tmp_path / "cv2").mkdir()
    text = "raise ImportError('libGL.so.1: cannot open shared object file: No such file or directory')\n"
    (tmp_path / "cv2/__init__.py").write_text(text)
    done = basicsr("doctor", cwd=tmp_path, PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert done.returncode == 1
    lines = {line.split()[0]: line for line in done.stdout.splitlines() if line.startswith("  ")}
    assert "FAILS" in lines["opencv-python"]
    assert "libgl1" in lines["opencv-python"]
    assert "not tried" in lines["basicsr"]
    assert "opencv-python must work first" in lines["basicsr"]
    assert [name for name, line in lines.items() if "FAILS" in line] == ["opencv-python"]
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_training_with_a_shared_memory_of_one_megabyte(tmp_path):
    """For real, in a mount namespace of its own, where the kernel allows that."""
    unshare = ["unshare", "--mount", "--map-root-user", "sh", "-c"]
    mount = "mount -t tmpfs -o size=1m none /dev/shm"
    try:
        tried = subprocess.run([*unshare, mount], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no unshare")
    if tried.returncode:
        pytest.skip(f"no mount namespace here: {tried.stderr.strip()}")
    options = small_options(write_dpdd(tmp_path / "data", {"train": 4, "val": 1}, height=256, width=256))
    options["datasets"]["train"] |= {"num_worker_per_gpu": 1, "patch_size": 256, "batch_size_per_gpu": 4}
    path = write_options(tmp_path, options)
    command = f"{mount} && exec {sys.executable} -m ifan_plugin train -opt {path}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*unshare, command], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 2, done.stderr[-3000:]
    assert "ran out of shared memory (/dev/shm: " in done.stderr.strip().splitlines()[-1]


_WAITS = "from ifan_plugin.common.machine import end_with_parent; end_with_parent(); print('up', flush=True); import time; time.sleep(60)"
_STARTS = f"import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', {_WAITS!r}]); print(child.pid, flush=True); child.wait()"


@pytest.mark.skipif(sys.platform == "win32", reason="other parents there")
def test_a_process_ends_with_its_killed_parent():
    parent = subprocess.Popen(
        [sys.executable, "-c", _STARTS], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert sorted([parent.stdout.readline().strip(), parent.stdout.readline().strip()])[1] == "up"
    parent.kill()
    assert parent.stdout.read() == ""  # which ends when the child has closed it, too
    parent.stdout.close()
    parent.wait()
