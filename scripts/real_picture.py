#!/usr/bin/env python3
"""A real photograph blurred, restored and sharp, with an enlarged part and the map of its blur: README's first picture.

    python scripts/real_picture.py --set datasets/real/dpdd --scene NAME --part X Y SIDE --out docs/real.jpg

--set is a folder in DPDD's layout (test_c/source and test_c/target).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np
import torch

import ifan_plugin
from ifan_plugin.images.image_io import read_image
from ifan_plugin.metrics import psnr
from ifan_plugin.pictures.visual import colour_disparity, contact_sheet
from ifan_plugin.weights.networks import load_network

FRAME = (230, 60, 40)


def framed(picture: np.ndarray, part: tuple[int, int, int]) -> np.ndarray:
    """The picture with the part's outline."""
    x, y, side = part
    return cv2.rectangle(picture.copy(), (x, y), (x + side, y + side), FRAME, max(2, picture.shape[1] // 300))


def main() -> int:
    """Write the picture; returns 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", required=True, type=Path, help="folder in DPDD's layout")
    parser.add_argument("--scene", required=True, help="a picture's name in test_c/source, without its ending")
    parser.add_argument("--part", type=int, nargs=3, metavar=("X", "Y", "SIDE"), required=True, help="what is enlarged")
    parser.add_argument("--weights", default="ifan_small", help="a checkpoint or a shipped network's name")
    parser.add_argument("--cell", type=int, default=380, help="side of each picture, px (default: 380)")
    parser.add_argument("--out", required=True, type=Path, help="JPEG or PNG")
    args = parser.parse_args()
    if args.out.suffix.lower() not in (".jpg", ".jpeg", ".png"):
        parser.error(f"--out {args.out}: must end in .jpg or .png")
    found = [sorted((args.set / f"test_c/{role}").glob(f"{args.scene}.*")) for role in ("source", "target")]
    if not all(found):
        sys.exit(f"--scene {args.scene}: not in {args.set}/test_c/source and target")
    blurred, sharp = (np.rint(read_image(files[0]) * 255).astype(np.uint8) for files in found)
    network = load_network(args.weights)
    restored = ifan_plugin.restore(blurred, weights=network)
    with torch.no_grad():
        disparity = network.net.disparity(torch.from_numpy(blurred / np.float32(255)).permute(2, 0, 1)[None])
    x, y, side = args.part
    named = {
        f"blurred, {psnr(blurred, sharp):.2f} dB": blurred,
        f"restored, {psnr(restored, sharp):.2f} dB": restored,
        "ground truth": sharp,
    }
    whole = [(caption, framed(picture, (x, y, side))) for caption, picture in named.items()]
    enlarged = [("", picture[y : y + side, x : x + side]) for picture in named.values()]
    height, width = blurred.shape[:2]
    map_picture = cv2.resize(
        colour_disparity(disparity[0, 0].numpy()), (width, height), interpolation=cv2.INTER_NEAREST
    )
    sheet = contact_sheet([whole, enlarged, [("map of the blur: white is sharp", map_picture)]], args.cell)
    ending = [cv2.IMWRITE_JPEG_QUALITY, 90] if args.out.suffix.lower() in (".jpg", ".jpeg") else []
    if not cv2.imwrite(str(args.out), np.ascontiguousarray(sheet[..., ::-1]), ending):
        sys.exit(f"--out {args.out}: can't be written")
    print(f"{args.out}: {sheet.shape[1]}x{sheet.shape[0]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
