"""The wheel as somebody gets it who has no checkout: built from the sdist, in an empty environment, from another folder."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tarfile
import time
import urllib.request
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import ROOT, small_options, write_dpdd, write_options
from packaging_environments import Environment, build_wheel, clean_environment

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Environment:
    """With everything that this environment has."""
    environment = Environment(tmp_path_factory.mktemp("with") / "venv")
    environment.install(wheel)
    return environment


@pytest.fixture(scope="module")
def without_basicsr(wheel, tmp_path_factory) -> Environment:
    """What `pip install .` alone gives, and the mmengine side's packages."""
    environment = Environment(tmp_path_factory.mktemp("without") / "venv", without=("basicsr",))
    environment.install(wheel)
    return environment


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_dpdd(tmp_path_factory.mktemp("data"), {"train": 2, "val": 1, "test": 1})


@pytest.fixture(scope="module")
def trained(installed, data, tmp_path_factory) -> Path:
    """The folder in which the installed command has trained a tiny network."""
    folder = tmp_path_factory.mktemp("trained")
    options = write_options(folder, small_options(data))
    done = installed.run("-m", "ifan_plugin", "train", "-opt", options, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_sdist_carries_what_a_build_and_its_tests_need(sdist):
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    for needed in (
        "options/mm/ifan_dpdd.py",
        "tests/ops/test_iac.py",
        "scripts/setup_env.sh",
        "constraints.txt",
        "LICENSE",
    ):
        assert needed in names
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode == 0:
        ours = {name for name in tracked.stdout.split("\n") if name.startswith(("ifan_plugin/", "options/"))}
        missing = {name for name in ours - names if (ROOT / name).is_file()}
        assert not missing, f"MANIFEST.in leaves out {sorted(missing)}"
    assert not [name for name in names if name.endswith((".so", ".pyc"))]


def test_the_wheel_carries_the_package_alone(wheel):
    assert "-cp310-abi3-" in wheel.name
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"ifan_plugin"}
    recipes = {name.removeprefix("ifan_plugin/recipes/") for name in names if name.startswith("ifan_plugin/recipes/")}
    options = ROOT / "options"
    files = (path for path in options.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    ours = {str(path.relative_to(options)) for path in files}
    assert recipes == ours


def test_a_wheel_from_the_sdist_carries_the_same(sdist, wheel, tmp_path):
    pure = build_wheel(sdist, tmp_path, IFAN_NO_EXT="1")
    assert pure.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as ours, zipfile.ZipFile(pure) as theirs:
        compiled = {name for name in ours.namelist() if name.endswith(".so")}
        assert {n for n in ours.namelist() if "dist-info" not in n} - compiled == {
            n for n in theirs.namelist() if "dist-info" not in n
        }


def test_without_a_compiler_the_build_stops_and_says_how_to_go_without(sdist, tmp_path):
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--no-deps", "--no-build-isolation"]
    environment = clean_environment(CXX="no-such-compiler", IFAN_NO_CUDA="1")
    built = subprocess.run(
        [*pip, "--no-index", "--wheel-dir", tmp_path, sdist],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert built.returncode != 0
    said = built.stdout + built.stderr
    assert "ifan_plugin: the IAC operator can't be compiled: no C++ compiler found (tried no-such-compiler)" in said
    assert "IFAN_NO_EXT=1" in said
    assert not list(tmp_path.glob("*.whl"))


def test_its_operator_keeps_the_stable_abi(wheel):
    checked = subprocess.run(
        [sys.executable, ROOT / "scripts/check_wheel.py", "--newest-glibc", "2.38", wheel],
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    if sys.version_info >= (3, 11):
        assert "isn't checked" not in checked.stderr


def test_it_is_the_wheels_operator_that_runs(installed, tmp_path):
    code = "import ifan_plugin, ifan_plugin.ops as ops; print(ifan_plugin.__file__, ops.active_backend('cpu'))"
    done = installed.run("-c", code, cwd=tmp_path)
    path, backend = done.stdout.split()
    assert Path(path).is_relative_to(installed.site)
    assert backend == "cpu"


def test_the_operators_and_networks_tests_pass_on_it(installed, tmp_path):
    shutil.copytree(ROOT / "tests", tmp_path / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "options", tmp_path / "options", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    # The tests of the CUDA sources compile files of the checkout, which isn't here.
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/ops", "tests/archs"]
    done = installed.run(*command, "--ignore-glob", "tests/ops/test_cuda_*.py", cwd=tmp_path, timeout=1500)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    passed = int(re.search(r"(\d+) passed", done.stdout)[1])
    assert passed > 150
    assert "isn't compiled" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["recipes"], "train_IFAN_DPDD.yml"),
        (["recipes", "copy", "train_IFAN_DPDD.yml", "--out", "mine.yml"], "written to mine.yml"),
        (["doctor"], "IFAN registered"),
        (["test", "-opt", "TEST"], "mean of 1 picture"),
        (["dataset", "show", "-opt", "TRAIN", "--out", "sheet.png"], "written to"),
        (["lmdb", "create", "--layout", "dpdd", "--root", "DATA", "--out", "dpdd_lmdb"], ""),
        (["convert", "NET", "net.safetensors"], ""),
        (["export", "--weights", "NET", "--out", "net.pt2"], ""),
        (["deblur", "PICTURE", "--out", "sharp", "--weights", "NET"], ""),
        (["benchmark", "-opt", "BENCHMARK"], "report.html"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_command_of_each_kind(arguments, expected, installed, trained, data, tmp_path):
    net = trained / "experiments/small/models/net_g_latest.pth"
    dataset = {"name": "set", "type": "DualPixelDataset", "dataroot": str(data), "bit_depth": 16}
    testing = {
        "name": "away", "model_type": "IFANModel", "num_gpu": 0, "datasets": {"test": dataset},
        "network_g": small_options(data)["network_g"], "path": {"pretrain_network_g": str(net)},
        "val": {"save_img": False, "metrics": {"psnr": {"type": "psnr"}}},
    }  # fmt: skip
    benchmark = {
        "name": "away", "protocol": "ifan", "metrics": ["psnr"], "device": "cpu",
        "models": [{"name": "IFAN", "type": "IFAN", "path": str(net)}], "datasets": [dataset],
        "profile": {"height": 48, "width": 64, "runs": 1},
    }  # fmt: skip
    names = {
        "TEST": write_options(tmp_path, testing, "test.yml"),
        "TRAIN": trained / "small.yml",
        "BENCHMARK": write_options(tmp_path, benchmark, "benchmark.yml"),
        "DATA": data,
        "NET": net,
        "PICTURE": next((data / "test_c/source").iterdir()),
    }
    done = installed.run("-m", "ifan_plugin", *(names.get(one, one) for one in arguments), cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert expected in done.stdout + done.stderr


def test_a_shipped_name_is_an_option_file(installed, data, tmp_path):
    entries = [
        "num_gpu=0", "train:total_iter=1", "val:val_freq=100", f"datasets:train:dataroot={data}",
        f"datasets:val:dataroot={data}", "datasets:train:patch_size=32", "datasets:train:batch_size_per_gpu=1",
        "datasets:train:num_worker_per_gpu=0", "network_g:width=4", "network_g:num_steps=2", "network_r:num_steps=2",
    ]  # fmt: skip
    command = ["-m", "ifan_plugin", "train", "-opt", "train_IFAN_DPDD.yml", "--force_yml", *entries]
    done = installed.run(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "experiments/IFAN_DPDD/train_IFAN_DPDD.yml").is_file()


def test_simulate_and_the_page_behind_a_proxy(installed, trained, tmp_path):
    """The demo asks its own port whether it is there; through a proxy that would never be answered."""
    net = trained / "experiments/small/models/net_g_latest.pth"
    process = subprocess.Popen(
        [installed.python, "-m", "ifan_plugin", "demo", "--weights", net, "--port", "7913"],
        cwd=tmp_path,
        env={
            "PATH": "/usr/bin:/bin",
            "HOME": str(tmp_path),
            "HTTP_PROXY": "http://127.0.0.1:9",
            "ALL_PROXY": "socks5://127.0.0.1:9",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        page = ""
        for _ in range(240):
            try:
                page = opener.open("http://127.0.0.1:7913", timeout=5).read().decode()
                break
            except OSError:
                assert process.poll() is None, process.stdout.read()
                time.sleep(0.5)
        assert "gradio" in page
        time.sleep(1)
        process.terminate()  # SIGINT is ignored where tests run in the background of a script
        said, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert "Serving on http://127.0.0.1:7913" in said
    assert "Traceback" not in said


def test_without_basicsr_the_rest_works(without_basicsr, trained, data, tmp_path):
    net = trained / "experiments/small/models/net_g_latest.pth"
    picture = next((data / "test_c/source").iterdir())
    code = (
        "import sys, ifan_plugin, cv2\n"
        f"image = cv2.imread({str(picture)!r}, cv2.IMREAD_COLOR)\n"
        f"restored = ifan_plugin.restore(image, weights={str(net)!r})\n"
        "assert restored.shape == image.shape and restored.any()\n"
        "assert 'basicsr' not in sys.modules\n"
    )
    for command in (
        ["-c", code],
        ["-m", "ifan_plugin", "deblur", picture, "--out", "sharp", "--weights", net],
        ["-m", "ifan_plugin", "export", "--weights", net, "--out", "net.pt2"],
        ["-m", "ifan_plugin", "convert", net, "net.safetensors"],
        ["-m", "ifan_plugin", "lmdb", "create", "--layout", "dpdd", "--root", data, "--out", "dpdd_lmdb"],
        ["-m", "ifan_plugin", "recipes"],
        ["-c", "import ifan_plugin.mm"],
    ):
        done = without_basicsr.run(*command, cwd=tmp_path)
        assert done.returncode == 0, (command, done.stdout[-1000:] + done.stderr[-2000:])
    assert cv2.imread(str(next((tmp_path / "sharp").iterdir()))).dtype == np.uint8


def test_without_basicsr_mmengine_trains(without_basicsr, data, tmp_path):
    entries = [
        "train_cfg.max_iters=2", "train_cfg.val_interval=2", f"train_dataloader.dataset.dataroot={data}",
        f"val_dataloader.dataset.dataroot={data}", f"test_dataloader.dataset.dataroot={data}",
        "train_dataloader.num_workers=0", "train_dataloader.persistent_workers=False", "train_dataloader.dataset.patch_size=32",
        "train_dataloader.batch_size=1",
    ]  # fmt: skip
    done = without_basicsr.run(
        "-m", "ifan_plugin.mm", "train", "ifan_quickstart.py", "--cfg-options", *entries, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "-opt", "train_IFAN_DPDD.yml"],
        ["test", "-opt", "test_IFAN_DPDD.yml"],
        ["benchmark", "-opt", "defocus.yml"],
        ["dataset", "show", "-opt", "train_IFAN_DPDD.yml"],
        ["deblur", "x.png", "--out", "y", "--arch", "DefocusDeconvolution"],
    ],
    ids=lambda value: value[0],
)
def test_without_basicsr_what_needs_it_says_how_to_get_it(arguments, without_basicsr, tmp_path):
    cv2.imwrite(str(tmp_path / "x.png"), np.zeros((32, 32, 3), np.uint8))
    done = without_basicsr.run("-m", "ifan_plugin", *arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "python -m ifan_plugin.install_basicsr" in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_doctor_without_basicsr_is_well_but_for_that(without_basicsr, tmp_path):
    done = without_basicsr.run("-m", "ifan_plugin", "doctor", cwd=tmp_path)
    assert done.returncode == 1
    failing = [line.split()[0] for line in done.stdout.splitlines() if "FAILS" in line]
    assert failing == ["basicsr"]
    assert json.dumps("cpu is used")[1:-1] in done.stdout
