"""MMagic 1.2.0 itself, in the environment of ``scripts/mmagic_env.sh``: what the README says of it."""

from __future__ import annotations

import json
import math
import os
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers import ROOT, write_dpdd

from ifan_plugin.inference import run_network
from ifan_plugin.metrics import mae, psnr
from ifan_plugin.weights.conversion import read_weights

pytestmark = pytest.mark.slow

NOT_IMPORTABLE = {
    "mmcv._ext": "basicvsr_plusplus_net edvr eg3d iconvsr mspie stylegan1 stylegan2 stylegan3 tdan",
    "diffusers": "animatediff vico",
    "transformers": "fastcomposer",
    "resize_right": "disco_diffusion",
}
"""What is missing -> the editors of MMagic that need it. All others can be imported."""

BASE_CONFIG = """
default_scope = "mmagic"
custom_imports = dict(imports=["ifan_plugin.mm"], allow_failed_imports=False)
randomness = dict(seed=3)
model = dict(
    type="BaseEditModel",
    generator=dict(type="IFAN", width=4, num_steps=2, res_units=1),
    pixel_loss=dict(type="MSELoss"),
    data_preprocessor=dict(type="DataPreprocessor", mean=[0.0] * 3, std=[255.0] * 3, output_channel_order="RGB"),
)
load = [dict(type="LoadImageFromFile", key="img"), dict(type="LoadImageFromFile", key="gt")]
crop = [dict(type="SetValues", dictionary=dict(scale=1)), dict(type="PairedRandomCrop", gt_patch_size=32)]
prefix = dict(gt="sharp", img="blurred")
train_dataloader = dict(
    num_workers=0, batch_size=2, sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type="BasicImageDataset", data_root="data/train", data_prefix=prefix,
        pipeline=[*load, *crop, dict(type="PackInputs")],
    ),
)
val_dataloader = dict(
    num_workers=0, batch_size=1, sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="BasicImageDataset", data_root="data/val", data_prefix=prefix, pipeline=[*load, dict(type="PackInputs")],
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="Evaluator", metrics=[dict(type="PSNR"), dict(type="SSIM"), dict(type="MAE")])
test_evaluator = val_evaluator
train_cfg = dict(type="IterBasedTrainLoop", max_iters=5, val_interval=5)
val_cfg = dict(type="MultiValLoop")
test_cfg = dict(type="MultiTestLoop")
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="Adam", lr=1e-3))
default_hooks = dict(
    logger=dict(type="LoggerHook", interval=1),
    checkpoint=dict(type="CheckpointHook", interval=5, by_epoch=False, save_best="PSNR", rule="greater"),
)
log_processor = dict(type="LogProcessor", window_size=1, by_epoch=False)
visualizer = dict(
    type="ConcatImageVisualizer", vis_backends=[dict(type="LocalVisBackend")], fn_key="gt_path",
    img_keys=["gt_img", "pred_img"], bgr2rgb=True,
)
custom_hooks = [dict(type="BasicVisualizationHook", interval=1)]
"""
"""IFAN as the generator of MMagic's own BaseEditModel; not a part of it is ours but the network."""


@pytest.fixture(scope="module")
def python() -> Path:
    """The interpreter of the environment."""
    named = os.environ.get("IFAN_MMAGIC_PYTHON")
    found = Path(named) if named else ROOT / ".venv-mmagic" / "bin" / "python"
    if not found.is_file():
        if named:
            pytest.fail(f"IFAN_MMAGIC_PYTHON={named}: no such file")
        pytest.skip("no MMagic: run scripts/mmagic_env.sh, or set IFAN_MMAGIC_PYTHON to that environment's Python")
    return found


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with four scenes for training and two for validation, as DPDD has them and as 8-bit pairs."""
    root = tmp_path_factory.mktemp("mmagic é")
    write_dpdd(root / "dpdd", {"train": 4, "val": 2, "test": 1}, height=44, width=60)  # no multiples of 8
    for split in ("train", "val"):
        for role, name in (("source", "blurred"), ("target", "sharp")):
            folder = root / "data" / split / name
            folder.mkdir(parents=True)
            for number, path in enumerate(sorted((root / "dpdd" / f"{split}_c" / role).iterdir())):
                picture = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
                cv2.imencode(".png", np.round(picture / 257).astype(np.uint8))[1].tofile(folder / f"{number}.png")
    (root / "base.py").write_text(BASE_CONFIG)
    return root


def run(python: Path, *arguments: object, cwd: Path, timeout: float = 300) -> str:
    """What a command in that environment prints; it must succeed."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [str(python), *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def records(work_dir: Path) -> list[dict]:
    """What the newest run in a work dir logged: one record an iteration, then the validation's."""
    newest = max(work_dir.glob("*/vis_data/scalars.json"))
    return [json.loads(line) for line in newest.read_text().splitlines()]


def losses(work_dir: Path) -> list[float]:
    return [record["loss"] for record in records(work_dir) if "loss" in record]


@pytest.fixture(scope="module")
def trained(python: Path, work: Path) -> Path:
    """Five iterations and a validation by MMagic's own training command; the work dir."""
    folder = run(python, "-c", "import mmagic, os; print(os.path.dirname(mmagic.__file__))", cwd=work).strip()
    run(python, Path(folder) / ".mim" / "tools" / "train.py", "base.py", "--work-dir", "base", cwd=work)
    return work / "base"


def restored(checkpoint: Path, lq: np.ndarray) -> torch.Tensor:
    """[3, H, W], RGB in [0, 1], by our own loading and running; lq is BGR, 8 or 16 bit."""
    weights = read_weights(checkpoint)
    network = weights.network(**weights.hyper_parameters)
    network.load_state_dict(weights.params)
    return run_network(network, rgb(lq)[None])[0]


def rgb(picture: np.ndarray) -> torch.Tensor:
    unit = picture[..., ::-1].astype(np.float32) / np.iinfo(picture.dtype).max
    return torch.from_numpy(unit.transpose(2, 0, 1).copy())


def read(path: Path) -> np.ndarray:
    return cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)


def ours(checkpoint: Path, blurred: Path, sharp: Path, levels: int | None = None) -> dict[str, float]:
    """Our PSNR and MAE over two folders of pictures; with the result rounded to so many levels, if given."""
    figures = []
    for lq, gt in zip(sorted(blurred.iterdir()), sorted(sharp.iterdir())):
        result = restored(checkpoint, read(lq))
        if levels:
            result = (result * levels).round() / levels
        figures.append((psnr(result, rgb(read(gt))), mae(result, rgb(read(gt)))))
    return dict(zip(("PSNR", "MAE"), np.mean(figures, axis=0)))


def test_ifan_trains_in_base_edit_model(trained: Path) -> None:
    found = losses(trained)
    assert len(found) == 5
    assert all(math.isfinite(loss) for loss in found)
    assert found[-1] < found[0]


def test_its_figures_are_ours(trained: Path, work: Path) -> None:
    theirs = records(trained)[-1]
    blurred, sharp = work / "data" / "val" / "blurred", work / "data" / "val" / "sharp"
    exact = ours(trained / "iter_5.pth", blurred, sharp)
    assert theirs["PSNR"] == pytest.approx(exact["PSNR"], abs=1e-4)  # MMagic doesn't round the result either
    assert theirs["MAE"] == pytest.approx(exact["MAE"], abs=1e-6)
    rounded = ours(trained / "iter_5.pth", blurred, sharp, levels=255)
    assert theirs["PSNR"] == pytest.approx(rounded["PSNR"], abs=0.05)


def test_its_pictures_have_the_right_colours(trained: Path, work: Path) -> None:
    shown = read(next(trained.glob("*/vis_data/vis_image/0_5.png")))
    left, right = np.split(shown, 2, axis=1)
    assert np.array_equal(left, read(work / "data" / "val" / "sharp" / "0.png"))
    expected = restored(trained / "iter_5.pth", read(work / "data" / "val" / "blurred" / "0.png"))
    assert (rgb(right) - expected).abs().max() < 1.01 / 255


def test_our_command_resumes_and_tests_it(python: Path, trained: Path, work: Path) -> None:
    # MMagic's own can't: mmengine's files don't load under torch >= 2.6 without our loader
    said = run(
        python, "-m", "ifan_plugin.mm", "test", "base.py", trained / "iter_5.pth", "--work-dir", "tested", cwd=work
    )
    assert f"PSNR: {records(trained)[-1]['PSNR']:.4f}" in said
    more = ("--resume", trained / "iter_5.pth", "--cfg-options", "train_cfg.max_iters=7")
    run(python, "-m", "ifan_plugin.mm", "train", "base.py", "--work-dir", "resumed", *more, cwd=work)
    assert [record["step"] for record in records(work / "resumed") if "loss" in record] == [6, 7]


SMALL = [
    "train_cfg.max_iters=5", "train_cfg.val_interval=5", "default_hooks.checkpoint.interval=5",
    "model.generator.width=4", "model.generator.num_steps=2", "model.reblur.num_steps=2",
    "train_dataloader.dataset.dataroot=dpdd", "val_dataloader.dataset.dataroot=dpdd",
    "train_dataloader.dataset.patch_size=32", "train_dataloader.batch_size=2", "train_dataloader.sampler.batch_size=2",
    "train_dataloader.num_workers=0", "default_hooks.logger.interval=1", "log_processor.window_size=1",
]  # fmt: skip


def test_all_losses_are_those_on_mmengines_runner(python: Path, work: Path) -> None:
    for name in ("ifan_quickstart", "ifan_mmagic"):
        config = ROOT / "options" / "mm" / f"{name}.py"
        command = ("train", config, "--work-dir", name, "--cfg-options", *SMALL)
        run(python, "-m", "ifan_plugin.mm", *command, cwd=work)
    expected, found = records(work / "ifan_quickstart"), records(work / "ifan_mmagic")
    for one, other in zip(expected[:5], found[:5], strict=True):
        for name in ("loss", "l_deblur", "l_disparity", "l_reblur"):
            assert other[name] == pytest.approx(one[name], rel=1e-5, abs=1e-7)
    assert found[-1]["PSNR"] == pytest.approx(expected[-1]["psnr"], abs=1e-4)


def test_our_model_keeps_the_contract(python: Path, tmp_path: Path) -> None:
    run(python, Path(__file__).with_name("mmagic_contract.py"), cwd=tmp_path)


def test_what_can_be_imported_is_what_we_say(python: Path, tmp_path: Path) -> None:
    code = """
import importlib, json, os, pathlib, sys
import mmagic.datasets, mmagic.engine, mmagic.evaluation, mmagic.models, mmagic.visualization, mmcv, numpy
assert mmcv.__version__ == "2.2.0" and not hasattr(numpy, "bool8") and "diffusers" not in sys.modules
folder = pathlib.Path(mmagic.__file__).parent / "models" / "editors"
missing = {}
for name in sorted(path.name for path in folder.iterdir() if (path / "__init__.py").is_file()):
    read, write = os.pipe()
    if os.fork() == 0:  # a failed import leaves half of its classes in the registries: each in its own process
        try:
            importlib.import_module(f"mmagic.models.editors.{name}")
        except ModuleNotFoundError as error:
            os.write(write, (error.name or str(error)).encode())
        os._exit(0)
    os.wait()
    os.close(write)
    reason = os.read(read, 1000).decode()
    if reason:
        missing.setdefault(reason, []).append(name)
try:
    import mmagic.apis
except ModuleNotFoundError as error:
    missing["apis"] = [error.name]
print(json.dumps(missing))
"""
    found = json.loads(run(python, "-c", code, cwd=tmp_path).splitlines()[-1])
    assert found.pop("apis") == ["controlnet_aux"]
    assert {reason: " ".join(names) for reason, names in found.items()} == NOT_IMPORTABLE
