"""Ranks that leave one another: in order, and when one is killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import torch._dynamo  # as the framework's imports do; imported while a group lives, it keeps the group
from helpers import python_path, small_options, write_options

from ifan_plugin.common.errors import UserError
from ifan_plugin.host import ranks


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def start(arguments, cwd, rank, port):
    env = {
        **os.environ, "PYTHONPATH": python_path(), "OMP_NUM_THREADS": "1", "RANK": str(rank), "WORLD_SIZE": "2",
        "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    command = [sys.executable, *map(str, arguments)]
    return subprocess.Popen(command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def alone():
    """A process group of this process alone."""
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    ranks.meet()
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def gloos_threads() -> list[str]:
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    return [name for name in names if "gloo" in name]


class Holder:
    """A model in DDP that a circle keeps alive, as a Runner and its hooks do."""

    def __init__(self) -> None:
        self.itself = self
        self.model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2))


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts threads as Linux does")
@pytest.mark.parametrize("fails", [False, True])
def test_no_thread_of_the_group_is_left(alone, fails):
    """Those that are there when Python ends are what 'terminate called without an active exception' comes from."""
    if not gloos_threads():
        pytest.skip("this torch gives gloo's threads no names (2.10)")

    def trains():
        holder = Holder()
        holder.model(torch.ones(1, 2)).sum().backward()
        if fails:
            raise ValueError("a fault")

    if fails:
        with pytest.raises(ValueError, match="a fault"), ranks.left_together("--resume"):
            trains()
    else:
        with ranks.left_together("--resume"):
            trains()
    assert not torch.distributed.is_initialized()
    assert not gloos_threads()


def test_a_dead_process_is_named_and_a_living_one_is_not(alone, monkeypatch):
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    here = socket.gethostname()
    members = (ranks.Rank(0, here, os.getpid()), ranks.Rank(1, here, done.pid), ranks.Rank(2, here, os.getppid()))
    monkeypatch.setattr(ranks._Group, "members", members)
    with pytest.raises(UserError) as said, ranks.left_together("--resume"):
        raise RuntimeError("[transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:31337")
    assert str(said.value) == (
        f"rank 1 (process {done.pid} on {here}) is lost: it was killed or failed (its own last lines say why), so this "
        "rank ends, too; start all of them again with --resume, as many as before or fewer, to go on from the newest "
        "checkpoint"
    )


def test_faults_of_the_program_keep_their_traceback(alone):
    with pytest.raises(RuntimeError, match="shapes") as error, ranks.left_together("--resume"):
        raise RuntimeError("shapes don't fit")
    assert not isinstance(error.value, UserError)


KILLS = """
import os, signal
from ifan_plugin.models.ifan_model import IFANModel
step = IFANModel.optimize_parameters
def optimize_parameters(self, current_iter):
    if current_iter == 3 and self.opt["rank"] == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    step(self, current_iter)
IFANModel.optimize_parameters = optimize_parameters
"""


def both(arguments, cwd):
    """Two ranks without an agent above them, until they end: both processes, and what each said on stderr."""
    port = free_port()
    processes = [start([*arguments, "--launcher", "pytorch"], cwd, rank, port) for rank in (0, 1)]
    with ThreadPoolExecutor(2) as pool:  # neither is to wait for the other's output to be read
        said = list(pool.map(lambda process: process.communicate(timeout=400)[1], processes))
    return processes, said


@pytest.mark.slow
def test_a_killed_rank_is_named_and_the_run_goes_on_with_two_and_with_one(dpdd, tmp_path):
    (tmp_path / "kills.py").write_text(KILLS)
    options = small_options(dpdd)
    path = write_options(tmp_path, options)
    train = ["-m", "ifan_plugin", "train", "-opt", path]
    processes, (first, second) = both([*train, "--plugin", "kills.py"], tmp_path)
    assert [process.returncode for process in processes] == [2, -signal.SIGKILL], first[-3000:]
    last = first.strip().splitlines()[-1]
    assert last.startswith(f"basicsr: rank 1 (process {processes[1].pid} on ")
    assert "is lost: it was killed or failed" in last
    assert "Traceback" not in first
    assert "do not match bucket view strides" not in first + second
    processes, said = both([*train, "--auto_resume"], tmp_path)
    assert [process.returncode for process in processes] == [0, 0], said
    assert "(iteration 2)" in said[0]
    options["train"]["total_iter"] = 6
    write_options(tmp_path, options)
    env = {**os.environ, "PYTHONPATH": python_path(), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *map(str, train), "--auto_resume"], cwd=tmp_path, env=env, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "(iteration 4)" in done.stderr
    assert (tmp_path / "experiments/small/training_states/6.state").is_file()
