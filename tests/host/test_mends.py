"""The host bridge. Every mend has a control: the same thing without the mend goes wrong, so the test can fail."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from helpers import ROOT, basicsr, small_options, write_dpdd, write_options

CONTROL = """
import sys
from ifan_plugin import cli
from ifan_plugin.host.importing import prepare
from ifan_plugin.host import mends
mends.MENDS = tuple(m for m in mends.MENDS if m.__name__ != {without!r})
sys.exit(cli.main({argv!r}))
"""


def python(code: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, env=env, capture_output=True, text=True, timeout=240)


def without(mend: str, *argv: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    """``basicsr …`` with one mend left out."""
    return python(CONTROL.format(without=mend, argv=[str(a) for a in argv]), cwd, **environment)


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    content = torch.load(folder / name, weights_only=True)
    parts = {part: params for part, params in content.items() if part.startswith("params")}
    return {f"{part}.{key}": value for part, params in parts.items() for key, value in params.items()}


def assert_identical(a: dict, b: dict) -> None:
    assert a.keys() == b.keys()
    different = [key for key in a if not torch.equal(a[key], b[key])]
    assert not different


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory, dpdd):
    """One uninterrupted run with workers, in two epochs and a bit, with EMA."""
    options = small_options(dpdd)
    options["datasets"]["train"] |= {"num_worker_per_gpu": 2, "dataset_enlarge_ratio": 4}
    options["train"] |= {"total_iter": 24, "ema_decay": 0.9}
    options["logger"]["save_checkpoint_freq"] = 6
    folder = tmp_path_factory.mktemp("plain")
    path = write_options(folder, options)
    done = basicsr("train", "-opt", path, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, path


def test_the_host_cannot_be_imported_without_its_mend(tmp_path):
    bare = python("import basicsr", tmp_path)
    assert "functional_tensor" in bare.stderr
    mended = python("from ifan_plugin.host.importing import prepare; prepare(); import basicsr.train", tmp_path)
    assert mended.returncode == 0, mended.stderr


def test_registering_twice_is_harmless(tmp_path):
    done = python(
        "import ifan_plugin; ifan_plugin.register(); ifan_plugin.register()\n"
        "from basicsr.utils.registry import ARCH_REGISTRY; assert 'IFAN' in ARCH_REGISTRY",
        tmp_path,
    )
    assert done.returncode == 0, done.stderr


def test_importing_the_package_is_light(tmp_path):
    code = "import ifan_plugin, sys; sys.exit(any(m in sys.modules for m in ('basicsr', 'torch', 'cv2')))"
    assert python(code, tmp_path).returncode == 0


def kill_after_checkpoint(path: Path, folder: Path, state: str) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "ifan_plugin", "train", "-opt", str(path)]
    with subprocess.Popen(
        command, cwd=folder, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        wanted = folder / "experiments/small/training_states" / state
        deadline = time.monotonic() + 120
        while not wanted.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert wanted.exists()


def test_a_killed_run_resumes_to_bit_identical_weights(plain_run, tmp_path):
    plain, path = plain_run
    kill_after_checkpoint(path, tmp_path, "6.state")
    assert not (tmp_path / "experiments/small/models/net_g_latest.pth").exists(), "the run was over before the kill"
    done = basicsr("train", "-opt", path, "--auto_resume", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Resuming from " in done.stderr
    assert ".state (iteration " in done.stderr
    for name in ("net_g_latest.pth", "net_g_24.pth", "net_r_latest.pth"):
        models = "experiments/small/models"
        assert_identical(weights(plain / models, name), weights(tmp_path / models, name))


@pytest.mark.slow
def test_without_the_mend_of_sampling_a_resumed_run_ends_elsewhere(plain_run, tmp_path):
    plain, path = plain_run
    kill_after_checkpoint(path, tmp_path, "6.state")
    done = without("mend_sampling", "train", "-opt", path, "--auto_resume", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    models = "experiments/small/models"
    with pytest.raises(AssertionError):
        assert_identical(weights(plain / models, "net_g_24.pth"), weights(tmp_path / models, "net_g_24.pth"))


def test_auto_resume_says_what_it_takes_and_passes_over_a_broken_state(plain_run, tmp_path):
    plain, path = plain_run
    root = tmp_path / "root"
    (root / "experiments").mkdir(parents=True)
    copied = root / "experiments" / "small"
    subprocess.run(["cp", "-r", str(plain / "experiments" / "small"), str(copied)], check=True)
    newest = copied / "training_states" / "24.state"
    newest.write_bytes(newest.read_bytes()[:1000])
    (copied / "models" / "net_g_18.pth").unlink()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = basicsr(
        "train", "-opt", path, "--auto_resume", "--force_yml", f"path:root={root}", "train:total_iter=13", cwd=elsewhere
    )
    assert done.returncode == 0, done.stderr
    assert "passed over" in done.stderr
    assert "24.state" in done.stderr
    assert "net_g_18.pth" in done.stderr
    assert f"Resuming from {copied}/training_states/12.state (iteration 12)" in done.stderr
    assert not (elsewhere / "experiments").exists()


def test_auto_resume_says_when_there_is_nothing(tmp_path, options):
    options["train"]["total_iter"] = 1
    done = basicsr("train", "-opt", write_options(tmp_path, options), "--auto_resume", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "no usable state" in done.stderr


@pytest.mark.slow
def test_without_its_mend_resuming_needs_a_gpu(plain_run, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU, so the host's own resume works")
    plain, path = plain_run
    state = plain / "experiments/small/training_states/12.state"
    done = without("mend_resume", "train", "-opt", path, "--force_yml", f"path:resume_state={state}", cwd=tmp_path)
    assert done.returncode == 1
    assert "cuda" in done.stderr.lower()


def torchrun(path: Path, cwd: Path, mend_left_out: str | None = None) -> subprocess.CompletedProcess:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    arguments = ["train", "-opt", str(path), "--launcher", "pytorch"]
    if mend_left_out:
        script = cwd / "control.py"
        script.write_text(CONTROL.format(without=mend_left_out, argv=arguments))
        program = [str(script)]
    else:
        program = ["-m", "ifan_plugin", *arguments]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", *program]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_two_gloo_processes_train_as_one_with_twice_the_batch(options, tmp_path):
    options["train"] |= {"total_iter": 6, "ema_decay": 0.9}
    options["datasets"]["train"] |= {"num_worker_per_gpu": 1}
    options["dist_params"] = {"backend": "nccl", "port": 29500}  # as the host's own files have it
    (tmp_path / "two").mkdir()
    done = torchrun(write_options(tmp_path / "two", options), tmp_path / "two")
    assert done.returncode == 0, done.stderr
    options["datasets"]["train"]["batch_size_per_gpu"] *= 2
    (tmp_path / "one").mkdir()
    single = basicsr("train", "-opt", write_options(tmp_path / "one", options), cwd=tmp_path / "one")
    assert single.returncode == 0, single.stderr
    for name in ("net_g_latest.pth", "net_r_latest.pth"):
        two, one = (weights(tmp_path / which / "experiments/small/models", name) for which in ("two", "one"))
        assert two.keys() == one.keys()
        for key in one:
            torch.testing.assert_close(two[key], one[key], rtol=0, atol=1e-5)
    # Validation is spread over the ranks, and gives the same mean of all three pictures.
    line = next(line for line in single.stderr.splitlines() if "# psnr" in line)
    assert "mean of 3 pictures" in done.stderr
    assert line.split("best")[0].strip() in done.stderr


@pytest.mark.slow
def test_without_its_mend_two_processes_need_gpus(options, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    options["train"]["total_iter"] = 1
    done = torchrun(write_options(tmp_path, options), tmp_path, "mend_distributed")
    assert done.returncode != 0
    assert "ZeroDivisionError" in done.stderr or "modulo by zero" in done.stderr


@pytest.mark.slow
def test_a_run_resumed_with_another_batch_trains_to_the_end(plain_run, tmp_path):
    """Epochs get another length: the host, which counts epochs, mustn't believe that it is done."""
    plain, path = plain_run
    subprocess.run(["cp", "-r", str(plain / "experiments"), str(tmp_path)], check=True)
    for late in ("18.state", "24.state"):
        (tmp_path / "experiments/small/training_states" / late).unlink()
    entries = ["datasets:train:batch_size_per_gpu=1", "train:total_iter=60", "val:val_freq=100"]
    done = basicsr("train", "-opt", path, "--auto_resume", "--force_yml", *entries, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "begun anew: global_batch was 2 and is 1" in done.stderr
    assert "iter:      60" in done.stderr


@pytest.mark.slow
def test_an_experiments_own_copy_of_its_options_can_be_used(plain_run, tmp_path):
    plain, path = plain_run
    subprocess.run(["cp", "-r", str(plain / "experiments"), str(tmp_path)], check=True)
    copied = tmp_path / "experiments/small" / path.name
    done = basicsr("train", "-opt", copied, "--auto_resume", "--force_yml", "train:total_iter=25", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    itself = f"copy_opt_file({str(copied)!r}, {str(copied.parent)!r})"
    control = python(
        f"from ifan_plugin.host.importing import prepare; prepare(); from basicsr.utils.options import copy_opt_file; {itself}",
        tmp_path,
    )
    assert "SameFileError" in control.stderr, "BasicSR's own function, unmended"
    again = basicsr("train", "-opt", copied, "--force_yml", "train:total_iter=1", cwd=tmp_path)
    assert again.returncode == 0, again.stderr


@pytest.mark.slow
@pytest.mark.parametrize("mended", [True, False])
def test_an_unreadable_picture_ends_a_prefetching_run(options, tmp_path, mended):
    data = write_dpdd(tmp_path / "data", {"train": 2, "val": 1})
    for dataset in options["datasets"].values():
        dataset |= {"dataroot": str(data), "check": "none"}
    options["datasets"]["train"]["prefetch_mode"] = "cpu"
    broken = data / "train_c/source/1P0A0003.png"
    broken.write_bytes(broken.read_bytes()[:300])
    path = write_options(tmp_path, options)
    if mended:
        done = basicsr("train", "-opt", path, cwd=tmp_path)
        assert done.returncode == 2
        assert str(broken) in done.stderr.strip().splitlines()[-1]
    else:
        code = CONTROL.format(without="mend_prefetching", argv=["train", "-opt", str(path)])
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        with pytest.raises(subprocess.TimeoutExpired):
            subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, timeout=40)


def test_a_launcher_without_its_variables_is_one_line(options, tmp_path):
    done = basicsr("train", "-opt", write_options(tmp_path, options), "--launcher", "pytorch", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("basicsr: --launcher pytorch: RANK is not set")


@pytest.mark.parametrize("mended", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_failed_save_stops_the_run(options, tmp_path, mended):
    options["datasets"].pop("val")
    options.pop("val")
    path = write_options(tmp_path, options)
    # The folder of the checkpoints is a file in disguise: writing there fails for root, too.
    code = f"""
import sys
from ifan_plugin import cli
from ifan_plugin.host.importing import prepare
from ifan_plugin.host import mends
if not {mended}:
    mends.MENDS = tuple(m for m in mends.MENDS if m.__name__ != "mend_saving")
import ifan_plugin; ifan_plugin.register()
import basicsr.train, pathlib, time
time.sleep = lambda s: None
make = basicsr.train.make_exp_dirs
def broken(opt):
    make(opt)
    folder = pathlib.Path(opt["path"]["models"]); folder.rmdir(); folder.write_text("")
basicsr.train.make_exp_dirs = broken
sys.exit(cli.main(["train", "-opt", {str(path)!r}]))
"""
    done = python(code, tmp_path)
    if mended:
        assert done.returncode == 2, done.stderr
        assert "can't be written" in done.stderr.strip().splitlines()[-1]
    else:
        assert done.returncode == 0, done.stderr
        assert "Just ignore it" in done.stderr


@pytest.mark.parametrize("mended", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_option_files_and_overrides_run_no_code(options, tmp_path, mended):
    options["train"]["total_iter"] = 1
    victim = tmp_path / "victim"
    path = write_options(tmp_path, options)
    entry = f"manual_seed=[__import__('pathlib').Path({str(victim)!r}).touch()]"
    if mended:
        done = basicsr("train", "-opt", path, "--force_yml", entry, cwd=tmp_path)
        assert done.returncode == 2
        assert "manual_seed" in done.stderr.strip().splitlines()[-1]
        assert not victim.exists()
    else:  # the host as it is: the value goes through eval
        without("mend_options", "train", "-opt", path, "--force_yml", entry, cwd=tmp_path)
        assert victim.exists()


@pytest.mark.slow
def test_without_its_mend_the_host_knows_no_radam(options, tmp_path):
    done = without("mend_optimizers", "train", "-opt", write_options(tmp_path, options), cwd=tmp_path)
    assert done.returncode == 1
    assert "optimizer RAdam is not supperted" in done.stderr


@pytest.mark.slow
def test_several_validation_sets_in_one_run(options, tmp_path):
    options["datasets"]["val_2"] = {**options["datasets"]["val"], "name": "second_set", "max_images": 2}
    path = write_options(tmp_path, options)
    done = basicsr("train", "-opt", path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Validation val_set: mean of 3" in done.stderr
    assert "Validation second_set: mean of 2" in done.stderr
    assert "only* supported by SRModel" not in done.stderr
    control = without("mend_validation_warning", "train", "-opt", path, cwd=tmp_path)
    assert "only* supported by SRModel" in control.stderr


@pytest.mark.slow
def test_the_hosts_own_model_and_data_set_run_too(options, dpdd, tmp_path):
    """SRModel on the host's PairedImageDataset, with one of its networks and our float metrics; then resumed."""
    data = {
        "type": "PairedImageDataset", "io_backend": {"type": "disk"}, "filename_tmpl": "{}",
        "dataroot_gt": str(dpdd / "val_c/target"), "dataroot_lq": str(dpdd / "val_c/target"),
    }  # fmt: skip
    extra = {"gt_size": 32, "use_hflip": False, "use_rot": False, "batch_size_per_gpu": 2, "num_worker_per_gpu": 0}
    options |= {
        "model_type": "SRModel",
        "network_g": {
            "type": "EDSR", "num_in_ch": 3, "num_out_ch": 3, "num_feat": 8, "num_block": 1, "upscale": 1,
        },
        "datasets": {"train": {"name": "t", **data, **extra}, "val": {"name": "v", **data}},
    }  # fmt: skip
    options["network_g"] = {"type": "SRVGGNetCompact", "num_feat": 8, "num_conv": 1, "upscale": 1}
    del options["network_r"]
    train = {k: v for k, v in options["train"].items() if k in ("total_iter", "optim_g", "scheduler", "pixel_opt")}
    options["train"] = train
    path = write_options(tmp_path, options)
    done = basicsr("train", "-opt", path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "# psnr" in done.stderr
    resumed = basicsr("train", "-opt", path, "--auto_resume", "--force_yml", "train:total_iter=6", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert "Resuming from" in resumed.stderr


@pytest.mark.slow
def test_plugins_join_from_an_option_file(options, tmp_path):
    site = tmp_path / "site"
    site.mkdir()
    (site / "their_network.py").write_text(
        "import torch\n"
        "from basicsr.utils.registry import ARCH_REGISTRY\n"
        "@ARCH_REGISTRY.register()\n"
        "class TheirNet(torch.nn.Conv2d):\n"
        "    def __init__(self, size: int = 3):\n"
        "        super().__init__(3, 3, size, padding=size // 2)\n"
    )
    options["network_g"] = {"type": "TheirNet"}
    del options["network_r"]
    for key in ("disparity_opt", "reblur_opt"):
        del options["train"][key]
    environment = {"PYTHONPATH": f"{ROOT}{os.pathsep}{site}"}
    path = write_options(tmp_path, options)
    missing = basicsr("train", "-opt", path, cwd=tmp_path, **environment)
    assert missing.returncode == 2
    assert "unknown type 'TheirNet'" in missing.stderr
    path = write_options(tmp_path, options | {"plugins": ["their_network"]})
    done = basicsr("train", "-opt", path, cwd=tmp_path, **environment)
    assert done.returncode == 0, done.stderr
    misspelt = basicsr("train", "-opt", path, "--force_yml", "network_g:sise=5", cwd=tmp_path, **environment)
    assert misspelt.returncode == 2
    assert "did you mean 'size'?" in misspelt.stderr
    path = write_options(tmp_path, options | {"plugins": ["no_such_network"]})
    absent = basicsr("train", "-opt", path, cwd=tmp_path, **environment)
    assert absent.returncode == 2
    assert "'no_such_network' can't be loaded: ModuleNotFoundError" in absent.stderr


def test_the_option_file_lands_in_the_experiment(plain_run):
    folder, path = plain_run
    copied = folder / "experiments/small" / path.name
    assert yaml.safe_load(copied.read_text())["name"] == "small"
    assert "train -opt" in copied.read_text()
