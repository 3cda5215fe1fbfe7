"""RestorationMetrics: the package's own figures through mmengine's evaluator."""

from __future__ import annotations

import math

import pytest
import torch

pytest.importorskip("mmengine", reason="mmengine isn't installed (pip install ifan_plugin[mm])")

from mmengine.evaluator import Evaluator
from mmengine.structures import BaseDataElement

import ifan_plugin.mm  # noqa: F401 (registers)
from ifan_plugin import metrics as ours
from ifan_plugin.common.errors import UserError
from ifan_plugin.metrics.protocols import measure


def sample(seed: int, sharp: bool = True, **metainfo) -> BaseDataElement:
    torch.manual_seed(seed)
    picture = torch.rand(3, 24, 32)
    restored = picture + 0.1 * torch.randn(3, 24, 32)
    element = BaseDataElement(metainfo=metainfo, img=torch.cat([torch.rand(3, 24, 32), picture * 0.9]))
    element.set_field(BaseDataElement(pred_img=restored), "output")
    if sharp:
        element.set_field(picture, "gt_img")
    return element


def evaluate(samples, **options):
    evaluator = Evaluator([{"type": "RestorationMetrics"} | options])
    for each in samples:
        evaluator.process([each])
    means = evaluator.evaluate(len(samples))
    return means, evaluator.metrics[0].records


def test_pyiqas_metrics_by_name():
    pytest.importorskip("pyiqa", reason="needs pyiqa (pip install pyiqa; its licence allows no commercial use)")
    means, records = evaluate([sample(0)], metrics=["psnr", "pyiqa_psnr", "pyiqa_gmsd"])
    assert list(means) == ["psnr", "pyiqa_psnr", "pyiqa_gmsd"]
    assert means["pyiqa_psnr"] == pytest.approx(means["psnr"], abs=1e-3)
    assert 0 < records[0]["restored"]["pyiqa_gmsd"] < 1


def test_means_and_records_are_those_of_the_packages_functions():
    samples = [sample(seed, key=f"scene {seed}", views=("left", "center")) for seed in range(3)]
    names = ["psnr", "ssim", "mae", "sharpness"]
    means, records = evaluate(samples, metrics=names, baseline=True)
    assert [record["image"] for record in records] == ["scene 0", "scene 1", "scene 2"]
    for record, each in zip(records, samples):
        for which, picture in (("restored", each.output.pred_img), ("blurred", each.img[3:])):
            assert record[which]["psnr"] == ours.psnr(picture, each.gt_img)
            assert record[which]["ssim"] == ours.ssim(picture, each.gt_img)
            assert record[which]["mae"] == ours.mae(picture, each.gt_img)
            assert record[which]["sharpness"] == ours.sharpness(picture)
    assert list(means) == names + [f"blurred_{name}" for name in names]
    for name, value in means.items():
        which = "blurred" if name.startswith("blurred_") else "restored"
        values = [record[which][name.removeprefix("blurred_")] for record in records]
        assert value == math.fsum(values) / 3


def test_a_protocol_and_a_prefix():
    means, _ = evaluate([sample(0)], metrics=["psnr"], protocol="basicsr", prefix="DPDD")
    each = sample(0)
    assert means == {"DPDD/psnr": measure("basicsr", each.output.pred_img, each.gt_img, ("psnr",))["psnr"]}
    assert means["DPDD/psnr"] != ours.psnr(each.output.pred_img, each.gt_img)


def test_without_sharp_pictures_what_needs_them_is_left_out():
    means, records = evaluate([sample(0, sharp=False)], metrics=["psnr", "sharpness", "niqe"])
    assert list(means) == ["sharpness"]
    assert list(records[0]["restored"]) == ["sharpness"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": ["psrn"]}, "RestorationMetrics: unknown metric 'psrn'; did you mean 'psnr'?"),
        ({"protocol": "restromer"}, "RestorationMetrics: protocol: unknown protocol 'restromer'; did you mean"),
    ],
)
def test_unknown_names_are_refused(options, message):
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        Evaluator([{"type": "RestorationMetrics"} | options])
