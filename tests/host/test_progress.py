"""What a training run says and keeps: parts of networks, time left, validations, the best weights."""

from __future__ import annotations

import re

import pytest
import torch
import yaml
from helpers import basicsr, small_options, write_options

from ifan_plugin.archs.ifan_arch import IFAN
from ifan_plugin.common.errors import UserError
from ifan_plugin.host.progress import check_best, chosen_metric, parts_table

EMA = {"ema_decay": 0.5}


@pytest.fixture(scope="module")
def run(dpdd, tmp_path_factory):
    """Four iterations, validated at each, with averaged weights. Returns the folder and what was logged."""
    folder = tmp_path_factory.mktemp("shown")
    options = small_options(dpdd)
    options["val"] |= {"val_freq": 1, "metrics": {"mae": {"type": "mae"}, "psnr": {"type": "psnr"}}}
    options["train"] |= EMA
    done = basicsr("train", "-opt", write_options(folder, options), cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, done.stderr


def test_time_left_is_never_negative(run):
    left = re.findall(r"\[eta: ([^,]+(?:, [\d:]+)?), time", run[1])
    assert len(left) == 4
    assert left[-1] == "0:00:00"
    assert not any("day" in each for each in left)


def test_networks_are_tables_of_parts(run):
    folder, said = run
    assert said.count("(-v shows every layer)") == 2  # IFAN and ReblurNet
    assert "Conv2d(" not in said
    assert re.search(r"filter_predictor\s+\w+\s+[\d,]+\s+[\d.]+%", said)
    more = ("-v", "--force_yml", "train:total_iter=1", "val:val_freq=9")
    verbose = basicsr("train", "-opt", folder / "small.yml", *more, cwd=folder)
    assert verbose.returncode == 0, verbose.stderr
    assert "Conv2d(" in verbose.stderr


def test_the_same_weights_are_validated_once(run):
    assert run[1].count("mean of 3 pictures") == 4
    assert "The latest weights are those of iteration 4, validated on val_set above." in run[1]


def test_the_best_weights_are_kept(run):
    """By the first metric of the file, MAE here, which is better the lower it is."""
    folder, said = run
    values = [float(value) for value in re.findall(r"# mae: ([\d.]+)", said)]
    best = int(re.findall(r"# mae: .*best: .* @ (\d+) iter", said)[-1])
    assert values[best - 1] == min(values)
    models = folder / "experiments/small/models"
    kept = torch.load(models / "net_g_best.pth", weights_only=True)
    assert {"params", "params_ema"} <= kept.keys()
    options = yaml.safe_load((folder / "small.yml").read_text())
    options["path"] = {"pretrain_network_g": str(models / "net_g_best.pth"), "param_key_g": "params_ema"}
    options["datasets"] = {"val": options["datasets"]["val"]}
    del options["train"], options["network_r"]
    tested = basicsr("test", "-opt", write_options(folder, options, "test.yml"), cwd=folder)
    assert tested.returncode == 0, tested.stderr
    assert float(re.search(r"# mae: ([\d.]+)", tested.stderr)[1]) == pytest.approx(min(values), abs=1e-4)


@pytest.mark.parametrize(
    ("val", "metric"),
    [
        ({"metrics": {"psnr": {}, "mae": {}}}, "psnr"),
        ({"save_best": True, "metrics": {"mae": {}, "psnr": {}}}, "mae"),
        ({"save_best": "mae", "metrics": {"psnr": {}, "mae": {}}}, "mae"),
        ({"save_best": False, "metrics": {"psnr": {}}}, None),
        ({"save_best": True, "metrics": None}, None),
    ],
)
def test_which_metric_tells(val, metric):
    assert chosen_metric(val) == metric


def test_a_metric_that_isnt_computed_is_refused():
    with pytest.raises(UserError, match="save_best: 'pnsr' isn't among the metrics; did you mean 'psnr'"):
        check_best({"save_best": "pnsr", "metrics": {"psnr": {}}}, "a.yml: val")


class _Wrapper(torch.nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net


@pytest.mark.parametrize(
    ("net", "parts"),
    [
        (IFAN(width=4, num_steps=2, res_units=1), None),
        (_Wrapper(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())), ["net.0", "net.1"]),
        (torch.nn.Conv2d(3, 3, 3), ["(its own)"]),
        (_Wrapper(torch.nn.Conv2d(3, 3, 3)), ["net"]),
        (torch.nn.ReLU(), []),
    ],
)
def test_the_parts_add_up(net, parts):
    lines = parts_table(net)
    total = sum(int(re.search(r"([\d,]+)\s+[\d.]+%$", line)[1].replace(",", "")) for line in lines)
    assert total == sum(parameter.numel() for parameter in net.parameters())
    if parts is not None:
        assert [re.match(r"\(its own\)|\S+", line)[0] for line in lines] == parts
