"""A BasicSR training that is ended from outside saves where it stands, and goes on as if nothing had been."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal

import pytest
import torch
from helpers import ctrl_c_heard, write_options

from ifan_plugin.cli import main
from ifan_plugin.common import stopping
from ifan_plugin.host.mends import mend_all
from ifan_plugin.models import validation
from ifan_plugin.models.ifan_model import IFANModel


@pytest.fixture
def prepared(options, tmp_path, monkeypatch):
    """An option file of six iterations, validated behind the third and the sixth, and a folder to run it in."""
    options["train"]["total_iter"] = 6
    options["val"]["val_freq"] = 3
    options["logger"]["save_checkpoint_freq"] = 6
    monkeypatch.chdir(tmp_path)
    with ctrl_c_heard():
        yield options, tmp_path


def train(options, folder, *flags):
    return main(["train", "-opt", str(write_options(folder, options)), *flags])


def moved_away(folder):
    (folder / "whole").mkdir()
    shutil.move(folder / "experiments", folder / "whole")
    return folder / "whole"


def assert_same_end(folder, whole):
    for name in ("models/net_g_6.pth", "models/net_r_6.pth", "training_states/6.state"):
        one, other = (torch.load(root / "experiments/small" / name, weights_only=True) for root in (folder, whole))
        if name.endswith(".state"):
            assert (one["extra"], one["position"]) == (other["extra"], other["position"])
            one, other = ({str(n): s for n, s in each["optimizers"][0]["state"].items()} for each in (one, other))
        else:
            one, other = one["params"], other["params"]
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def strike_at(iteration, strike, monkeypatch):
    step = IFANModel.optimize_parameters

    def optimize_parameters(self, current_iter):
        if current_iter == iteration:
            strike()
        step(self, current_iter)

    monkeypatch.setattr(IFANModel, "optimize_parameters", optimize_parameters)


def strike_all(number):
    """As torchrun does: this process, and the workers that load its data."""
    for worker in multiprocessing.active_children():
        os.kill(worker.pid, number)
    signal.raise_signal(number)


@pytest.mark.parametrize(
    ("number", "where", "behind"),
    [(signal.SIGTERM, 2, 2), (signal.SIGINT, 3, 3), (signal.SIGTERM, "workers", 4), (signal.SIGTERM, "validation", 3)],
)
def test_a_signal_saves_and_the_resumed_run_is_the_uninterrupted_one(
    prepared, monkeypatch, capsys, number, where, behind
):
    options, folder = prepared
    assert train(options, folder) == 0
    whole = moved_away(folder)
    with monkeypatch.context() as patch:
        if where == "workers":
            options["datasets"]["train"]["num_worker_per_gpu"] = 1
            strike_at(4, lambda: strike_all(number), patch)
        elif where == "validation":
            measure = validation._measure
            patch.setattr(validation, "_measure", lambda *all_: signal.raise_signal(number) or measure(*all_))
        else:
            strike_at(where, lambda: signal.raise_signal(number), patch)
        assert train(options, folder) == 128 + number
    name = "Ctrl+C" if number == signal.SIGINT else "SIGTERM"
    state = folder / "experiments/small/training_states" / f"{behind}.state"
    said = (
        f"stopped by {name} behind iteration {behind}, saved in {state}; the same command with --auto_resume goes on "
        "from there"
    )
    assert capsys.readouterr().err.strip().splitlines()[-1] == f"basicsr: {said}"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert train(options, folder, "--auto_resume") == 0
    assert_same_end(folder, whole)


def test_two_signals_stop_at_once_and_keep_what_there_was(prepared, monkeypatch, capsys):
    options, folder = prepared
    options["logger"]["save_checkpoint_freq"] = 2
    monkeypatch.setattr(stopping, "_TOGETHER", 0.0)
    strike_at(3, lambda: [signal.raise_signal(signal.SIGTERM) for _ in range(2)], monkeypatch)
    assert train(options, folder) == 143
    assert capsys.readouterr().err.strip().splitlines()[-1] == (
        "basicsr: stopped at once by SIGTERM, without a checkpoint"
    )
    assert [path.name for path in (folder / "experiments/small/training_states").iterdir()] == ["2.state"]


class Killed(BaseException):
    """Nothing of the program sees a SIGKILL; nothing of it catches this."""


def test_a_validation_that_a_kill_took_away_is_made_up_for(prepared, monkeypatch):
    """The state is older than the validation of its own iteration."""
    options, folder = prepared
    options["logger"]["save_checkpoint_freq"] = 3
    assert train(options, folder) == 0
    whole = moved_away(folder)

    def kill():
        raise Killed

    with monkeypatch.context() as patch:
        strike_at(4, kill, patch)
        with pytest.raises(Killed):
            train(options, folder)
    state = torch.load(folder / "experiments/small/training_states/3.state", weights_only=True)
    assert state["extra"]["best"] == {}
    lines = []
    monkeypatch.setattr(validation.logger, "info", lambda line: lines.append(line))
    assert train(options, folder, "--auto_resume") == 0
    assert len([line for line in lines if line.startswith("Validation val_set: mean")]) == 2
    assert_same_end(folder, whole)


def test_a_program_that_steps_a_model_itself_keeps_its_signals():
    mend_all()  # without it BasicSR can't be imported
    from basicsr.models.base_model import BaseModel

    before = {number: signal.getsignal(number) for number in stopping.SIGNALS}
    model = BaseModel({"num_gpu": 0, "is_train": True})
    model.update_learning_rate(2)
    assert {number: signal.getsignal(number) for number in stopping.SIGNALS} == before
