"""`val: protocol` and `val: labels`: what they set, what they refuse, and what stands in logs, CSV and JSON."""

from __future__ import annotations

import copy
import csv
import functools
import json
import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers import small_options, write_dpdd
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

import ifan_plugin
from ifan_plugin.common.errors import UserError
from ifan_plugin.host import option_check
from ifan_plugin.host.mends import mend_all
from ifan_plugin.models import evaluation_options, figures

ifan_plugin.register()
mend_all()

from basicsr.data import build_dataset  # noqa: E402 (the host can be imported only once it is mended)
from basicsr.metrics import calculate_psnr, calculate_ssim  # noqa: E402
from basicsr.models import build_model  # noqa: E402
from basicsr.utils.registry import ARCH_REGISTRY  # noqa: E402


class KeepCentre(torch.nn.Module):
    """Gives back the first view: the figures are those of the blurred input, which tests can compute themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, lq: torch.Tensor) -> torch.Tensor:
        return lq[:, :3] * self.weight


if "KeepCentre" not in ARCH_REGISTRY:
    ARCH_REGISTRY.register()(KeepCentre)


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three scenes of 61x45 pixels, 16 bit, so that reading, cropping and resizing all show."""
    return write_dpdd(tmp_path_factory.mktemp("ungerade Größe"), {"test": 3}, height=45, width=61)


@pytest.fixture
def options(odd: Path) -> dict:
    return {
        "name": "evaluation",
        "model_type": "IFANModel",
        "num_gpu": 0,
        "datasets": {"test": {"name": "odd", "type": "DualPixelDataset", "dataroot": str(odd)}},
        "network_g": {"type": "KeepCentre"},
        "path": {},
        "val": {"protocol": "ifan"},
    }


def checked(options: dict) -> dict:
    return option_check.check(copy.deepcopy(options), "f.yml", is_train=False)


def run(options: dict, folder: Path, caplog: pytest.LogCaptureFixture) -> tuple[dict, list[dict], str]:
    """Test as the host's pipeline does; gives metrics.json, the rows of metrics.csv, and the log."""
    opt = checked(options) | {"dist": False, "rank": 0, "world_size": 1, "is_train": False}
    opt["val"]["pbar"] = False
    opt["path"] |= {"results_root": str(folder), "visualization": str(folder / "pictures")}
    logger = logging.getLogger("basicsr")
    logger.addHandler(caplog.handler)
    logger.setLevel(logging.INFO)
    try:
        build_model(opt).validation(build_loader(opt), "evaluation", None, False)
    finally:
        logger.removeHandler(caplog.handler)
    content = json.loads((folder / "odd/metrics.json").read_text())
    with (folder / "odd/metrics.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return content, rows, "\n".join(caplog.messages)


class build_loader:  # noqa: N801 (it stands for a function)
    """All that validation takes of a loader is its data set."""

    def __init__(self, opt: dict) -> None:
        self.dataset = build_dataset(opt["datasets"]["test"])


def stored(odd: Path, number: int) -> list[np.ndarray]:
    """(blurred, sharp) as they lie in the files: uint16 [45, 61, 3], RGB."""
    stems = (f"source/1P0A{2 * number + 1:04d}", f"target/1P0A{2 * number:04d}")
    return [cv2.imread(str(odd / f"test_c/{stem}.png"), cv2.IMREAD_UNCHANGED)[..., ::-1] for stem in stems]


def as_the_protocol_reads(name: str, pixels: np.ndarray) -> np.ndarray:
    """Written from the protocols' descriptions, without the package."""
    if name == "dpdnet":
        return cv2.resize(pixels / 65535.0, (1680, 1120)).clip(0, 1)
    picture = (pixels >> 8) / 255.0
    return picture[:40, :56] if name == "ifan" else picture


@functools.cache
def expected(name: str, odd: Path) -> dict[str, np.ndarray]:
    found = []
    for number in range(3):
        blurred, sharp = (as_the_protocol_reads(name, pixels) for pixels in stored(odd, number))
        if name == "basicsr":
            eight = [np.round(p * 255).astype(np.uint8) for p in (blurred, sharp)]
            quality = calculate_psnr(*eight, crop_border=0), calculate_ssim(*eight, crop_border=0)
        else:
            quality = (
                peak_signal_noise_ratio(sharp, blurred, data_range=1),
                structural_similarity(sharp, blurred, channel_axis=2, data_range=1),
            )
        found.append((*quality, np.abs(blurred - sharp).mean()))
    return dict(zip(("psnr", "ssim", "mae"), np.transpose(found)))


@pytest.mark.parametrize("name", ["ifan", "restormer", "dpdnet", "basicsr"])
def test_every_protocol_from_file_to_table(options, odd, tmp_path, caplog, name):
    """Figures computed anew from the files, by scikit-image and the host; the protocol's name wherever they stand."""
    options["val"]["protocol"] = name
    content, rows, log = run(options, tmp_path, caplog)
    for metric, values in expected(name, odd).items():
        tolerance = 2e-4 if name == "dpdnet" and metric == "psnr" else 2e-5  # resized in float32
        for image, value in zip(content["images"], values):
            assert image["restored"][metric] == pytest.approx(value, abs=tolerance)
        assert content["mean"]["restored"][metric] == pytest.approx(values.mean(), abs=tolerance)
        assert [float(row[f"restored_{metric}"]) for row in rows] == [i["restored"][metric] for i in content["images"]]
    assert content["protocol"] == name
    assert content["count"] == 3
    depth, multiple = {"ifan": (8, 8), "dpdnet": (16, 1)}.get(name, (8, 1))
    assert content["data"].items() >= {"bit_depth": depth, "crop_multiple": multiple}.items()
    assert {row["protocol"] for row in rows} == {name}
    assert f"Validation odd: mean of 3 pictures, protocol {name} (" in log


def test_without_a_protocol_the_file_says_what_was_measured(options, tmp_path, caplog):
    options["val"] = {"metrics": {"psnr": {"type": "psnr"}}}
    content, rows, log = run(options, tmp_path / "a", caplog)
    assert content["protocol"] == rows[0]["protocol"] == "ifan"
    assert content["data"].items() >= {"type": "DualPixelDataset", "bit_depth": 8, "crop_multiple": 8}.items()
    options["datasets"]["test"] |= {"crop_multiple": 1, "bit_depth": 16}
    content, rows, log = run(options, tmp_path / "b", caplog)
    assert content["protocol"] == rows[0]["protocol"] == "custom"
    assert content["data"].items() >= {"bit_depth": 16, "crop_multiple": 1}.items()
    assert "protocol custom (not comparable with published figures)" in log


def test_validation_while_training_keeps_to_the_protocol(dpdd, odd, tmp_path):
    options = small_options(dpdd)
    del options["datasets"]["val"]["bit_depth"]
    options["datasets"]["train"]["crop_multiple"] = 8  # training's own business
    scenes = [f"1P0A{number:04d}" for number in (1, 3, 5)]
    path = label_file(tmp_path, "".join(f"{scene},x\n" for scene in scenes))
    options["val"] = {"val_freq": 2, "protocol": "restormer", "labels": str(path)}
    found = option_check.check(options, "f.yml", is_train=True)
    assert found["datasets"]["val"]["crop_multiple"] == 1
    assert found["datasets"]["val"]["bit_depth"] == 8
    assert found["datasets"]["train"]["crop_multiple"] == 8
    assert found["val"]["labels"] == {"val_set": str(path)}


def test_the_protocols_give_different_figures(odd):
    """Else the test above would say little."""
    means = [expected(name, odd)["ssim"].mean() for name in ("ifan", "restormer", "dpdnet", "basicsr")]
    assert min(np.diff(sorted(means))) > 1e-4


@pytest.mark.parametrize(
    ("metric", "before", "after", "better", "expected"),
    [
        ("mae", 0.0159, 0.1450, "lower", "-0.1291"),
        ("mae", 0.0400, 0.0300, "lower", "+0.0100"),
        ("niqe", 5.0, 4.0, "lower", "+1.0000"),
        ("psnr", 24.0, 25.5, "higher", "+1.500"),
        ("ssim", 0.8, 0.7, "higher", "-0.1000"),
    ],
)
def test_a_gain_is_positive_where_the_picture_is_better(metric, before, after, better, expected):
    assert figures.gain(metric, before, after, better) == expected


@pytest.mark.parametrize("kind", ["mae", "lpips", "niqe", "calculate_niqe"])
def test_metrics_that_are_better_the_lower_are_known(options, kind):
    options["val"] = {"metrics": {"m": {"type": kind, "crop_border": 0}}}
    evaluation_options.check(options, "f.yml")
    assert options["val"]["metrics"]["m"]["better"] == "lower"


def test_metrics_are_completed(options):
    val = checked(options)["val"]
    assert {name: m["better"] for name, m in val["metrics"].items()} == {
        "psnr": "higher", "ssim": "higher", "mae": "lower",
    }  # fmt: skip
    del options["val"]["protocol"]
    options["val"]["metrics"] = {"error": {"type": "mae"}, "mine": {"type": "lpips", "better": "higher"}}
    assert {name: m["better"] for name, m in checked(options)["val"]["metrics"].items()} == {
        "error": "lower", "mine": "higher",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"val": {"protocol": "Restormer"}}, "val: protocol: must be one of 'ifan', 'restormer'"),
        ({"data": {"crop_multiple": 1}}, "datasets: test: crop_multiple: must be 8 under protocol 'ifan', not 1"),
        (
            {"val": {"protocol": "dpdnet"}, "data": {"bit_depth": 8}},
            "datasets: test: bit_depth: must be 16 under protocol 'dpdnet', not 8; leave it out, and the protocol sets it",
        ),
        (
            {"val": {"metrics": {"p": {"type": "calculate_psnr", "crop_border": 0}}}},
            "val: metrics: p: type: 'calculate_psnr' isn't a metric of protocol 'ifan'; valid: psnr, ssim, mae, lpips; "
            "the host's own are of protocol 'basicsr'",
        ),
        (
            {"val": {"metrics": {"p": {"type": "psnr", "crop_border": 4}}}},
            "val: metrics: p: crop_border: must be 0 under protocol 'ifan'",
        ),
        (
            {"val": {"metrics": {"l": {"type": "lpips", "net": "vgg"}}}},
            "val: metrics: l: net: must be 'alex' under protocol 'ifan'",
        ),
        (
            {"val": {"protocol": "basicsr", "metrics": {"p": {"type": "calculate_psnr", "crop_border": 0, "test_y_channel": True}}}},
            "val: metrics: p: test_y_channel: must be False under protocol 'basicsr'",
        ),
    ],
)  # fmt: skip
def test_what_contradicts_the_protocol_is_one_line(options, change, message):
    options["val"] |= change.get("val", {})
    options["datasets"]["test"] |= change.get("data", {})
    with pytest.raises(UserError) as caught:
        checked(options)
    assert str(caught.value).startswith(f"f.yml: {message}")
    assert "\n" not in str(caught.value)


def test_a_protocol_says_nothing_of_sets_without_ground_truth(options, odd):
    flat = {"type": "DualPixelDataset", "layout": "folder", "dataroot": str(odd / "test_c/source"), "crop_multiple": 1}
    options["datasets"] |= {"test_2": flat | {"name": "flat"}}
    options["datasets"] |= {"test_3": options["datasets"]["test"] | {"name": "none", "gt": "none", "crop_multiple": 4}}
    datasets = checked(options)["datasets"]
    assert [datasets[key]["crop_multiple"] for key in datasets] == [8, 1, 4]


def test_data_sets_of_the_host_are_read_with_8_bits(options, odd, tmp_path, caplog):
    options["datasets"]["test"] = {
        "name": "odd", "type": "PairedImageDataset", "dataroot_lq": str(odd / "test_c/same"),
        "dataroot_gt": str(odd / "test_c/same"), "io_backend": {"type": "disk"},
    }  # fmt: skip
    (odd / "test_c/same").mkdir(exist_ok=True)
    for number, source in enumerate(sorted((odd / "test_c/source").iterdir())):
        (odd / f"test_c/same/{number}.png").write_bytes(source.read_bytes())
    content, _, _ = run(options, tmp_path, caplog)
    assert content["protocol"] == "ifan"
    assert content["mean"]["restored"] == {"psnr": None, "ssim": pytest.approx(1), "mae": 0}
    options["val"]["protocol"] = "dpdnet"
    with pytest.raises(UserError, match="protocol 'dpdnet' reads 16 bits, which PairedImageDataset doesn't promise"):
        checked(options)


def test_border_of_the_hosts_protocol(options, odd, tmp_path, caplog):
    metrics = {"psnr": {"type": "psnr", "crop_border": 5}, "host": {"type": "calculate_psnr", "crop_border": 5}}
    options["val"] = {"protocol": "basicsr", "metrics": metrics}
    content, _, _ = run(options, tmp_path, caplog)
    blurred, sharp = (np.round((p >> 8).astype(float)).astype(np.uint8) for p in stored(odd, 0))
    first = content["images"][0]["restored"]
    assert first["psnr"] == first["host"] == pytest.approx(calculate_psnr(blurred, sharp, crop_border=5), abs=1e-9)


def test_lpips_is_left_out_of_the_hosts_protocol_with_a_line(options, tmp_path, caplog):
    options["val"] = {"protocol": "basicsr", "metrics": {"psnr": {"type": "psnr"}, "lpips": {"type": "lpips"}}}
    content, _, log = run(options, tmp_path, caplog)
    assert set(content["mean"]["restored"]) == {"psnr"}
    assert log.count("odd: 'lpips' is left out: lpips: protocol 'basicsr' has none") == 1


# --- labels ----------------------------------------------------------------------------------------------------------


def label_file(folder: Path, text: str = "1P0A0001,drinnen\n1P0A0003,draußen\n1P0A0005,drinnen\n") -> Path:
    path = folder / "Szenen.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_groups_have_means_of_their_own(options, tmp_path, caplog):
    options["val"] |= {"labels": str(label_file(tmp_path)), "baseline": True}
    content, rows, log = run(options, tmp_path, caplog)
    figures = [image["restored"]["psnr"] for image in content["images"]]
    assert [image["label"] for image in content["images"]] == ["drinnen", "draußen", "drinnen"]
    assert [row["label"] for row in rows] == ["drinnen", "draußen", "drinnen"]
    groups = content["groups"]
    assert {label: group["count"] for label, group in groups.items()} == {"draußen": 1, "drinnen": 2}
    assert groups["draußen"]["restored"]["psnr"] == figures[1]
    assert groups["drinnen"]["blurred"]["psnr"] == pytest.approx((figures[0] + figures[2]) / 2, abs=1e-12)
    assert content["mean"]["restored"]["psnr"] == pytest.approx(sum(figures) / 3)
    assert "mean of 2 drinnen" in log
    assert "mean of 1 draußen" in log


def test_without_labels_there_are_no_groups(options, tmp_path, caplog):
    content, rows, _ = run(options, tmp_path, caplog)
    assert "groups" not in content
    assert list(rows[0]) == ["image", "protocol", "restored_psnr", "restored_ssim", "restored_mae"]


def test_labels_may_go_beyond_the_first_scenes_and_need_no_others(options, tmp_path):
    options["val"]["labels"] = {"odd": str(label_file(tmp_path))}
    options["datasets"]["test"]["max_images"] = 1
    assert checked(options)["val"]["labels"] == {"odd": str(tmp_path / "Szenen.csv")}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1P0A0002,x\n", "data set 'odd' has no scene '1P0A0002'; did you mean '1P0A00"),
        ("1P0A0001,x\n", "has no label for scene '1P0A0003' (and 1 more) of data set 'odd'"),
        ("1P0A0001;x\n", "line 1: must be 'scene,label'"),
    ],
)
def test_wrong_label_files_are_one_line_before_anything_runs(options, tmp_path, text, message):
    options["val"]["labels"] = str(label_file(tmp_path, text))
    with pytest.raises(UserError) as caught:
        checked(options)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path / 'Szenen.csv'}: ")


def test_labels_of_several_sets(options, tmp_path):
    path = label_file(tmp_path)
    options["datasets"]["test_2"] = options["datasets"]["test"] | {"name": "again"}
    options["val"]["labels"] = str(path)
    with pytest.raises(UserError, match=r"labels: with 2 data sets with ground truth it must be a mapping"):
        checked(options)
    options["val"]["labels"] = {"agian": str(path)}
    with pytest.raises(UserError, match=r"labels: unknown data set 'agian'; did you mean 'again'"):
        checked(options)
    options["val"]["labels"] = {"again": 3}
    with pytest.raises(UserError, match=r"labels: again: must be a file's name, not 3"):
        checked(options)
