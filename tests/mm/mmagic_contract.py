"""Run by test_mmagic.py in MMagic's environment: ``IFANEditModel`` beside MMagic's own ``BaseEditModel``.

Each check is a function that raises AssertionError.
"""

from __future__ import annotations

from collections.abc import Callable

import mmagic.models.editors.nafnet  # noqa: F401 (MMagic's own networks are imported one by one)
import torch
from mmagic.registry import MODELS
from mmagic.structures import DataSample
from mmengine.registry import init_default_scope
from torch.testing import assert_close

from ifan_plugin.common.errors import UserError
from ifan_plugin.mm.mmagic import PackEditInputs

IFAN = {"type": "IFAN", "width": 4, "num_steps": 2, "res_units": 1}
NAFNET = {
    "type": "NAFNet", "img_channels": 3, "mid_channels": 4, "enc_blk_nums": [1], "middle_blk_num": 1, "dec_blk_nums": [1],
}  # fmt: skip
PREPROCESSOR = {
    "type": "DataPreprocessor", "mean": [0.0] * 3, "std": [255.0] * 3, "output_channel_order": "RGB",
}  # fmt: skip


def batch(height: int = 20, width: int = 28, views: bool = False) -> dict:
    """Two pictures as MMagic's loader gives them: BGR, 8 bit; the default's sides are no multiples of 8."""
    generator = torch.Generator().manual_seed(7)
    images = torch.randint(0, 256, (2, 3, height, width), generator=generator).to(torch.uint8)
    samples = [DataSample(gt_img=255 - image, metainfo={"gt_path": str(n)}) for n, image in enumerate(images)]
    inputs = [{"img": image, "left": image.flip(-1), "right": image.flip(-2)} if views else image for image in images]
    return {"inputs": inputs, "data_samples": samples}


def pair() -> tuple:
    """MMagic's model and ours, with the same weights."""
    torch.manual_seed(0)
    host = MODELS.build(
        {
            "type": "BaseEditModel",
            "generator": IFAN,
            "pixel_loss": {"type": "MSELoss"},
            "data_preprocessor": PREPROCESSOR,
        }
    )
    mirror = MODELS.build({"type": "IFANEditModel", "generator": IFAN, "test_cfg": {"disparity": True}})
    mirror.load_state_dict(host.state_dict(), strict=True)
    return host, mirror


@torch.no_grad()
def check_predictions() -> None:
    host, mirror = (model.eval() for model in pair())
    theirs, ours = host.val_step(batch()), mirror.val_step(batch())
    assert len(theirs) == len(ours) == 2
    for one, other in zip(theirs, ours, strict=True):
        assert type(one) is type(other)
        assert {*one.keys()} == {*other.keys()}
        assert one.gt_path == other.gt_path
        assert {*one.output.keys()} == {"pred_img"}
        assert {*other.output.keys()} == {"pred_img", "disparity"}
        assert other.output.disparity.shape == (1, 3, 4)
        assert_close(other.output.pred_img, one.output.pred_img, rtol=0, atol=1e-3)
        assert_close(other.gt_img, one.gt_img)
        assert_close(other.input, one.input)
    # The network saw RGB in [0, 1]; its result comes back as BGR in [0, 255].
    bgr = ours[0].output.pred_img
    assert bgr.shape == (3, 20, 28)
    assert 1 < bgr.max() <= 255
    rgb = batch()["inputs"][0].flip(0)[None] / 255
    assert_close(mirror(rgb)[0].flip(0) * 255, bgr, rtol=0, atol=1e-3)
    assert_close(mirror({"img": rgb}), mirror(rgb))


def check_loss() -> None:
    host, mirror = (model.train() for model in pair())
    theirs, ours = (m(**m.data_preprocessor(batch(16, 24), True), mode="loss") for m in (host, mirror))
    assert_close(ours["l_deblur"], theirs["loss"])
    mirror.parse_losses(ours)[0].backward()
    host.parse_losses(theirs)[0].backward()
    for one, other in zip(host.generator.parameters(), mirror.generator.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None)
        if one.grad is not None:
            assert_close(other.grad, one.grad)


@torch.no_grad()
def check_views() -> None:
    dual = MODELS.build({"type": "IFANEditModel", "generator": {**IFAN, "dual_pixel": True}}).eval()
    predicted = dual.val_step(batch(views=True))[0]
    eaten = torch.cat([view.flip(0)[None] / 255 for view in batch(views=True)["inputs"][0].values()], 1)
    assert_close(predicted.output.pred_img.flip(0)[None] / 255, dual.generator(eaten))
    assert predicted.input.shape == (3, 20, 28)
    refused("left isn't there", dual.val_step, batch())


@torch.no_grad()
def check_networks_of_mmagic() -> None:
    model = MODELS.build({"type": "IFANEditModel", "generator": {**NAFNET, "type": "mmagic.NAFNet"}}).eval()
    assert model.val_step(batch())[0].output.pred_img.shape == (3, 20, 28)


def check_packing() -> None:
    gt, lq = torch.rand(3, 16, 16), torch.rand(3, 16, 16)
    sample = {"lq": lq, "gt": gt, "left": lq / 2, "right": lq / 3, "lq_path": "p", "gt_path": "q", "views": ("center",)}
    preprocess = MODELS.build(PREPROCESSOR)
    for training in (True, False):
        packed = PackEditInputs()(sample)
        ready = preprocess({"inputs": [packed["inputs"]], "data_samples": [packed["data_samples"]]}, training)
        for name, expected in (("img", lq), ("left", lq / 2), ("right", lq / 3)):
            assert_close(ready["inputs"][name][0], expected)
        # MMagic compares in BGR, 0 to 255, where it doesn't train.
        assert_close(ready["data_samples"].gt_img[0], gt if training else gt.flip(0) * 255)
    refused("aux_views", PackEditInputs(), {**sample, "views": ("left", "right")})


def refused(reason: str, function: Callable, *arguments: object) -> None:
    said = "nothing"
    try:
        function(*arguments)
    except UserError as error:
        said = str(error)
    assert reason in said, said


if __name__ == "__main__":
    init_default_scope("mmagic")
    check_predictions()
    check_loss()
    check_views()
    check_networks_of_mmagic()
    check_packing()
