"""The networks and the losses against outputs of the authors' code, kept in tests/data_files/golden (README there)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ifan_plugin.archs.ifan_arch import IFAN
from ifan_plugin.archs.reblur_arch import ReblurNet
from ifan_plugin.losses import DisparityLoss, ReblurLoss
from ifan_plugin.weights.official import from_official, to_official

GOLDEN = Path(__file__).parents[1] / "data_files" / "golden"
CASES = {
    name: case for name, case in json.loads((GOLDEN / "cases.json").read_text()).items() if name.startswith("ifan")
}
SHAPES = json.loads((GOLDEN / "official_state_dict_shapes.json").read_text())
OUTPUT_ERROR = 1e-5
GRADIENT_ERROR = {torch.float64: 5e-5, torch.float32: 1e-3}

both_dtypes = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
every_case = pytest.mark.parametrize("name", CASES)


def official_state_dict(name: str) -> dict[str, Tensor]:
    """The case's weights under the authors' names; the README has the recipe."""
    case = CASES[name]
    shapes = SHAPES[name.removeprefix("ifan_").rsplit("_", 1)[0]]
    params = {}
    for part, seed in (("module.Network.", case["seed"]), ("module.reblurNet.", case["seed"] + 1)):
        keys = [key for key in shapes if key.startswith(part)]
        for number, key in enumerate(keys):
            values = np.random.default_rng([seed, number]).standard_normal(shapes[key])
            predicts_filters = key.startswith((f"{part}F.3.", f"{part}RBF.3."))
            if key.endswith("weight"):
                scale = (0.1 if predicts_filters else 0.9) / np.sqrt(np.prod(shapes[key][1:]))
            else:
                scale = 0.5 if predicts_filters else 0.02
            params[key] = torch.from_numpy((values * scale).astype(np.float32))
    params["module.Network.DME.3.bias"].fill_(1.3)
    return params


def views(name: str) -> dict[str, Tensor]:
    """The case's four images, float32."""
    case = CASES[name]
    height, width = case["h"], case["w"]

    def image(number: int) -> Tensor:
        rng = np.random.default_rng([case["seed"], number])
        small = rng.random((case["b"], 3, height // 8, width // 8)).astype(np.float32)
        return F.interpolate(torch.from_numpy(small), (height, width), mode="bilinear", align_corners=False)

    center = image(100)
    others = {role: 0.8 * center + 0.2 * image(n) for role, n in (("left", 101), ("right", 102), ("sharp", 103))}
    return {"center": center, **others}


def build(name: str, dtype: torch.dtype) -> tuple[IFAN, ReblurNet, dict[str, Tensor]]:
    """Both networks with the case's weights, and its images."""
    checkpoint = from_official(official_state_dict(name), isotropic=CASES[name]["isotropic"])
    network = IFAN(**checkpoint.arch_kwargs).to(dtype)
    network.load_state_dict(checkpoint.params, strict=True)
    reblur_net = ReblurNet(**checkpoint.reblur_kwargs).to(dtype)
    reblur_net.load_state_dict(checkpoint.reblur_params, strict=True)
    return network, reblur_net, {role: image.to(dtype) for role, image in views(name).items()}


def stacked(name: str, images: dict[str, Tensor]) -> Tensor:
    roles = ["center", "left", "right"] if CASES[name]["dual"] else ["center"]
    return torch.cat([images[role] for role in roles], 1)


def error(ours: Tensor, golden: np.ndarray) -> float:
    """max|a - b| / max|b|, as the README defines it."""
    golden = torch.from_numpy(np.asarray(golden)).double()
    assert ours.shape == golden.shape
    return ((ours.detach().double() - golden).abs().max() / golden.abs().max()).item()


def test_the_cases_are_the_files() -> None:
    files = {path.stem for path in GOLDEN.glob("ifan_*.npz")}
    assert files == set(CASES)
    assert len(files) == 6


@every_case
@both_dtypes
def test_evaluation(name: str, dtype: torch.dtype) -> None:
    network, _, images = build(name, dtype)
    with torch.no_grad():
        result = network.eval()(stacked(name, images))
    golden = np.load(GOLDEN / f"{name}.npz")["eval_result"]
    assert error(result, golden) < OUTPUT_ERROR


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case["train"]])
@both_dtypes
def test_training(name: str, dtype: torch.dtype) -> None:
    network, reblur_net, images = build(name, dtype)
    golden = np.load(GOLDEN / f"{name}.npz")
    single = not CASES[name]["dual"]
    out = network.train().training_outputs(
        stacked(name, images), images["left"] if single else None, images["right"] if single else None
    )
    reblurred = reblur_net(images["sharp"], out.filters)
    losses = torch.stack(
        [
            F.mse_loss(out.result, images["sharp"]),
            DisparityLoss()(out.warped_right, out.left_small),
            ReblurLoss()(reblurred, images["center"]),
        ]
    )
    losses.sum().backward()

    assert error(out.result, golden["train_result"]) < OUTPUT_ERROR
    assert error(out.warped_right, golden["warped_right"]) < OUTPUT_ERROR
    assert error(out.left_small, golden["left_small"]) < OUTPUT_ERROR
    assert error(reblurred, golden["reblurred"]) < OUTPUT_ERROR
    for ours, theirs in zip(losses.tolist(), golden["losses"].tolist(), strict=True):
        assert ours == pytest.approx(theirs, rel=OUTPUT_ERROR)

    gradients = to_official(
        {key: p.grad for key, p in network.named_parameters()},
        {key: p.grad for key, p in reblur_net.named_parameters()},
    )
    ours = {key.removeprefix("module."): gradient.norm().item() for key, gradient in gradients.items()}
    assert ours == pytest.approx(CASES[name]["grad_norms"], rel=GRADIENT_ERROR[dtype], abs=0)
