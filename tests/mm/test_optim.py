"""bf16 on CPUs, and BasicSR's warm-up before its cosine schedule."""

from __future__ import annotations

import types

import pytest

pytest.importorskip("mmengine", reason="mmengine isn't installed (pip install ifan-plugin[mm])")

import torch
from mmengine.optim import OptimWrapper
from runner_cases import build_runner, small_config

from ifan_plugin.host.importing import prepare
from ifan_plugin.mm.optim import BF16OptimWrapper, WarmupCosineRestartLR


def test_the_forward_pass_is_bfloat16_and_the_rest_float32():
    layer = torch.nn.Conv2d(1, 1, 3)
    wrapper = BF16OptimWrapper(torch.optim.SGD(layer.parameters(), lr=0.1))
    with wrapper.optim_context(layer):
        out = layer(torch.ones(1, 1, 4, 4))
    assert out.dtype is torch.bfloat16
    before = layer.weight.detach().clone()
    wrapper.update_params(out.float().sum())
    assert layer.weight.dtype is torch.float32
    assert not torch.equal(layer.weight, before)
    assert layer(torch.ones(1, 1, 4, 4)).dtype is torch.float32  # behind the context


def losses_of(config: dict) -> list[float]:
    runner = build_runner(config)
    runner.train()
    assert all(p.dtype is torch.float32 for p in runner.model.parameters())
    return list(runner.message_hub.get_scalar("train/loss").data[0])


def test_training_in_bf16_on_a_cpu_is_near_training_in_float32(dpdd, tmp_path):
    config = small_config(dpdd, tmp_path)
    config["train_cfg"] |= {"type": "ResumableTrainLoop", "val_interval": 100}
    plain = losses_of(config)
    config["optim_wrapper"]["type"] = "BF16OptimWrapper"
    mixed = losses_of(config)
    assert mixed == pytest.approx(plain, rel=0.02)
    assert mixed != plain


@pytest.mark.parametrize(
    ("periods", "weights", "warmup"), [([30], [1], 8), ([12, 18], [1, 0.5], 5), ([30], [1], -1), ([30], [1], 1)]
)
def test_the_learning_rate_is_basicsrs_at_every_iteration(periods, weights, warmup):
    prepare()
    from basicsr.models.base_model import BaseModel
    from basicsr.models.lr_scheduler import CosineAnnealingRestartLR

    def optimizer():
        return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2e-3)

    model = BaseModel({"num_gpu": 0, "is_train": True})
    model.optimizers = [optimizer()]
    model.schedulers = [CosineAnnealingRestartLR(model.optimizers[0], periods, weights, eta_min=1e-5)]
    wrapper = OptimWrapper(optimizer())
    scheduler = WarmupCosineRestartLR(
        wrapper, warmup_iter=warmup, periods=periods, restart_weights=weights, eta_min=1e-5, by_epoch=False
    )
    update = types.MethodType(BaseModel.update_learning_rate, model)
    for iteration in range(1, 31):
        update(iteration, warmup_iter=warmup)
        assert wrapper.get_lr()["lr"][0] == pytest.approx(model.get_current_learning_rate()[0], rel=1e-12)
        model.optimizers[0].step()
        wrapper.step()
        scheduler.step()
