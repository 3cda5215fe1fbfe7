#!/usr/bin/env python3
"""What a trained IFAN's map knows of the blur: Pearson's correlation with the true one.

    python scripts/disparity_correlation.py CHECKPOINT --data datasets/quickstart
    python scripts/disparity_correlation.py CHECKPOINT --sharp datasets/quickstart/test_c/target [--count 60]
    python scripts/disparity_correlation.py ifan_small --sharp datasets/quickstart/test_c/target

--data is a set that basicsr simulate --save-coc wrote, of which the test scenes are taken. The pictures in --sharp,
which training mustn't have seen, get invented depths and random optics (the data set's own draws). A disparity map is
compared with the signed circle of confusion, averaged to the map's size: does it know which side of the focus plane
things are? The map of a network that was taught the blur's size (its checkpoint says so) is compared with the diameter.
Prints the correlation over all scenes together, and of each scene's (the median); where the picture has no texture
there is nothing to see, so also over its more textured half.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from ifan_plugin.common.errors import UserError
from ifan_plugin.data.coc_files import coc_files, read_coc
from ifan_plugin.data.device_patches import finish
from ifan_plugin.data.dual_pixel_dataset import DualPixelDataset
from ifan_plugin.data.sampler import EpochIndex
from ifan_plugin.data.simulated_dataset import SimulatedDualPixelDataset
from ifan_plugin.losses.disparity_loss import area_downsample
from ifan_plugin.weights.networks import load_network


def scenes_of_set(folder: str) -> Iterator[dict[str, Any]]:
    """The test scenes of a simulated set, cut to multiples of 8."""
    dataset = DualPixelDataset({
        "name": "held_out", "phase": "test", "dataroot": folder, "layout": "dpdd", "split": "test",
        "views": ["center", "left", "right"], "bit_depth": 16,
    })  # fmt: skip
    for number, path in enumerate(coc_files(dataset.scenes)):
        scene = torch.utils.data.default_collate([dataset[number] | {"coc": torch.from_numpy(read_coc(path))[None]}])
        height, width = (side // 8 * 8 for side in scene["lq"].shape[2:])
        yield {name: scene[name][..., :height, :width] for name in ("lq", "gt", "coc")}


def invented_scenes(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Patches of the pictures in --sharp, blurred by chance."""
    dataset = SimulatedDualPixelDataset({
        "name": "held_out", "phase": "train", "dataroot_sharp": args.sharp, "depth_kind": "invented", "on_device": True,
        "views": ["center", "left", "right"], "aux_views": ["right"], "patch_size": args.patch, "bit_depth": 16,
        "max_coc_px": args.max_coc, "seed": args.seed, "keep_in_memory": True,
        "augment": {"noise_probability": 0.0, "grey_probability": 0.0, "scale_probability": 0.5},
    })  # fmt: skip
    for number in range(args.count):
        yield finish(torch.utils.data.default_collate([dataset[EpochIndex(number % len(dataset), 0, number)]]), "cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="of an IFAN, or the name of one that ships with the package")
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--data", metavar="DIR", help="a simulated set in DPDD's layout, with its blur (--save-coc)")
    given.add_argument("--sharp", metavar="DIR", help="sharp pictures that training didn't see")
    parser.add_argument("--count", type=int, default=60, help="scenes (default: 60)")
    parser.add_argument("--patch", type=int, default=192, help="their size in pixels, a multiple of 8 (default: 192)")
    parser.add_argument("--max-coc", type=float, default=16.0, help="the largest blur that is drawn, px (default: 16)")
    parser.add_argument("--seed", type=int, default=1000, help="of the draws (default: 1000)")
    parser.add_argument("--param-key", help="in the checkpoint (default: the averaged ones where it has them)")
    args = parser.parse_args()
    if args.count < 1:
        parser.error(f"--count: must be at least 1, not {args.count}")
    if args.patch < 64 or args.patch % 8:
        parser.error(f"--patch: must be a multiple of 8, at least 64, not {args.patch}")
    loaded = load_network(args.checkpoint, param_key=args.param_key, device="cpu")
    network, unsigned = loaded.net, loaded.blur_unit is not None
    if not getattr(network, "use_disparity", False):
        parser.error(f"{args.checkpoint}: has no disparity map; valid: an IFAN with use_disparity")
    found_each, truth_each, texture_each, each = [], [], [], []
    for scene in scenes_of_set(args.data) if args.data else invented_scenes(args):
        lq = scene["lq"] if network.in_channels == 9 else scene["lq"][:, :3]
        with torch.no_grad():
            disparity = network.disparity(lq)[0, 0].numpy()
        coc = area_downsample(scene["coc"].abs() if unsigned else scene["coc"], 8)[0, 0].numpy()
        grey = scene["gt"].mean(1, keepdim=True)
        change = (grey[..., 1:] - grey[..., :-1]).abs()  # along the rows, where the views differ
        change = area_downsample(torch.nn.functional.pad(change, (0, 1)), 8)[0, 0].numpy()
        found_each.append(disparity.ravel())
        truth_each.append(coc.ravel())
        texture_each.append(change.ravel())
        if disparity.std() > 0 and coc.std() > 0:
            each.append(np.corrcoef(found_each[-1], truth_each[-1])[0, 1])
    found, truth, texture = (np.concatenate(values) for values in (found_each, truth_each, texture_each))
    half = texture > np.median(texture)
    sys.stdout.write(
        f"{len(found_each)} scenes, {'diameter of the blur' if unsigned else 'signed circles of confusion'} "
        f"{truth.min():.1f} to {truth.max():.1f} px, map {found.min():.3f} to {found.max():.3f} "
        f"{f'times {loaded.blur_unit:g} px of diameter' if unsigned else 'px at 1/8 size'}\n"
        f"correlation, all scenes together: {np.corrcoef(found, truth)[0, 1]:.3f}\n"
        f"correlation, their more textured half: {np.corrcoef(found[half], truth[half])[0, 1]:.3f}\n"
        f"correlation within a scene, median: {np.median(each) if each else float('nan'):.3f}\n"
    )


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
