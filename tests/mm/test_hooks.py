"""Checkpoints, averaged weights, pictures, and what stops a run, on mmengine's Runner."""

from __future__ import annotations

import copy
import errno
import json
import types
from pathlib import Path

import pytest

pytest.importorskip("mmengine", reason="mmengine isn't installed (pip install ifan-plugin[mm])")

import cv2
import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.structures import BaseDataElement
from runner_cases import build_runner, small_config, write_weights

from ifan_plugin.archs.ifan_arch import IFAN
from ifan_plugin.common.errors import UserError
from ifan_plugin.common.tensor_files import load_file
from ifan_plugin.data.dual_pixel_dataset import DualPixelDataset
from ifan_plugin.inference import run_network
from ifan_plugin.metrics import psnr
from ifan_plugin.mm import hooks
from ifan_plugin.mm.checkpoints import scoped_loader
from ifan_plugin.mm.pictures import RestorationVisualizationHook


@pytest.fixture
def config(dpdd, tmp_path) -> dict:
    """Four iterations, validation every two, with our checkpoint hook."""
    config = small_config(dpdd, tmp_path / "work")
    config["train_cfg"] = {"type": "ResumableTrainLoop", "max_iters": 4, "val_interval": 2}
    config["default_hooks"]["checkpoint"] = {"type": "AsideCheckpointHook", "interval": 1, "save_best": "psnr"}
    return config


class Figures(Hook):
    """Puts figures of our own in the place of the measured ones."""

    priority = "VERY_HIGH"

    def __init__(self, *figures: float) -> None:
        self.figures = list(figures)

    def after_val_epoch(self, runner, metrics=None):
        metrics["psnr"] = self.figures.pop(0)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.pth")}


def run(config: dict, *registered: Hook, command: str = "train"):
    with scoped_loader():
        runner = build_runner(config)
        for hook in registered:
            runner.register_hook(hook)
        getattr(runner, command)()
    return runner


# --- checkpoints --------------------------------------------------------------------------------------------------


def test_the_best_and_the_latest_are_kept_and_a_resumed_run_knows_the_best(config, tmp_path):
    work = tmp_path / "work"
    config["default_hooks"]["checkpoint"]["max_keep_ckpts"] = 2
    run(config, Figures(21.0, 20.0))
    assert names(work) == {"iter_3.pth", "iter_4.pth", "best_psnr_iter_2.pth"}
    assert Path((work / "last_checkpoint").read_text()).name == "iter_4.pth"
    config["train_cfg"]["max_iters"] = 8
    config |= {"resume": True, "load_from": str(work / "iter_4.pth")}
    run(config, Figures(20.0, 20.5, 21.5))  # the resumed iteration is validated first
    assert names(work) == {"iter_7.pth", "iter_8.pth", "best_psnr_iter_8.pth"}  # 20.5 wasn't the best, 21.5 is


@pytest.mark.parametrize(
    ("metric", "rule"), [("psnr", "greater"), ("ssim", "greater"), ("mae", "less"), ("lpips", "less")]
)
def test_what_is_better_is_known(metric, rule):
    assert hooks.AsideCheckpointHook(save_best=metric).rules == [rule]


def test_a_save_that_fails_ends_the_run_and_leaves_the_old_file(config, tmp_path, monkeypatch):
    path = tmp_path / "iter_1.pth"
    backend = hooks.AsideBackend()
    backend.put(b"whole", path)
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(UserError, match=r"iter_1\.pth: can't be written: No space left"):
        backend.put(b"something longer", path)
    assert path.read_bytes() == b"whole"
    assert [p.name for p in tmp_path.iterdir()] == ["iter_1.pth"]
    with pytest.raises(UserError, match="can't be written"):
        run(config)
    assert not names(tmp_path / "work")


def test_a_save_that_fails_leaves_the_latest_and_the_best(config, tmp_path, monkeypatch):
    """mmengine's own hook removes what isn't kept before it saves."""
    work = tmp_path / "work"
    config["default_hooks"]["checkpoint"] |= {"max_keep_ckpts": 1, "save_best": ["psnr", "ssim"]}
    run(config, Figures(21.0, 20.0))
    before = names(work)
    assert "iter_4.pth" in before
    assert "best_psnr_iter_2.pth" in before
    config["train_cfg"]["max_iters"] = 6
    config |= {"resume": True, "load_from": str(work / "iter_4.pth")}

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    class Fill(Hook):
        def __init__(self, at: str) -> None:
            self.at = at

        def before_train(self, runner):
            if self.at == "latest":
                monkeypatch.setattr("os.fsync", full)

        def before_val_epoch(self, runner):
            if self.at == "best" and runner.iter > 4:
                monkeypatch.setattr("os.fsync", full)

    for at in ("latest", "best"):
        with pytest.raises(UserError, match="can't be written"):
            run(config, Fill(at), Figures(20.0, 22.0))
        monkeypatch.undo()
        assert names(work) == (before if at == "latest" else before - {"iter_4.pth"} | {"iter_6.pth"})
    config["train_cfg"]["max_iters"] = 8
    run(config | {"load_from": str(work / "iter_6.pth")}, Figures(20.0, 22.0))
    assert {"best_psnr_iter_8.pth", "iter_8.pth"} <= names(work)
    assert not {"best_psnr_iter_2.pth", "iter_6.pth"} & names(work)


def test_a_checkpoint_that_is_written_anew_under_its_name_stays(config, tmp_path):
    config["default_hooks"]["checkpoint"] |= {"max_keep_ckpts": 1, "filename_tmpl": "latest.pth"}
    run(config, Figures(21.0, 22.0))
    assert names(tmp_path / "work") == {"latest.pth", "best_psnr_latest.pth"}


def resumed_with(config: dict, path: Path, key: str, named: object, *figures: float) -> None:
    """Go on to iteration 4 from a copy of ``path`` that calls ``named`` the best so far."""
    content = torch.load(path, weights_only=False)
    content["message_hub"]["runtime_info"][key] = named
    spoilt = path.with_name("stranger's.pth")
    torch.save(content, spoilt)
    config = copy.deepcopy(config) | {"resume": True, "load_from": str(spoilt)}
    config["train_cfg"]["max_iters"] = 4
    run(config, Figures(20.0, *figures))  # the resumed iteration's validation comes first


@pytest.mark.parametrize(
    ("kind", "figures"),
    [("AsideCheckpointHook", "psnr"), ("AsideCheckpointHook", ["psnr", "ssim"]), ("CheckpointHook", "psnr")],
)
def test_a_strangers_checkpoint_names_nothing_that_is_removed(config, tmp_path, kind, figures):
    """mmengine removes what message_hub calls the best so far, a whole folder as well, at the next better one."""
    config["train_cfg"]["max_iters"] = 2
    config["default_hooks"]["checkpoint"] |= {"type": kind, "by_epoch": False, "save_best": figures, "rule": "greater"}
    run(config, Figures(20.0))
    work = tmp_path / "work"
    folder, file, link = tmp_path / "precious", work / "notes.txt", work / "best_psnr_link.pth"
    folder.mkdir()
    file.write_text("mine")
    link.symlink_to(file)
    key = "best_ckpt" if figures == "psnr" else "best_ckpt_psnr"
    for named in (str(folder), str(file), str(link), 3):
        resumed_with(config, work / "iter_2.pth", key, named, 25.0)
        assert folder.is_dir()
        assert file.is_file()
        assert link.is_symlink()


@pytest.mark.parametrize("figures", ["psnr", ["psnr", "ssim"]])
def test_a_run_resumed_in_another_folder_leaves_the_old_ones_best(config, tmp_path, figures):
    config["train_cfg"]["max_iters"] = 2
    config["default_hooks"]["checkpoint"]["save_best"] = figures
    run(config, Figures(20.0))
    best = tmp_path / "work" / "best_psnr_iter_2.pth"
    key = "best_ckpt" if figures == "psnr" else "best_ckpt_psnr"
    config["work_dir"] = str(tmp_path / "elsewhere")
    resumed_with(config, tmp_path / "work" / "iter_2.pth", key, str(best), 25.0)
    assert best.is_file()
    assert (tmp_path / "elsewhere" / "best_psnr_iter_4.pth").is_file()


@pytest.mark.parametrize("kept", [["../../x"], [True], "12"])
def test_kept_checkpoints_that_arent_numbers_are_refused(config, tmp_path, kept):
    config["default_hooks"]["checkpoint"] |= {"max_keep_ckpts": 1}
    config["train_cfg"]["max_iters"] = 1
    run(config, Figures(20.0))
    path = tmp_path / "work" / "iter_1.pth"
    content = torch.load(path, weights_only=False)
    content["message_hub"]["runtime_info"]["keep_ckpt_ids"] = kept
    torch.save(content, path)
    with pytest.raises(UserError, match=r"iter_1\.pth: message_hub: keep_ckpt_ids: must be a list of iterations"):
        run(config | {"resume": True, "load_from": str(path)})


def test_remains_of_killed_saves_are_removed(config, tmp_path):
    remains = tmp_path / "work" / ".iter_9.pth.aside.x7"
    remains.parent.mkdir()
    remains.write_bytes(b"half")
    run(config)
    assert not remains.exists()


def test_save_best_of_a_figure_that_isnt_measured(config):
    config["default_hooks"]["checkpoint"] |= {"save_best": "psnr_y", "rule": "greater"}
    with pytest.raises(UserError, match=r"save_best: no figure 'psnr_y' was measured; did you mean 'psnr'\?"):
        run(config)


# --- averaged weights ---------------------------------------------------------------------------------------------


def test_the_average_begins_with_the_starting_weights_and_is_what_is_validated(config, dpdd, tmp_path):
    net_g, _ = write_weights(tmp_path)
    config["model"]["pretrained"] = str(net_g)
    config["custom_hooks"] = [{"type": "BasicSREMAHook", "decay": 0.75}]
    config["default_hooks"]["checkpoint"]["save_best"] = None
    seen = []

    class Watch(Hook):
        priority = "VERY_LOW"

        def before_train(self, runner):
            seen.append(copy.deepcopy(runner.model.generator.state_dict()))

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            seen.append(copy.deepcopy(runner.model.generator.state_dict()))

        def before_val_epoch(self, runner):
            self.validated = copy.deepcopy(runner.model.generator.state_dict())

    watch = Watch()
    run(config, watch)
    average = load_file(net_g)["params"]
    torch.testing.assert_close(seen[0], average, rtol=0, atol=0)
    for weights in seen[1:]:
        average = {key: 0.75 * value + 0.25 * weights[key] for key, value in average.items()}
    torch.testing.assert_close(dict(watch.validated), average, rtol=1e-5, atol=1e-7)

    config |= {"resume": True, "load_from": str(tmp_path / "work" / "iter_2.pth"), "work_dir": str(tmp_path / "again")}
    resumed = Watch()
    run(config, resumed)
    torch.testing.assert_close(resumed.validated, watch.validated, rtol=0, atol=0)


def test_an_average_that_begins_with_a_resumed_run_averages(config, tmp_path):
    """The run before had none: its weights are where the average starts."""
    config["train_cfg"] |= {"max_iters": 2, "val_interval": 9}
    config["default_hooks"]["checkpoint"]["save_best"] = None
    run(config)
    started = load_file(tmp_path / "work" / "iter_2.pth")["state_dict"]
    config["train_cfg"]["max_iters"] = 3
    config["custom_hooks"] = [{"type": "BasicSREMAHook", "decay": 0.75}]
    run(config | {"resume": True, "load_from": str(tmp_path / "work" / "iter_2.pth")})
    saved = load_file(tmp_path / "work" / "iter_3.pth")
    last = {name.removeprefix("module."): value for name, value in saved["ema_state_dict"].items()}
    for name, average in saved["state_dict"].items():
        torch.testing.assert_close(average, 0.75 * started[name] + 0.25 * last[name], rtol=1e-5, atol=1e-7)


def test_a_model_that_isnt_strict_has_an_average_that_isnt(config, tmp_path):
    net_g, _ = write_weights(tmp_path)
    content = torch.load(net_g, weights_only=True)
    removed = content["params"].popitem()[0]
    torch.save({"params": content["params"]}, net_g)
    config["model"]["strict_load"] = False
    config["train_cfg"]["max_iters"] = 1
    config["custom_hooks"] = [{"type": "BasicSREMAHook"}]
    runner = run(config | {"load_from": str(net_g)})
    assert removed in runner.model.generator.state_dict()


@pytest.mark.parametrize("decay", [0, 1, -0.5])
def test_decays_that_average_nothing_are_refused(decay):
    with pytest.raises(UserError, match="decay: must be between 0 and 1"):
        hooks.BasicSREMAHook(decay=decay)


# --- what stops a run ---------------------------------------------------------------------------------------------


def test_a_gradient_that_isnt_finite_stops_the_run_before_it_is_saved(config, tmp_path):
    class Spoil(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            if batch_idx == 2:  # the loss stays finite
                runner.model.generator.reconstructor.to_image[0].weight.register_hook(lambda grad: grad * np.nan)

    config["custom_hooks"] = [{"type": "FiniteGradientHook"}]
    with pytest.raises(UserError, match=r"stopped at iteration 3: not finite \(gradient norm nan, loss .*--resume"):
        run(config, Spoil())
    assert names(tmp_path / "work") == {"iter_1.pth", "iter_2.pth", "best_psnr_iter_2.pth"}


def test_steps_that_a_loss_scaler_skips_stop_nothing():
    norms = types.SimpleNamespace(current=lambda: float("inf"))
    runner = types.SimpleNamespace(
        message_hub=types.SimpleNamespace(log_scalars={"train/grad_norm": norms}),
        optim_wrapper=types.SimpleNamespace(loss_scaler=object()), iter=0, work_dir="w",
    )  # fmt: skip
    hooks.FiniteGradientHook().after_train_iter(runner, 0)
    del runner.optim_wrapper.loss_scaler
    with pytest.raises(UserError, match="gradient norm inf"):
        hooks.FiniteGradientHook().after_train_iter(runner, 0)


# --- pictures -----------------------------------------------------------------------------------------------------


def read(path: Path) -> np.ndarray:
    return cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)[..., ::-1]


def test_tested_pictures_and_disparity_maps_are_the_networks(config, dpdd, tmp_path):
    net_g, _ = write_weights(tmp_path)
    config["custom_hooks"] = [{"type": "RestorationVisualizationHook", "contact_sheet": 2}]
    config["test_dataloader"]["dataset"]["name"] = "small tést"
    run(config | {"load_from": str(net_g)}, command="test")
    network = IFAN(width=4, num_steps=2, res_units=1)
    network.load_state_dict(load_file(net_g)["params"])
    dataset = DualPixelDataset({"phase": "test", "dataroot": str(dpdd), "bit_depth": 16})
    folder = tmp_path / "work" / "visualization" / "small tést"
    expected = {"contact_sheet.png"}
    for sample in dataset:
        key, lq = sample["key"], sample["lq"][None]
        restored = run_network(network, lq)[0].permute(1, 2, 0).numpy()
        picture = read(folder / f"{key}.png")
        assert picture.dtype == np.uint16  # as the data
        np.testing.assert_array_equal(picture, np.round(restored * 65535))
        with torch.no_grad():
            disparity = network.disparity(lq)[0, 0].numpy()
        np.testing.assert_allclose(np.load(folder / f"{key}_disparity.npy"), disparity, rtol=0, atol=1e-7)
        assert read(folder / f"{key}_disparity.png").shape == (*disparity.shape, 3)
        expected |= {f"{key}.png", f"{key}_disparity.png", f"{key}_disparity.npy"}
    assert {path.name for path in folder.iterdir()} == expected
    assert read(folder / "contact_sheet.png").shape[1] > 4 * 300  # blurred, restored, sharp, disparity


def test_validation_writes_a_sheet_each_time_and_pictures_where_asked(config, tmp_path):
    config["custom_hooks"] = [
        {"type": "RestorationVisualizationHook", "contact_sheet": 1, "save": "val", "disparity": False}
    ]
    config["visualizer"] = {"type": "Visualizer", "vis_backends": [{"type": "LocalVisBackend"}]}
    run(config)
    folder = tmp_path / "work" / "visualization" / "val"
    found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    scenes = ["1P0A0001", "1P0A0003", "1P0A0005"]
    expected = [f"{scene}/{scene}_{step}.png" for scene in scenes for step in (2, 4)]
    assert found == sorted([*expected, "contact_sheet_2.png", "contact_sheet_4.png"])
    assert read(folder / "contact_sheet_2.png").shape[1] < 4 * 300  # no disparity


def test_the_sheet_goes_to_tensorboard_too(config, tmp_path):
    event_accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="TensorBoard isn't installed"
    )
    config["custom_hooks"] = [{"type": "RestorationVisualizationHook", "contact_sheet": 1}]
    config["visualizer"] = {"type": "Visualizer", "vis_backends": [{"type": "TensorboardVisBackend"}]}
    run(config)
    events = next((tmp_path / "work").rglob("events.out.tfevents*"))
    accumulator = event_accumulator.EventAccumulator(str(events.parent))
    accumulator.Reload()
    assert [event.step for event in accumulator.Images("pictures/val")] == [2, 4]


def test_pictures_are_turned_back_and_captions_are_the_figures(monkeypatch, tmp_path):
    """A scene of PixelDP is turned for the network, and back for people; a dual network's centre view is the first."""
    torch.manual_seed(0)
    img, gt = torch.rand(9, 8, 16), torch.rand(3, 8, 16)
    sample = BaseDataElement(
        metainfo={"key": "scène", "views": ("left", "center", "right"), "rotate_back": 3, "bit_depth": 8},
        img=img, gt_img=gt, output=BaseDataElement(pred_img=gt * 0.9, disparity=torch.ones(1, 1, 2)),
    )  # fmt: skip
    loader = types.SimpleNamespace(dataset=[0], batch_size=1)
    written = {}
    monkeypatch.setattr(
        "ifan_plugin.mm.pictures.contact_sheet", lambda rows: written.update(rows=rows) or np.zeros((4, 4, 3))
    )
    runner = types.SimpleNamespace(
        test_loop=types.SimpleNamespace(dataloader=loader), work_dir=str(tmp_path), rank=0, model=torch.nn.Identity(),
        logger=types.SimpleNamespace(info=lambda text: written.update(logged=text)),
        visualizer=types.SimpleNamespace(_vis_backends={}),
    )  # fmt: skip
    hook = RestorationVisualizationHook(contact_sheet=1)
    hook.after_test_iter(runner, 0, None, [sample])
    hook.after_test_epoch(runner)
    (row,) = written["rows"]
    blurred, restored = f"blurred {psnr(img[3:6], gt):.2f} dB", f"restored {psnr(gt * 0.9, gt):.2f} dB"
    assert [caption for caption, _ in row] == [blurred, restored, "ground truth", "disparity: blue -, red +"]
    assert [picture.shape for _, picture in row] == [(16, 8, 3)] * 3 + [(2, 1, 3)]
    turned = np.rot90(gt.permute(1, 2, 0).numpy(), 3)
    np.testing.assert_array_equal(row[2][1], np.round(turned * 255).astype(np.uint8))
    assert read(tmp_path / "visualization" / "test" / "scène.png").shape == (16, 8, 3)
    assert json.dumps(str(written["logged"]))


def test_validation_has_a_bar_and_training_has_none(config, capfd):
    bar = hooks.ProgressBarHook()
    config["train_cfg"] |= {"max_iters": 1}
    run(config, bar)
    assert (bar._bar.n, bar._bar.total) == (3, 3)
    said = capfd.readouterr().err
    assert "val:" in said
    assert "0/3" in said
    assert "train:" not in said


@pytest.mark.parametrize(
    ("options", "message"), [({"save": ["tests"]}, "did you mean 'test'"), ({"contact_sheet": -1}, "at least 0")]
)
def test_wrong_options_of_the_picture_hook(options, message):
    with pytest.raises(UserError, match=message):
        RestorationVisualizationHook(**options)
