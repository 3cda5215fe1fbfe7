#!/usr/bin/env python3
"""Does a trained IFAN use its filters? PSNR of the restored pictures with and without what they do.

    python scripts/filter_use.py ifan_small --data datasets/quickstart

DIR is in DPDD's layout (test_c/source and target). Each row changes what the reconstructor gets of the filtering layer:
the features that are filtered are set to zero (what is left are the predicted biases), the filters and biases are
replaced by their means over the picture (one filter for all places), or the layer's output by its mean over the picture
(nothing of the layer is left). A network that needs its filters loses by each.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
import torch
from torch import Tensor

from ifan_plugin.archs.ifan_arch import IFAN
from ifan_plugin.common.errors import UserError
from ifan_plugin.data.dual_pixel_dataset import DualPixelDataset
from ifan_plugin.metrics import psnr
from ifan_plugin.pictures.kernels import no_filters
from ifan_plugin.weights.networks import load_network

CHANGES = ("as it is", "features 0", "one filter for all places", "the layer's output averaged")


def mean(maps: Tensor) -> Tensor:
    """Each channel's mean over the picture, at every place."""
    return maps.mean((2, 3), keepdim=True).expand_as(maps).contiguous()


@torch.no_grad()
def restored(network: IFAN, lq: Tensor) -> list[Tensor]:
    """The picture [1, 3, H, W], H and W multiples of 8, restored with each of the changes, not clipped."""
    filters = network.filter_predictor(*network._blur_features(lq))
    skips = list(network.feature_extractor(lq[:, :3]))
    features = skips.pop().contiguous()
    layer = network._filtered
    outputs = (
        layer(features, filters), layer(torch.zeros_like(features), filters), layer(features, mean(filters)),
        mean(layer(features, filters)),
    )  # fmt: skip
    return [network.reconstructor(output, list(skips)) + lq[:, :3] for output in outputs]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="of a single-image IFAN, or the name of one that ships with the package")
    parser.add_argument("--data", required=True, metavar="DIR", help="pictures in DPDD's layout, read as 8 bit")
    args = parser.parse_args()
    network = load_network(args.checkpoint, device="cpu").net
    why_not = no_filters(network)
    if why_not or network.in_channels != 3:
        parser.error(f"{args.checkpoint}: {why_not or 'takes the dual-pixel views; valid: a single-image IFAN'}")
    dataset = DualPixelDataset({
        "name": "test", "phase": "test", "dataroot": args.data, "layout": "dpdd", "split": "test",
        "views": ["center"],
    })  # fmt: skip
    rows = []
    for scene in torch.utils.data.DataLoader(dataset):
        height, width = (side // 8 * 8 for side in scene["lq"].shape[2:])
        lq, gt = (scene[name][..., :height, :width] for name in ("lq", "gt"))
        rows.append([psnr(each, gt) for each in (lq, *restored(network, lq))])
    print(f"| {len(rows)} pictures | PSNR, dB |\n|---|---|")
    for name, value in zip(("blurred", *CHANGES), np.mean(rows, 0)):
        print(f"| {name} | {value:.3f} |")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
