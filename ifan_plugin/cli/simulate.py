"""``basicsr simulate``: a dual-pixel data set in DPDD's layout, from sharp pictures and their depth."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ifan_plugin.common.errors import UserError
from ifan_plugin.common.machine import usable_cores
from ifan_plugin.common.words import counted
from ifan_plugin.options.arguments import Parser
from ifan_plugin.simulation.presets import OPTICS_NAMES
from ifan_plugin.simulation.sensor import SENSOR_PRESETS

if TYPE_CHECKING:
    from ifan_plugin.simulation.data_set import Scene
    from ifan_plugin.simulation.depth_pictures import FolderOptions

_DESCRIPTION = """\
Simulate what a dual-pixel camera with a large aperture sees of a scene, from a sharp picture and its depth:
the left and the right view, and the centre view that they add up to. A thin lens and the split of the views
as real cameras have it, added up in linear light, with the blur of near things spreading over what is behind
them. Pictures without depth get an invented one (--depth-kind invented)."""

_EPILOG = """\
writes, for each split (16-bit RGB PNG, one name a scene):
  DIR/{split}_c/source  blurred    DIR/{split}_l/source  left view
  DIR/{split}_c/target  sharp      DIR/{split}_r/source  right view
  DIR/{split}_coc       with --save-coc: signed circle of confusion, 16-bit grey,
                        (the blur's diameter), stored value = round(256 * pixels) + 32768; negative in
                        front of the focus plane

(left + right) / 2 = centre holds exactly in linear light, and within 2.3/65535 of it in the 16-bit files
(not with a tone curve or JPEG). With --split all, --sharp and --depth hold a folder for each split.
The same seed gives the same files, with any number of workers. A run that fails leaves DIR as it was.

examples:
  basicsr simulate --preset quickstart --out data/quickstart
  basicsr simulate --sharp pictures --depth depth --out data/mine --split train --f-number 2
  basicsr simulate --sharp pictures --depth depth_mm --depth-scale 0.001 --out data/mine --split val
  basicsr simulate --sharp photographs --depth-kind invented --optics random --sensor phone --out data/mine
  basicsr simulate --sharp pictures --depth depth --out data/mine --split all   (pictures/train, pictures/val, ...)
  basicsr simulate --sharp pictures --depth disparity --depth-kind disparity --focal-px 994.978 \\
      --baseline-m 0.193001 --doffs 31.086 --f-number 2.2 --focus-distance 2.4 --out data/mine --split test

exit status: 0 done, 2 invalid input (one line says what), 1 a fault of the program."""

# What these take when they aren't given is in FolderOptions; None tells given from not given.
_FOLDER_FLAGS = {
    "depth_kind": "depth_kind",
    "depth_scale": "depth_scale",
    "focal_px": "focal_px",
    "baseline_m": "baseline_m",
    "doffs": "doffs_px",
    "focal_length": "focal_length_mm",
    "f_number": "f_number",
    "focus_distance": "focus_distance_m",
    "pixel_pitch": "pixel_pitch_um",
    "optics": "optics",
}
_SENSOR_FLAGS = ("highlights", "iso", "mosaic", "tone", "jpeg")


def build_parser() -> argparse.ArgumentParser:
    """The parser of ``basicsr simulate``; its errors are :class:`UserError`."""
    parser = Parser(
        prog="basicsr simulate",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_argument_group("what to simulate (either --preset, or --sharp and --depth)")
    what.add_argument(
        "--preset",
        choices=["quickstart"],
        help="quickstart: a small train/val/test set from the pictures that scikit-image ships; nothing is downloaded",
    )
    what.add_argument("--sharp", type=Path, metavar="DIR", help="folder of sharp pictures, 8 or 16-bit RGB")
    what.add_argument(
        "--depth",
        type=Path,
        metavar="DIR",
        help="folder of their depth, named alike: .npy, .npz (one array), 16-bit grey .png, .pfm; unknown "
        "is NaN or inf, or 0 where whole numbers are stored",
    )
    what.add_argument(
        "--split",
        choices=["train", "val", "test", "all"],
        help="split to write (default: train); all: each that has a folder of its name in --sharp, in one call",
    )

    what.add_argument(
        "--pairing",
        choices=["auto", "order"],
        help="auto: depth pairs with pictures by the names (default); order: the n-th of each, whatever the names say",
    )

    depth = parser.add_argument_group("depth (with --depth)")
    depth.add_argument(
        "--depth-kind",
        choices=["depth", "disparity", "invented"],
        help="what is stored (default: depth); invented: nothing; planes, slopes, segments of the picture and "
        "cut-outs in front are made up, which is what photographs without depth need",
    )
    depth.add_argument(
        "--depth-scale",
        type=float,
        metavar="X",
        help="stored value times X gives metres, or pixels of disparity (default: 1)",
    )
    depth.add_argument(
        "--focal-px", type=float, metavar="PX", help="disparity: focal length of the stereo pair, pixels"
    )
    depth.add_argument("--baseline-m", type=float, metavar="M", help="disparity: baseline of the stereo pair, metres")
    depth.add_argument(
        "--doffs",
        type=float,
        metavar="PX",
        help="disparity: x-difference of the principal points, pixels (default: 0)",
    )

    camera = parser.add_argument_group("camera (with --depth)")
    camera.add_argument("--focal-length", type=float, metavar="MM", help="focal length, mm (default: 50)")
    camera.add_argument("--f-number", type=float, metavar="N", help="f-number of the aperture (default: 4)")
    camera.add_argument(
        "--focus-distance",
        type=float,
        metavar="M",
        help="distance of the focus plane, metres (default: drawn for each picture from the depths it has)",
    )
    camera.add_argument(
        "--pixel-pitch",
        type=float,
        metavar="UM",
        help="distance of the picture's pixels on the sensor, micrometres (default: of a sensor 36 mm wide; with a "
        "disparity, focal length / focal-px)",
    )

    camera.add_argument(
        "--optics",
        choices=OPTICS_NAMES,
        help="form of the blur: thin_lens, an ideal lens with the views' overlap as measured (default); pixel4, "
        "canon_rf50: measured all over the picture, with aberrations; random: drawn for each picture around those; "
        "abuolaim: the convention of Abuolaim et al., ICCV 2021, whose blur is twice as wide as a camera's and whose "
        "views lie further apart, for people who compare with it",
    )

    sensor = parser.add_argument_group("light and sensor (with --depth; the sharp pictures stay clean)")
    sensor.add_argument(
        "--sensor",
        choices=list(SENSOR_PRESETS),
        help="what the following are where they aren't given: none (default), a camera at ISO 400, a phone at ISO 3200",
    )
    sensor.add_argument(
        "--highlights", type=float, metavar="X", help="what is clipped was X times brighter than white before the blur"
    )
    sensor.add_argument(
        "--noise", dest="iso", type=float, metavar="ISO", help="shot and read noise at this sensitivity; 0: none"
    )
    sensor.add_argument(
        "--mosaic", action="store_true", default=None, help="one colour a pixel (Bayer), the others interpolated"
    )
    sensor.add_argument("--tone", type=float, metavar="X", help="contrast of the tone curve over sRGB's, 0 to 0.8")
    sensor.add_argument("--jpeg", type=int, metavar="Q", help="JPEG's quality, 1 to 100, before the files are written")

    run = parser.add_argument_group("run")
    run.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the data set")
    run.add_argument("--seed", type=int, default=0, help="of all that is random (default: 0)")
    run.add_argument("--workers", type=int, help="processes (default: the cores this process may use)")
    run.add_argument("--overwrite", action="store_true", help="replace the same splits in a folder that isn't empty")
    run.add_argument("--save-coc", action="store_true", help="write the circle of confusion too")
    return parser


def main(argv: list[str]) -> int:
    """Simulate a data set. Returns 0.

    Raises:
        UserError: invalid arguments or input; one line.
    """
    args = build_parser().parse_args(argv)
    _check_combination(args)
    # After parsing, so that --help and wrong arguments are answered at once.
    from ifan_plugin.simulation import data_set as simulated_set
    from ifan_plugin.simulation import depth_pictures
    from ifan_plugin.simulation import quickstart as quickstart_data

    if args.preset:
        scenes = quickstart_data.quickstart_scenes(args.seed)
    else:
        given = {field: getattr(args, flag) for flag, field in _FOLDER_FLAGS.items()}
        given = {field: value for field, value in given.items() if value is not None}
        own = {name: getattr(args, name) for name in _SENSOR_FLAGS if getattr(args, name) is not None}
        light = replace(SENSOR_PRESETS[args.sensor or "none"], **own)
        options = depth_pictures.FolderOptions(**given, light=light, seed=args.seed)
        scenes = _folder_scenes(args, options)
    reports = simulated_set.write_set(
        scenes,
        args.out,
        workers=usable_cores() if args.workers is None else args.workers,
        overwrite=args.overwrite,
        save_coc=args.save_coc,
        progress=True,
    )
    sys.stdout.write(_summary(reports, args.out))
    return 0


def _check_combination(args: argparse.Namespace) -> None:
    if args.preset:
        for name in ("sharp", "depth", "split", "pairing", *_FOLDER_FLAGS, "sensor", *_SENSOR_FLAGS):
            if getattr(args, name) is not None:
                flag = "--noise" if name == "iso" else f"--{name.replace('_', '-')}"
                raise UserError(f"{flag}: can't be combined with --preset, which brings its own scenes; leave one out")
    elif args.depth_kind == "invented" and args.depth is not None:
        raise UserError("--depth: isn't used with --depth-kind invented; leave one out")
    elif args.sharp is None or (args.depth is None and args.depth_kind != "invented"):
        missing = "--sharp" if args.sharp is None else "--depth"
        raise UserError(
            f"{missing}: missing; give --preset quickstart, or both --sharp DIR and --depth DIR; photographs "
            "without depth: --sharp DIR --depth-kind invented"
        )
    elif args.depth_kind != "disparity":
        for name in ("focal_px", "baseline_m", "doffs"):
            if getattr(args, name) is not None:
                raise UserError(f"--{name.replace('_', '-')}: is only used with --depth-kind disparity")


def _folder_scenes(args: argparse.Namespace, options: FolderOptions) -> list[Scene]:
    from ifan_plugin.simulation import depth_pictures
    from ifan_plugin.simulation.data_set import SPLITS

    if args.split != "all":
        split = args.split or "train"
        scenes, rule = depth_pictures.folder_scenes(args.sharp, args.depth, split, options, args.pairing or "auto")
        _say_rule(split, scenes, rule)
        return scenes
    splits = [split for split in SPLITS if (args.sharp / split).is_dir()]
    if not splits:
        raise UserError(
            f"{args.sharp}: no folder {', '.join(SPLITS[:-1])} or {SPLITS[-1]}; --split all takes one a split"
        )
    scenes = []
    for split in splits:
        depth = None if args.depth is None else args.depth / split
        found, rule = depth_pictures.folder_scenes(args.sharp / split, depth, split, options, args.pairing or "auto")
        _say_rule(split, found, rule)
        scenes += found
    return scenes


def _say_rule(split: str, scenes: list[Scene], rule: str) -> None:
    if rule:
        sys.stderr.write(f"{split}: {counted(len(scenes), 'picture')} with depth, paired {rule}.\n")


def _summary(reports: list, out: Path) -> str:
    """A line a split, and for small splits one a scene."""
    lines = []
    for split in dict.fromkeys(report.split for report in reports):
        rows = [report for report in reports if report.split == split]
        mean = sum(row.psnr_db for row in rows) / len(rows)
        lines.append(f"{split}: {counted(len(rows), 'scene')}, blurred pictures at {mean:.2f} dB PSNR on average")
        if len(rows) <= 8:
            lines += [
                f"  {row.name}: {row.width}x{row.height}, circle of confusion {row.coc_min:.1f} to "
                f"{row.coc_max:.1f} px, {row.psnr_db:.2f} dB"
                for row in rows
            ]
    lines.append(f"written to {out}; an option file reads it by")
    lines.append(f"  {{type: DualPixelDataset, dataroot: {out}, layout: dpdd, bit_depth: 16}}")
    return "\n".join(lines) + "\n"
