"""``python -m ifan_plugin.mm``: from a shell, in another folder, with names of all kinds; mistakes are one line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mmengine", reason="mmengine isn't installed (pip install ifan-plugin[mm])")

import torch
from helpers import ROOT
from mmengine.config import Config
from runner_cases import small_config, write_weights

from ifan_plugin.common.errors import UserError
from ifan_plugin.mm import cli, distributed


def write_config(data: Path, folder: Path, **changes: object) -> Path:
    """The small config as a program, without a work dir of its own."""
    config = small_config(data, folder)
    del config["work_dir"]
    config["train_cfg"] = {"type": "ResumableTrainLoop", "max_iters": 2, "val_interval": 2}
    config["default_hooks"] = {"checkpoint": {"type": "AsideCheckpointHook", "interval": 1, "save_best": "psnr"}}
    config["custom_hooks"] = [{"type": "RestorationVisualizationHook", "contact_sheet": 1}]
    config["val_evaluator"] = [config["val_evaluator"]]
    config |= {"log_level": "INFO", **changes}
    path = folder / "mein Rezept für IFAN.py"
    path.write_text("".join(f"{key} = {value!r}\n" for key, value in config.items()), encoding="utf-8")
    return path


def shell(*arguments: object, cwd: Path) -> subprocess.CompletedProcess:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "ifan_plugin.mm", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=240, check=False)


def fails(capsys, *arguments: object) -> str:
    """The one line that a mistake is answered with."""
    capsys.readouterr()
    assert cli.main([str(argument) for argument in arguments]) == 2
    said = capsys.readouterr().err.strip()
    assert "\n" not in said
    assert said.startswith("python -m ifan_plugin.mm")
    return said


@pytest.mark.slow
def test_train_resume_and_test_from_another_folder(dpdd, tmp_path, monkeypatch):
    config = write_config(dpdd, tmp_path)
    elsewhere = tmp_path / "ein Ördner"
    elsewhere.mkdir()
    trained = shell("train", config, "--amp", cwd=elsewhere)
    assert trained.returncode == 0, trained.stderr[-2000:]
    work = elsewhere / "work_dirs" / config.stem
    assert {"iter_1.pth", "iter_2.pth", "best_psnr_iter_2.pth", "last_checkpoint", config.name} <= set(os.listdir(work))
    assert "Iter(val) [3/3]    psnr: " in trained.stdout
    assert (work / "visualization" / "val" / "contact_sheet_2.png").is_file()
    assert Config.fromfile(work / config.name).optim_wrapper.type == "BF16OptimWrapper"  # this machine's --amp

    moved = elsewhere / "moved"  # where last_checkpoint's absolute path is wrong
    work.rename(moved)
    resumed = shell(
        "train", config, "--work-dir", "moved", "--resume", "--cfg-options", "train_cfg.max_iters=3", cwd=elsewhere
    )
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    assert f"Resuming from {Path('moved', 'iter_2.pth')}." in resumed.stderr
    assert "iter: 2" in resumed.stdout
    assert (moved / "iter_3.pth").is_file()

    monkeypatch.chdir(elsewhere)
    assert cli.main(["test", str(config), str(moved / "best_psnr_iter_2.pth"), "--work-dir", "tested"]) == 0
    figures = json.loads(next((elsewhere / "tested").glob("*/*.json")).read_text())
    assert 0 < figures["psnr"] < 60
    assert len(list((elsewhere / "tested" / "visualization" / "test").glob("1P0A???[0-9].png"))) == 3


def test_testing_a_checkpoint_of_basicsr(dpdd, tmp_path, monkeypatch, capfd):
    config = write_config(dpdd, tmp_path)
    net_g, _ = write_weights(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["test", str(config), str(net_g), "--work-dir", "out"]) == 0
    assert re.search(r"psnr: [\d.]+  ssim", capfd.readouterr().out)
    wrong = ["--cfg-options", "model.generator.width=8", "model.reblur=None", "model.reblur_loss=None"]
    assert cli.main(["test", str(config), str(net_g), "--work-dir", "out", *wrong]) == 2
    assert "net_g.pth" in capfd.readouterr().err.strip().splitlines()[-1]
    logs = sorted(Path("out").glob("*/*.log"))
    assert "net_g.pth" in logs[-1].read_text().strip().splitlines()[-1]  # the log says, too, why the run ended


def test_slips_are_one_line(dpdd, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = write_config(dpdd, tmp_path)
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert "unknown command 'tran'; did you mean 'train'?" in fails(capsys, "tran")
    assert "config not found: nix.py" in fails(capsys, "train", "nix.py")
    assert "unknown flag --work_dir; did you mean '--work-dir'?" in fails(capsys, "train", config, "--work_dir", "x")
    assert "required: CHECKPOINT" in fails(capsys, "test", config)
    assert "CHECKPOINT: no such file: nix.pth" in fails(capsys, "test", config, "nix.pth")
    assert "--resume: no such file: nix.pth" in fails(capsys, "train", config, "--resume", "nix.pth")
    assert "is a config: put CONFIG before --resume" in fails(capsys, "train", "--resume", config)
    assert "x: the folder can't be made" in fails(capsys, "train", config, "--work-dir", config / "x")
    for launcher, variable in (("pytorch", "RANK"), ("slurm", "SLURM_PROCID"), ("mpi", "OMPI_COMM_WORLD_RANK")):
        said = fails(capsys, "train", config, "--launcher", launcher)
        assert f"--launcher {launcher}: {variable} is not set; start with " in said
    options = ("train", config, "--cfg-options")
    assert "dataroot: folder not found: /nix da" in fails(capsys, *options, "train_dataloader.dataset.dataroot=/nix da")
    assert "did you mean 'width'?" in fails(capsys, *options, "model.generator.widht=8")
    assert "unknown metric 'psnrr'; did you mean 'psnr'?" in fails(capsys, *options, "val_evaluator.0.metrics=psnrr")
    weights = tmp_path / "weights.pth"
    torch.save({"params": {}}, weights)
    assert "weights.pth" in fails(capsys, "train", config, "--resume", weights)


def test_help_has_examples_and_says_that_configs_are_programs(capsys):
    assert cli.main(["--help"]) == 0
    assert "is a program and is run" in capsys.readouterr().out
    assert cli.main([]) == 2
    assert cli.main(["--version"]) == 0
    for name in ("train", "test"):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main([name, "--help"])
        assert ended.value.code == 0
        said = capsys.readouterr().out
        assert f"examples:\n  python -m ifan_plugin.mm {name} options/mm/" in said
        for path in re.findall(r"options/mm/\S+\.py", said):
            assert (ROOT / path).is_file()


def test_a_new_run_that_is_asked_to_resume_says_that_it_starts(dpdd, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cli, "_run", lambda config, launcher, what: ran.append(config))
    ran: list[Config] = []
    config = write_config(dpdd, tmp_path)
    work = tmp_path / "work"
    assert cli.main(["train", str(config), "--work-dir", str(work), "--resume"]) == 0
    assert f"--resume: no checkpoint in {work}: starting from the beginning." in capsys.readouterr().err
    assert (ran[0].resume, ran[0].load_from) == (False, None)


def test_the_newest_whole_checkpoint(tmp_path, capsys):
    for number in (9, 10, 100):
        torch.save({"iter": number}, tmp_path / f"iter_{number}.pth")
    for name in ("best_psnr_iter_400.pth.txt", "net_g_latest.pth"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "iter_300.pth").write_bytes((tmp_path / "iter_100.pth").read_bytes()[:-40])
    assert cli.newest_checkpoint(tmp_path) == tmp_path / "iter_100.pth"
    assert f"passed over {tmp_path / 'iter_300.pth'}: cut short" in capsys.readouterr().err
    assert cli.newest_checkpoint(tmp_path / "nowhere") is None


def test_the_newest_checkpoint_without_a_number(tmp_path):
    work, other = tmp_path / "work", tmp_path / "Räume"
    work.mkdir()
    other.mkdir()
    note = work / "last_checkpoint"
    note.write_text(str(other / "latest.pth"), encoding="utf-8")
    assert cli.newest_checkpoint(work) is None  # the folder was moved
    torch.save({}, other / "latest.pth")
    assert cli.newest_checkpoint(work) == other / "latest.pth"
    torch.save({}, work / "iter_3.pth")
    assert cli.newest_checkpoint(work) == work / "iter_3.pth"


def test_checkpoints_of_another_folder_are_resumed(dpdd, tmp_path, capsys, monkeypatch):
    """``out_dir`` of mmengine's hook: the folder of the work dir's name in there."""
    ran: list[Config] = []
    monkeypatch.setattr(cli, "_run", lambda config, launcher, what: ran.append(config))
    monkeypatch.setattr(cli.checkpoints, "require_resumable", lambda path, schedulers: None)
    hook = {"checkpoint": {"type": "AsideCheckpointHook", "out_dir": str(tmp_path / "räume")}}
    arguments = ["train", str(write_config(dpdd, tmp_path, default_hooks=hook)), "--resume"]
    work = tmp_path / "work"
    arguments += ["--work-dir", str(work)]
    assert cli.main(arguments) == 0
    assert f"no checkpoint in {work} or {tmp_path / 'räume' / 'work'}: starting" in capsys.readouterr().err
    (tmp_path / "räume" / "work").mkdir(parents=True)
    torch.save({}, tmp_path / "räume" / "work" / "iter_9.pth")
    torch.save({}, work / "iter_8.pth")
    assert cli.main(arguments) == 0
    assert (ran[1].resume, ran[1].load_from) == (True, str(tmp_path / "räume" / "work" / "iter_9.pth"))


def test_resuming_by_the_config_is_checked_as_the_flag_is(dpdd, tmp_path, capsys, monkeypatch):
    ran: list[Config] = []
    monkeypatch.setattr(cli, "_run", lambda config, launcher, what: ran.append(config))
    net_g, _ = write_weights(tmp_path)
    work = tmp_path / "work"
    config = write_config(dpdd, tmp_path, load_from=str(net_g))
    options = ("train", config, "--work-dir", work, "--cfg-options", "resume=true")
    assert "net_g.pth: holds weights, no training state of mmengine's" in fails(capsys, *options)
    assert "load_from (resume): no such file: nix.pth" in fails(capsys, *options, "load_from=nix.pth")
    assert not ran
    assert cli.main([*map(str, options), "load_from=None"]) == 0
    assert (ran[0].resume, ran[0].load_from) == (False, None)  # nothing there yet


def test_without_mmengine_is_one_line(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u\nfind = u.find_spec\n"
        "u.find_spec = lambda name, *more: None if name == 'mmengine' else find(name, *more)\n"
    )
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    for arguments in (["-m", "ifan_plugin.mm", "train", "x.py"], ["-c", "import ifan_plugin.mm"]):
        done = subprocess.run(
            [sys.executable, *arguments], env=env, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        needed = 'ifan_plugin.mm needs mmengine: pip install "ifan_plugin[mm]"'
        if arguments[0] == "-m":
            assert (done.returncode, done.stderr) == (2, f"python -m ifan_plugin.mm: {needed}\n")
        else:
            assert done.stderr.endswith(f"ImportError: {needed}\n")


@pytest.mark.parametrize(
    ("kind", "gpu", "expected"),
    [
        (None, False, "BF16OptimWrapper"), ("OptimWrapper", True, "AmpOptimWrapper"),
        ("BF16OptimWrapper", True, "BF16OptimWrapper"), ("AmpOptimWrapper", True, "AmpOptimWrapper"),
    ],
)  # fmt: skip
def test_what_amp_chooses(monkeypatch, kind, gpu, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    config = Config({"optim_wrapper": {"optimizer": {"type": "Adam"}} | ({"type": kind} if kind else {})})
    cli.use_mixed_precision(config)
    assert config.optim_wrapper.type == expected


def test_amp_leaves_other_wrappers_alone():
    with pytest.raises(UserError, match=r"--amp: optim_wrapper: type: must be OptimWrapper, .* not ApexOptimWrapper"):
        cli.use_mixed_precision(Config({"optim_wrapper": {"type": "ApexOptimWrapper"}}))


def test_amp_of_a_gpu_on_a_machine_without_one(dpdd, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = write_config(dpdd, tmp_path)
    said = fails(
        capsys, "train", config, "--work-dir", tmp_path / "w", "--cfg-options", "optim_wrapper.type=AmpOptimWrapper"
    )
    assert "AmpOptimWrapper needs a GPU" in said


def test_tensorboard_is_left_out_where_it_isnt_installed(dpdd, tmp_path, capsys, monkeypatch):
    ran: list[Config] = []
    monkeypatch.setattr(cli, "_run", lambda config, launcher, what: ran.append(config))
    backends = [{"type": "LocalVisBackend"}, {"type": "TensorboardVisBackend"}]
    config = write_config(dpdd, tmp_path, visualizer={"type": "Visualizer", "vis_backends": backends})
    monkeypatch.setattr(cli.importlib.util, "find_spec", lambda name: None)
    assert cli.main(["train", str(config), "--work-dir", str(tmp_path / "w")]) == 0
    assert "TensorBoard isn't installed" in capsys.readouterr().err
    assert ran[0].visualizer.vis_backends == backends[:1]


def test_workers_that_arent_there_neednt_persist(dpdd, tmp_path, monkeypatch):
    ran: list[Config] = []
    monkeypatch.setattr(cli, "_run", lambda config, launcher, what: ran.append(config))
    config = write_config(dpdd, tmp_path)
    overrides = ["train_dataloader.num_workers=0", "train_dataloader.persistent_workers=true"]
    assert cli.main(["train", str(config), "--work-dir", str(tmp_path / "w"), "--cfg-options", *overrides]) == 0
    assert ran[0].train_dataloader.persistent_workers is False


def test_without_a_launcher_nothing_is_changed():
    config = Config({"env_cfg": {"dist_cfg": {"backend": "nccl"}}})
    distributed.prepare(config, "none")
    assert config.to_dict() == {"env_cfg": {"dist_cfg": {"backend": "nccl"}}, "launcher": "none"}


RANKS = """
import json, sys
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from ifan_plugin.mm import cli
@HOOKS.register_module()
class Note(Hook):
    noted = []
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.keys = [sample.key for sample in data_batch["data_samples"]]
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        norm = float(runner.message_hub.get_scalar("train/grad_norm").current())
        Note.noted.append([self.keys, norm])
    def after_val_epoch(self, runner, metrics=None):
        weights = float(sum(p.detach().double().abs().sum() for p in runner.model.parameters()))
        with open(f"{runner.work_dir}/rank_{runner.rank}.json", "w") as file:
            json.dump({"noted": Note.noted, "weights": weights, "psnr": metrics["psnr"]}, file)
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_two_ranks_on_cpus_train_what_one_process_does(dpdd, tmp_path):
    """gloo through the Runner's launcher: the same batch a step, the same gradient, and every scene validated once."""
    config = write_config(dpdd, tmp_path, custom_hooks=[{"type": "Note"}, {"type": "RestorationVisualizationHook"}])
    program = tmp_path / "ranks.py"
    program.write_text(RANKS)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    found = {}
    for ranks, batch in ((1, 2), (2, 1)):
        work = tmp_path / f"{ranks} ranks"
        start = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
        end = [program, "train", config, "--work-dir", work, "--launcher", "pytorch"]
        command = [
            *start,
            *end,
            "--cfg-options",
            f"train_dataloader.batch_size={batch}",
            "train_dataloader.sampler.batch_size=1",
        ]
        done = subprocess.run(
            [*map(str, command)], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=400, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        found[ranks] = [json.loads((work / f"rank_{rank}.json").read_text()) for rank in range(ranks)]
        assert (work / "visualization" / "val" / "contact_sheet_2.png").is_file()
    (alone,), (first, second) = found[1], found[2]
    for (keys, norm), (keys_0, norm_0), (keys_1, norm_1) in zip(alone["noted"], first["noted"], second["noted"]):
        assert keys == keys_0 + keys_1
        assert norm_0 == norm_1 == pytest.approx(norm, rel=1e-4)
    for each in (first, second):
        assert each["weights"] == pytest.approx(alone["weights"], rel=1e-6)
        assert each["psnr"] == pytest.approx(alone["psnr"], rel=1e-5)
