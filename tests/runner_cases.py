"""What the tests of ``ifan_plugin.mm`` share: a Runner's config for a tiny IFAN, and weights for both hosts."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch

SMALL = {"type": "IFAN", "width": 4, "num_steps": 2, "res_units": 1}
REBLUR = {"type": "ReblurNet", "num_steps": 2}


def small_config(data: Path, work_dir: Path, seed: int = 3) -> dict[str, Any]:
    """A tiny training of four iterations with all losses, on the data set of :func:`helpers.write_dpdd`.

    It asks of mmengine's Runner what :func:`helpers.small_options` asks of BasicSR.
    """
    dataset = {"type": "DualPixelDataset", "dataroot": str(data), "bit_depth": 16}
    train = dataset | {"phase": "train", "aux_views": ["left", "right"], "patch_size": 32}
    whole = {"batch_size": 1, "num_workers": 0, "sampler": {"type": "DefaultSampler", "shuffle": False}}
    return copy.deepcopy(
        {
            "custom_imports": {"imports": ["ifan_plugin.mm"]},
            "work_dir": str(work_dir),
            "randomness": {"seed": seed},
            "model": {
                "type": "IFANRestorer",
                "generator": SMALL,
                "reblur": REBLUR,
                "disparity_loss": {"type": "DisparityLoss"},
                "reblur_loss": {"type": "ReblurLoss"},
            },
            "train_dataloader": {
                "batch_size": 2, "num_workers": 0, "dataset": train, "sampler": {"type": "EpochSampler", "batch_size": 2},
            },
            "train_cfg": {"type": "IterBasedTrainLoop", "max_iters": 4, "val_interval": 4},
            "optim_wrapper": {
                "type": "OptimWrapper", "optimizer": {"type": "RAdam", "lr": 1e-3}, "clip_grad": {"max_norm": 0.5},
            },
            "param_scheduler": [{"type": "MultiStepLR", "by_epoch": False, "milestones": [3], "gamma": 0.5}],
            "val_dataloader": whole | {"dataset": dataset | {"phase": "val"}},
            "val_cfg": {},
            "val_evaluator": {"type": "RestorationMetrics"},
            "test_dataloader": whole | {"dataset": dataset | {"phase": "test"}},
            "test_cfg": {},
            "test_evaluator": {"type": "RestorationMetrics"},
            "default_hooks": {"checkpoint": {"type": "CheckpointHook", "by_epoch": False, "interval": 2}},
            "log_processor": {"by_epoch": False},
            "log_level": "WARNING",
        }
    )  # fmt: skip


def test_config(data: Path, work_dir: Path, **model: Any) -> dict[str, Any]:
    """:func:`small_config` without what training needs; ``model`` replaces keys of the model's config."""
    config = small_config(data, work_dir)
    training = ("train_dataloader", "train_cfg", "optim_wrapper", "param_scheduler", "default_hooks")
    validation = ("val_dataloader", "val_cfg", "val_evaluator")
    for key in (*training, *validation):
        del config[key]
    return config | {"model": {"type": "IFANRestorer", "generator": SMALL} | model}


test_config.__test__ = False  # a helper, whatever its name


def build_runner(config: dict[str, Any]) -> Any:
    """A Runner of its own name: mmengine keeps loggers and hubs by name for the whole process."""
    from mmengine.config import Config
    from mmengine.runner import Runner

    name = f"{Path(config['work_dir']).name}_{build_runner.count}"
    build_runner.count += 1
    return Runner.from_cfg(Config(config | {"experiment_name": name}))


build_runner.count = 0


def write_weights(folder: Path, seed: int = 5, **options: Any) -> tuple[Path, Path]:
    """Files of BasicSR's form for :data:`SMALL` and its reblurring network, with biases that aren't zero; gives the paths."""
    from ifan_plugin.archs.ifan_arch import IFAN
    from ifan_plugin.archs.reblur_arch import ReblurNet

    torch.manual_seed(seed)
    network = IFAN(**{key: value for key, value in SMALL.items() if key != "type"} | options)
    reblur = ReblurNet(network.filter_channels, width=4, num_steps=2, res_units=1)
    paths = folder / "net_g.pth", folder / "net_r.pth"
    for path, each in zip(paths, (network, reblur)):
        params = {key: value + 0.01 * torch.randn_like(value) for key, value in each.state_dict().items()}
        hyper_parameters = {"hyper_parameters": network.hyper_parameters} if each is network else {}
        torch.save(hyper_parameters | {"params": params}, path)
    return paths
