"""The files in options/mm: what they say of themselves, and that they ask for what BasicSR's option files ask for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mmengine", reason="mmengine isn't installed (pip install ifan-plugin[mm])")

from helpers import ROOT
from mmengine.registry import HOOKS, MODELS, PARAM_SCHEDULERS

from ifan_plugin.mm import config as configs
from ifan_plugin.options import file as option_file

PAIRS = {
    "ifan_quickstart.py": ("train_IFAN_quickstart.yml", "test/test_IFAN_quickstart.yml"),
    "ifan_dpdd.py": ("train_IFAN_DPDD.yml", "test/test_IFAN_DPDD.yml"),
}


@pytest.mark.parametrize("name", PAIRS)
def test_a_file_opens_with_what_it_reproduces_and_its_commands(name):
    text = (ROOT / "options" / "mm" / name).read_text(encoding="utf-8")
    head = text[: text.index("custom_imports")]
    assert all(line.startswith("#") or not line for line in head.splitlines())
    for word in ("Reproduces:", "Data:", "Hardware:", "How long:"):
        assert word in head
    commands = re.findall(r"-m ifan_plugin\.mm (train|test) (\S+)", head)
    assert {name for name, _ in commands} == {"train", "test"}
    assert {path for _, path in commands} == {f"options/mm/{name}"}


def same(first: Any, second: Any) -> bool:
    return list(first) == list(second) if isinstance(first, (list, tuple)) else first == second


@pytest.mark.parametrize("name", PAIRS)
def test_a_file_asks_for_what_basicsrs_option_file_asks_for(name):
    config = configs.read(ROOT / "options" / "mm" / name)
    options = option_file.read(ROOT / "options" / PAIRS[name][0])
    data, train, val = options["datasets"]["train"], options["train"], options["val"]

    for ours, theirs in ((config.model.generator, options["network_g"]), (config.model.reblur, options["network_r"])):
        assert dict(ours) == theirs
    assert config.model.pixel_loss.norm == {"MSELoss": "mse", "L1Loss": "l1"}[train["pixel_opt"]["type"]]
    for loss in ("pixel", "disparity", "reblur"):
        assert config.model[f"{loss}_loss"].loss_weight == train[f"{loss}_opt"]["loss_weight"]

    loader = config.train_dataloader
    assert (loader.batch_size, loader.num_workers) == (data["batch_size_per_gpu"], data["num_worker_per_gpu"])
    assert loader.sampler == {
        "type": "EpochSampler", "batch_size": loader.batch_size, "ratio": data["dataset_enlarge_ratio"],
    }  # fmt: skip
    keys = ("dataroot", "layout", "views", "aux_views", "bit_depth", "patch_size", "augment")
    assert {key: loader.dataset[key] for key in keys} == {key: data[key] for key in keys}
    for phase, theirs in (("val", options["datasets"]["val"]), ("test", options["datasets"]["val"])):
        dataset = config[f"{phase}_dataloader"].dataset
        assert dataset.phase == phase
        assert {key: dataset[key] for key in (*keys[:3], "bit_depth")} == {
            k: theirs[k] for k in (*keys[:3], "bit_depth")
        }

    optimizer = dict(config.optim_wrapper.optimizer)
    assert optimizer.keys() == train["optim_g"].keys()
    assert all(same(optimizer[key], value) for key, value in train["optim_g"].items())
    assert config.optim_wrapper.clip_grad == {"max_norm": train["grad_clip"]}
    assert (config.train_cfg.max_iters, config.train_cfg.val_interval) == (train["total_iter"], val["val_freq"])
    assert config.randomness.seed == options["manual_seed"]
    assert set(config.val_evaluator[0].metrics) == set(val["metrics"])
    assert config.val_evaluator[0].get("baseline", False) == val.get("baseline", False)

    schedule = config.param_scheduler
    (schedule,) = schedule if isinstance(schedule, list) else [schedule]
    expected = dict(train["scheduler"])
    kind = {"MultiStepLR": "MultiStepLR", "CosineAnnealingRestartLR": "WarmupCosineRestartLR"}[expected.pop("type")]
    if train["warmup_iter"] > 0:
        expected["warmup_iter"] = train["warmup_iter"]
    assert dict(schedule) == expected | {"type": kind, "by_epoch": False}

    averages = [hook.decay for hook in config.custom_hooks if hook.type == "BasicSREMAHook"]
    assert averages == ([train["ema_decay"]] if train["ema_decay"] else [])
    assert config.default_hooks.checkpoint.interval == options["logger"]["save_checkpoint_freq"]
    assert config.default_hooks.logger.interval == options["logger"]["print_freq"]
    writes_tensorboard = any(b.type == "TensorboardVisBackend" for b in config.visualizer.vis_backends)
    assert writes_tensorboard == options["logger"]["use_tb_logger"]


@pytest.mark.parametrize("name", PAIRS)
def test_models_and_hooks_can_be_built(name):
    import torch

    config = configs.read(ROOT / "options" / "mm" / name)
    with torch.device("meta"):
        model = MODELS.build(config.model)
    assert model.generator.hyper_parameters["width"] == config.model.generator.width
    for hook in (*config.default_hooks.values(), *config.custom_hooks):
        HOOKS.build(dict(hook))
    assert PARAM_SCHEDULERS.get("WarmupCosineRestartLR") is not None


@pytest.mark.parametrize(
    "overrides",
    re.findall(r"--cfg-options (model\S+(?: +[\w.]+=\S+)*)", (ROOT / "options/mm/ifan_dpdd.py").read_text()),
)
def test_the_papers_other_sizes_are_the_overrides_that_the_file_lists(overrides):
    import torch

    config = configs.read(ROOT / "options" / "mm" / "ifan_dpdd.py")
    configs.override(config, overrides.split())
    configs.check(config, "f", "train")
    with torch.device("meta"):
        assert MODELS.build(config.model).generator.hyper_parameters["num_steps"] == config.model.generator.num_steps
    assert config.train_dataloader.dataset.patch_size % 8 == 0


def test_the_quickstarts_file_is_found_by_its_name():
    assert {path.name for path in Path(ROOT, "options", "mm").glob("*.py")} >= set(PAIRS)
