"""IFANModel: the host's model contract, the losses apart, precision, EMA, checkpoints, and what stops a run."""

from __future__ import annotations

import copy
import logging
import math
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

import ifan_plugin
from ifan_plugin.archs.ifan_arch import IFAN
from ifan_plugin.archs.reblur_arch import ReblurNet
from ifan_plugin.common.errors import UserError
from ifan_plugin.common.tensor_files import load_file
from ifan_plugin.host import option_check
from ifan_plugin.host.mends import mend_all
from ifan_plugin.losses import area_downsample
from ifan_plugin.models import validation
from ifan_plugin.models.validation import validate
from ifan_plugin.weights import official

ifan_plugin.register()
mend_all()

from basicsr.data import build_dataset  # noqa: E402 (the host can be imported only once it is mended)
from basicsr.models import build_model  # noqa: E402


def prepared(options: dict, folder, is_train: bool = True) -> dict:
    """Options as the host's pipeline would hand them to the model."""
    opt = option_check.check(copy.deepcopy(options), "f", is_train=is_train)
    opt |= {"dist": False, "rank": 0, "world_size": 1, "is_train": is_train}
    for name in ("models", "training_states", "visualization"):
        (folder / name).mkdir(exist_ok=True)
        opt["path"][name] = str(folder / name)
    opt["path"]["results_root"] = str(folder)
    return opt


def make(options: dict, folder, is_train: bool = True):
    torch.manual_seed(0)
    return build_model(prepared(options, folder, is_train))


def batch(options: dict, size: int = 2) -> dict:
    filled = option_check.check(copy.deepcopy(options), "f", is_train=True)["datasets"]["train"]
    dataset = build_dataset(filled)
    return default_collate([dataset[i] for i in range(size)])


def with_coc(dpdd: Path, folder: Path) -> Path:
    """A copy of the data set with the circle of confusion that ``simulate --save-coc`` writes."""
    copied = shutil.copytree(dpdd, folder / "with_coc")
    (copied / "train_coc").mkdir()
    for path in (copied / "train_c/source").iterdir():
        cv2.imwrite(str(copied / "train_coc" / path.name), np.full(cv2.imread(str(path)).shape[:2], 33000, np.uint16))
    return copied


def step(model, data, count: int = 1) -> None:
    for iteration in range(1, count + 1):
        model.update_learning_rate(iteration)
        model.feed_data(data)
        model.optimize_parameters(iteration)


def test_a_step_reaches_every_parameter_and_logs_the_losses_apart(options, tmp_path):
    model = make(options, tmp_path)
    step(model, batch(options))
    names = {"l_deblur", "l_disparity", "l_reblur", "l_total", "grad_norm"}
    assert set(model.get_current_log()) == names
    log = model.get_current_log()
    assert log["l_total"] == pytest.approx(log["l_deblur"] + log["l_disparity"] + log["l_reblur"], rel=1e-6)
    # The gradient, not the step: at first the filters are so small that some steps vanish in rounding.
    assert not [n for n, p in model.step.named_parameters() if p.grad is None or not p.grad.any()]
    assert len(model.trained) == len(list(model.net_g.parameters())) + len(list(model.net_r.parameters()))


def test_losses_fall_on_one_batch(options, tmp_path):
    options["train"]["optim_g"] = {"type": "Adam", "lr": 3e-3}
    model, data = make(options, tmp_path), batch(options)
    step(model, data)
    first = model.get_current_log()["l_total"]
    step(model, data, 30)
    assert model.get_current_log()["l_total"] < 0.5 * first


def test_loss_weights_count(options, tmp_path):
    data = batch(options)
    plain = make(options, tmp_path)
    step(plain, data)
    options["train"]["disparity_opt"]["loss_weight"] = 3.0
    weighted = make(options, tmp_path)
    step(weighted, data)
    ratio = weighted.get_current_log()["l_disparity"] / plain.get_current_log()["l_disparity"]
    assert ratio == pytest.approx(3, rel=1e-5)


def test_the_joint_gradient_is_clipped(options, tmp_path):
    options["train"] |= {"grad_clip": 1e-3, "optim_g": {"type": "SGD", "lr": 1.0}}
    model = make(options, tmp_path)
    before = [p.detach().clone() for p in model.trained]
    step(model, batch(options))
    length = math.sqrt(sum(float(((a - b.detach()) ** 2).sum()) for a, b in zip(before, model.trained)))
    assert length == pytest.approx(1e-3, rel=1e-3)
    assert model.get_current_log()["grad_norm"] > 1e-3


def test_two_steps_of_the_papers_optimiser_by_hand(options, tmp_path):
    """RAdam with decoupled decay comes from the options, over both networks, with the scheduler's rate."""
    options["train"]["optim_g"] = {"type": "RAdam", "lr": 1e-3, "weight_decay": 0.01, "decoupled_weight_decay": True}
    model, data = make(options, tmp_path), batch(options)
    twin_g, twin_r = copy.deepcopy(model.net_g), copy.deepcopy(model.net_r)
    parameters = [*twin_g.parameters(), *twin_r.parameters()]
    optimizer = torch.optim.RAdam(parameters, lr=1e-3, weight_decay=0.01, decoupled_weight_decay=True)
    for _ in range(2):
        optimizer.zero_grad()
        out = twin_g.training_outputs(data["lq"], data["left"], data["right"])
        small = torch.nn.functional.avg_pool2d(data["lq"], 8)
        reblurred = twin_r(data["gt"], out.filters)
        mse = torch.nn.functional.mse_loss
        total = mse(out.result, data["gt"]) + mse(out.warped_right, out.left_small) + mse(reblurred, small)
        total.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 0.5)
        optimizer.step()
    step(model, data, 2)
    for ours, twin in zip(model.trained, parameters):
        torch.testing.assert_close(ours, twin, rtol=0, atol=1e-7)


@pytest.mark.parametrize("poison", ["lq", "weights"])
def test_a_non_finite_loss_stops_before_anything_is_updated(options, tmp_path, poison):
    model, data = make(options, tmp_path), batch(options)
    if poison == "lq":
        data["lq"][0, 0, 0, 0] = float("nan")
    else:
        with torch.no_grad():
            model.net_g.reconstructor.to_image[0].weight.fill_(float("inf"))
    before = [p.detach().clone() for p in model.trained]
    with pytest.raises(UserError, match="training stopped at iteration 1: not finite") as caught:
        step(model, data)
    for advice in ("lr", "grad_clip", "--auto_resume", str(tmp_path / "models")):
        assert advice in str(caught.value)
    assert all(torch.equal(a, b) for a, b in zip(before, model.trained))


def test_a_non_finite_gradient_stops_too(options, tmp_path, monkeypatch):
    model, data = make(options, tmp_path), batch(options)
    model.net_g.reconstructor.to_image[0].weight.register_hook(lambda g: g * float("nan"))
    before = [p.detach().clone() for p in model.trained]
    with pytest.raises(UserError, match="gradient norm nan"):
        step(model, data)
    assert all(torch.equal(a, b) for a, b in zip(before, model.trained))


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_mixed_precision_comes_near_full(options, tmp_path, amp):
    data = batch(options)
    full = make(options, tmp_path)
    step(full, data)
    options["train"]["amp"] = amp
    mixed = make(options, tmp_path)
    dtypes = []
    mixed.net_g.reconstructor.to_image[0].register_forward_hook(lambda m, i, o: dtypes.append(o.dtype))
    step(mixed, data)
    assert dtypes == [{"bf16": torch.bfloat16, "fp16": torch.float16}[amp]]
    for name, value in full.get_current_log().items():
        if name.startswith("l_"):
            assert mixed.get_current_log()[name] == pytest.approx(value, rel=0.1)
    assert all(p.dtype is torch.float32 for p in mixed.trained)
    assert mixed.scaler.is_enabled() == (amp == "fp16")


def test_the_average_of_the_weights(options, tmp_path):
    options["train"]["ema_decay"] = 0.5
    model = make(options, tmp_path)
    start = {k: v.clone() for k, v in model.net_g.state_dict().items()}
    step(model, batch(options))
    for key, averaged in model.net_g_ema.state_dict().items():
        torch.testing.assert_close(averaged, 0.5 * start[key] + 0.5 * model.net_g.state_dict()[key])
    model.feed_data(batch(options))
    model.test()
    with torch.no_grad():
        expected = model.net_g_ema(model.lq).clamp(0, 1)
    assert torch.equal(model.output, expected)
    model.save(0, 7)
    saved = torch.load(tmp_path / "models/net_g_7.pth", weights_only=True)
    assert set(saved) == {"params", "params_ema", "hyper_parameters"}
    options["path"]["pretrain_network_g"] = str(tmp_path / "models/net_g_7.pth")
    again = make(options, tmp_path)
    for key, value in again.net_g_ema.state_dict().items():
        assert torch.equal(value, saved["params_ema"][key])


def test_without_views_the_disparity_loss_is_left_out_with_one_line(options, tmp_path, caplog):
    del options["datasets"]["train"]["aux_views"]
    logger = logging.getLogger("basicsr")
    logger.addHandler(caplog.handler)
    logger.setLevel(logging.INFO)
    try:
        model = make(options, tmp_path)
    finally:
        logger.removeHandler(caplog.handler)
    assert sum("without the disparity loss" in m for m in caplog.messages) == 1
    step(model, batch(options))
    assert "l_disparity" not in model.get_current_log()
    assert "l_reblur" in model.get_current_log()


def test_the_defocus_loss_teaches_the_map_that_the_filters_are_made_with(options, dpdd, tmp_path):
    options["train"]["defocus_opt"] = {"type": "DefocusLoss", "loss_weight": 0.5}
    with pytest.raises(UserError, match=r"train: defocus_opt: needs the circle of confusion .* set coc: true"):
        make(options, tmp_path)
    data = batch({**options, "train": {**options["train"], "defocus_opt": None}})
    coc = torch.linspace(-3, 3, 32).expand(2, 1, 32, 32)
    options["datasets"]["train"]["coc"] = True
    with pytest.raises(UserError, match="train_coc: folder not found"):
        make(options, tmp_path)
    options["datasets"]["train"]["dataroot"] = str(with_coc(dpdd, tmp_path))
    model = make(options, tmp_path)
    with pytest.raises(UserError, match=r"defocus_opt needs the circle of confusion \(coc\)"):
        step(model, data)
    before = model.net_g.training_outputs(data["lq"]).lq_disparity.detach()
    step(model, data | {"coc": coc})
    log = model.get_current_log()
    distance = (before / 0.0125 - area_downsample(coc, 8)).abs()
    expected = 0.5 * torch.where(distance < 1, distance**2 / 2, distance - 0.5).mean()
    assert log["l_defocus"] == pytest.approx(float(expected), rel=1e-4)
    parts = sum(log[name] for name in ("l_deblur", "l_disparity", "l_reblur", "l_defocus"))
    assert log["l_total"] == pytest.approx(parts, rel=1e-6)
    step(model, batch(options))  # the data set's own
    for change, words in (({"use_disparity": False}, "use_disparity: false"), ({"use_filters": False}, "use_filters")):
        other = copy.deepcopy(options)
        other["network_g"] |= change
        del other["train"]["disparity_opt"], other["train"]["reblur_opt"], other["network_r"]
        with pytest.raises(UserError, match=f"train: defocus_opt: network_g has {words}"):
            make(other, tmp_path)


def test_the_loss_of_the_predicted_biases(options, dpdd, tmp_path):
    options["train"]["filter_bias_opt"] = {"type": "FilterBiasLoss", "loss_weight": 3.0, "margin": 0.0}
    model, data = make(options, tmp_path), batch(options)
    before = model.net_g.biases_of(model.net_g.training_outputs(data["lq"]).filters).detach()
    step(model, data)
    log = model.get_current_log()
    assert log["l_filter_bias"] == pytest.approx(3 * before.clamp(max=0).abs().mean().item(), rel=1e-4)
    assert log["l_filter_bias"] > 0
    assert log["l_total"] == pytest.approx(sum(value for name, value in log.items() if name[:2] == "l_") / 2, rel=1e-6)
    for change, words in (
        ({"network_g": {"type": "DPDNet"}}, "train: filter_bias_opt: needs network_g of type IFAN, not DPDNet"),
        ({"network_g": options["network_g"] | {"use_filters": False}}, "filter_bias_opt: network_g has use_filters: f"),
        (
            {"train": options["train"] | {"filter_bias_opt": {"type": "L1Loss"}}},
            "compare what .* valid: FilterBiasLoss",
        ),
    ):
        other = copy.deepcopy({**options, **change})
        del other["train"]["disparity_opt"], other["train"]["reblur_opt"], other["network_r"]
        with pytest.raises(UserError, match=words):
            make(other, tmp_path)


@pytest.fixture
def map_alone(options, dpdd, tmp_path):
    """Options of a training of the disparity map alone."""
    options["datasets"]["train"] |= {"coc": True, "dataroot": str(with_coc(dpdd, tmp_path))}
    options["network_g"]["filter_init"] = "identity"
    for key in ("disparity_opt", "reblur_opt"):
        del options["train"][key]
    del options["network_r"]
    options["train"] |= {"pixel_opt": None, "defocus_opt": {"type": "DefocusLoss"}, "ema_decay": 0.5}
    return options


def test_without_a_pixel_loss_the_map_alone_is_trained(map_alone, tmp_path):
    """What it begins with is the loss of the whole network's map, and the other weights stay."""
    model = make(map_alone, tmp_path)
    data = batch(map_alone)
    before = {name: value.clone() for name, value in model.net_g.state_dict().items()}
    expected = model.cri_defocus(model.net_g.training_outputs(data["lq"]).lq_disparity, data["coc"]).item()
    step(model, data)
    log = model.get_current_log()
    assert set(log) == {"l_defocus", "l_total", "grad_norm"}
    assert log["l_total"] == log["l_defocus"] == pytest.approx(expected, rel=1e-5)
    changed = {name.split(".")[0] for name, value in model.net_g.state_dict().items() if not value.equal(before[name])}
    assert changed == {"filter_encoder", "disparity_estimator"}
    step(model, data, 30)
    assert model.get_current_log()["l_defocus"] < expected
    model.save(0, 31)
    saved = torch.load(tmp_path / "models/net_g_31.pth", weights_only=True)
    IFAN(**saved["hyper_parameters"]).load_state_dict(saved["params_ema"])
    assert "blur_unit" not in saved


def test_a_checkpoint_says_that_its_map_is_the_size_of_the_blur(map_alone, tmp_path):
    map_alone["train"]["defocus_opt"] |= {"signed": False, "scale": 0.25}
    make(map_alone, tmp_path).save(0, 1)
    assert torch.load(tmp_path / "models/net_g_1.pth", weights_only=True)["blur_unit"] == 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"defocus_opt": None}, r"train: pixel_opt: ~ trains IFAN's disparity map alone, which needs .*defocus_opt"),
        ({"frequency_opt": {"type": "FrequencyLoss"}}, "train: frequency_opt: not with pixel_opt: ~"),
        ({"disparity_opt": {"type": "DisparityLoss"}}, "train: disparity_opt: not with pixel_opt: ~"),
    ],
)
def test_what_needs_a_restored_picture_is_refused_without_a_pixel_loss(map_alone, tmp_path, change, words):
    map_alone["train"] |= change
    with pytest.raises(UserError, match=words):
        make(map_alone, tmp_path)


@pytest.mark.parametrize("ablation", ["no_reblur", "no_disparity_loss", "no_disparity", "plain", "dual"])
def test_every_form_trains(options, tmp_path, ablation):
    train, network = options["train"], options["network_g"]
    if ablation in ("no_reblur", "plain"):
        del options["network_r"], train["reblur_opt"]
    if ablation in ("no_disparity_loss", "no_disparity", "plain"):
        del train["disparity_opt"]
    network |= {"no_disparity": {"use_disparity": False}, "plain": {"use_filters": False}}.get(ablation, {})
    if ablation == "dual":
        network["dual_pixel"] = True
        for dataset in options["datasets"].values():
            dataset["views"] = ["center", "left", "right"]
            dataset.pop("aux_views", None)
    model = make(options, tmp_path)
    step(model, batch(options))
    expected = {
        "no_reblur": {"l_disparity"}, "no_disparity_loss": {"l_reblur"}, "no_disparity": {"l_reblur"}, "plain": set(),
        "dual": {"l_disparity", "l_reblur"},
    }[ablation]  # fmt: skip
    assert set(model.get_current_log()) == expected | {"l_deblur", "l_total", "grad_norm"}


def test_any_network_of_the_host_trains(options, tmp_path):
    options["network_g"] = {"type": "SRVGGNetCompact", "num_feat": 4, "num_conv": 1, "upscale": 1}
    del options["network_r"], options["train"]["reblur_opt"], options["train"]["disparity_opt"]
    model = make(options, tmp_path)
    step(model, batch(options))
    assert set(model.get_current_log()) == {"l_deblur", "l_total", "grad_norm"}
    model.test()
    assert model.disparity_map() is None


def test_state_goes_out_and_comes_back(options, tmp_path):
    options["train"]["amp"] = "fp16"
    model, data = make(options, tmp_path), batch(options)
    step(model, data)
    model.best_metric_results = {"val_set": {"psnr": {"better": "higher", "val": 30.5, "iter": 1}}}
    model.scaler.update(256.0)
    model.save(0, 1)
    state = load_file(tmp_path / "training_states/1.state")
    options["path"] |= {
        "pretrain_network_g": str(tmp_path / "models/net_g_1.pth"),
        "pretrain_network_r": str(tmp_path / "models/net_r_1.pth"),
    }
    again = make(options, tmp_path)
    again.resume_training(state)
    assert again.best_metric_results == model.best_metric_results
    assert again.scaler.get_scale() == 256.0
    for a, b in zip(model.trained, again.trained):
        assert torch.equal(a, b)
    model.scaler, again.scaler = (torch.amp.GradScaler("cpu", enabled=False) for _ in range(2))
    for each in (model, again):
        each.feed_data(data)
        each.optimize_parameters(2)
    for a, b in zip(model.trained, again.trained):
        assert torch.equal(a, b)


# --- checkpoints -----------------------------------------------------------------------------------------------------


def official_file(folder, name: str = "IFAN.pytorch", prefix: str = "module.", **kwargs):
    """A file as the authors' code writes it, with random weights."""
    torch.manual_seed(5)
    network = IFAN(**kwargs)
    reblur = ReblurNet(network.filter_channels, kwargs["width"], 2, res_units=kwargs.get("res_units", 2))
    content = official.to_official(network.state_dict(), reblur.state_dict())
    path = folder / name
    torch.save({prefix + key.removeprefix("module."): value for key, value in content.items()}, path)
    return path, network, reblur


def test_the_authors_file_loads_as_it_is(options, tmp_path):
    path, network, _ = official_file(tmp_path, width=8, num_steps=3, res_units=1)
    options |= {"network_g": {"type": "IFAN"}, "path": {"pretrain_network_g": str(path)}}
    options["datasets"] = {"test": {**options["datasets"]["val"], "name": "t"}}
    opt = prepared(options, tmp_path, is_train=False)
    expected = {"width": 8, "num_steps": 3, "res_units": 1, "dual_pixel": False, "isotropic": True}
    assert opt["network_g"].items() >= expected.items()
    model = build_model(opt)
    assert model.net_g.iac.isotropic
    for key, value in network.state_dict().items():
        assert torch.equal(model.net_g.state_dict()[key], value)


def test_training_may_start_from_the_authors_file(options, tmp_path):
    path, network, reblur = official_file(tmp_path, width=4, num_steps=2, res_units=1)
    options["path"] = {"pretrain_network_g": str(path), "pretrain_network_r": str(path)}
    model = make(options, tmp_path)
    assert torch.equal(next(model.net_g.parameters()), next(network.parameters()))
    assert torch.equal(next(model.net_r.parameters()), next(reblur.parameters()))
    step(model, batch(options))


@pytest.mark.parametrize(
    ("network", "message"),
    [({"width": 16}, "width"), ({"num_steps": 17}, "num_steps"), ({"dual_pixel": True}, "dual_pixel")],
)
def test_other_hyper_parameters_are_one_line(options, tmp_path, network, message):
    path, _, _ = official_file(tmp_path, width=8, num_steps=3, res_units=1)
    options |= {"network_g": {"type": "IFAN"} | network, "path": {"pretrain_network_g": str(path)}}
    options["datasets"] = {"test": {**options["datasets"]["val"], "name": "t"}}
    with pytest.raises(UserError, match=message) as caught:
        prepared(options, tmp_path, is_train=False)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_our_checkpoints_remember_what_shapes_do_not_tell(options, tmp_path):
    options["network_g"]["isotropic"] = True
    make(options, tmp_path).save(0, 3)
    options |= {"network_g": {"type": "IFAN"}, "path": {"pretrain_network_g": str(tmp_path / "models/net_g_3.pth")}}
    options["datasets"] = {"test": {**options["datasets"]["val"], "name": "t"}}
    assert make(options, tmp_path, is_train=False).net_g.iac.isotropic
    options["network_g"]["isotropic"] = False
    with pytest.raises(UserError, match="isotropic is True in the checkpoint, but False was asked for"):
        prepared(options, tmp_path, is_train=False)


def test_a_metric_added_before_a_resume_gets_its_record(options, tmp_path):
    model = make(options, tmp_path)
    model.best_metric_results = {"val_set": {"psnr": {"better": "higher", "val": 30.5, "iter": 1}}}
    model.opt["val"]["metrics"]["mae"] = {"type": "mae", "better": "lower"}
    validate(model, build_dataset(model.opt["datasets"]["val"]), 1, None, save_img=False)
    records = model.best_metric_results["val_set"]
    assert records["psnr"]["val"] == 30.5
    assert records["mae"]["iter"] == 1


def test_the_protocol_is_named_for_what_it_is(options, tmp_path):
    model = make(options, tmp_path)
    assert validation._protocol(model, "val_set") == "ifan"
    model.opt["datasets"]["val"]["crop_multiple"] = 1
    assert validation._protocol(model, "val_set") == "custom"
    model.opt["datasets"]["val"].pop("crop_multiple")
    model.opt["val"]["metrics"]["host"] = {"type": "calculate_psnr", "crop_border": 0}
    assert validation._protocol(model, "val_set") == "custom"


def test_no_reference_metrics_need_no_sharp_picture(options, tmp_path):
    options["datasets"]["val"]["gt"] = "none"
    options["val"]["metrics"]["niqe"] = {"type": "calculate_niqe", "crop_border": 0, "better": "lower"}
    model = make(options, tmp_path)
    dataset = build_dataset(model.opt["datasets"]["val"])
    model.feed_data(default_collate([dataset[0]]))
    model.output = torch.rand(1, 3, 192, 192)
    measured = validation._measure(model, dataset, model.opt["val"], {})
    assert set(measured["restored"]) == {"niqe"}


def test_a_validation_set_without_ground_truth_while_training(options, tmp_path, caplog):
    """Its no-reference figures are kept like others, and what can't be measured is said once a validation."""
    options["datasets"]["val"]["gt"] = "none"
    options["val"]["metrics"]["sharpness"] = {"type": "sharpness"}
    model = make(options, tmp_path)
    logger = logging.getLogger("basicsr")
    logger.addHandler(caplog.handler)
    logger.setLevel(logging.INFO)
    try:
        validate(model, build_dataset(model.opt["datasets"]["val"]), 2, None, save_img=False)
    finally:
        logger.removeHandler(caplog.handler)
    assert sum("no ground truth" in message for message in caplog.messages) == 1
    assert (
        "val_set: no ground truth: pictures and no-reference metrics (sharpness) only; "
        "left out, for want of sharp pictures: psnr." in caplog.messages
    )
    records = model.best_metric_results["val_set"]
    assert records["sharpness"]["iter"] == 2
    assert records["psnr"]["iter"] == -1


@pytest.mark.parametrize("bit_depth", [8, 16])
def test_saved_pictures_are_the_networks_output_to_half_a_step(options, tmp_path, bit_depth):
    from ifan_plugin.images.image_io import read_header, read_image

    options["datasets"]["val"]["bit_depth"] = bit_depth
    model = make(options, tmp_path)
    step(model, batch(options), 3)
    outputs, test = [], model.test
    model.test = lambda: (test(), outputs.append(model.output))
    validate(model, build_dataset(model.opt["datasets"]["val"]), 3, None, save_img=True)
    saved = sorted((tmp_path / "visualization/val_set").rglob("*_3.png"))
    assert len(saved) == len(outputs) == 3
    for path, output in zip(saved, outputs):
        assert read_header(path).bit_depth == bit_depth
        error = (torch.from_numpy(read_image(path, bit_depth)).permute(2, 0, 1) - output[0]).abs().max()
        assert 0 < error < 0.5 / (2**bit_depth - 1) + 1e-7


def test_no_reference_figures_do_not_change_the_protocols_name(options, tmp_path):
    options["val"]["metrics"] |= {"niqe": {"type": "niqe", "better": "lower"}, "sharpness": {"type": "sharpness"}}
    assert validation._protocol(make(options, tmp_path), "val_set") == "ifan"


def test_separable_filters_may_be_asked_of_the_authors_file(options, tmp_path):
    path, _, _ = official_file(tmp_path, width=8, num_steps=3, res_units=1)
    options |= {"network_g": {"type": "IFAN", "isotropic": False}, "path": {"pretrain_network_g": str(path)}}
    options["datasets"] = {"test": {**options["datasets"]["val"], "name": "t"}}
    assert prepared(options, tmp_path, is_train=False)["network_g"]["isotropic"] is False


def test_a_pickle_that_wants_to_run_code_is_refused(options, tmp_path):
    import os

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'owned'}",)

    path = tmp_path / "evil.pth"
    torch.save({"params": Evil()}, path)
    options["path"] = {"pretrain_network_g": str(path)}
    with pytest.raises(UserError, match=r"evil\.pth") as caught:
        prepared(options, tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "owned").exists()


def test_weights_of_another_network_are_one_line(options, tmp_path):
    options["network_g"] = {"type": "SRVGGNetCompact", "num_feat": 4, "num_conv": 1, "upscale": 1}
    del options["network_r"], options["train"]["reblur_opt"], options["train"]["disparity_opt"]
    path = tmp_path / "other.pth"
    torch.save({"params": {"conv.weight": torch.zeros(3)}}, path)
    options["path"] = {"pretrain_network_g": str(path)}
    with pytest.raises(UserError, match=r"other\.pth: doesn't fit SRVGGNetCompact") as caught:
        make(options, tmp_path)
    assert "\n" not in str(caught.value)
