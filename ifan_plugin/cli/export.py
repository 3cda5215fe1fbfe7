"""``basicsr export``: a network as an ONNX model or a torch.export program, checked against the original."""

from __future__ import annotations

import argparse
import re
import sys
from typing import TYPE_CHECKING

from ifan_plugin.cli.arguments import Parser, arch_options
from ifan_plugin.errors import UserError
from ifan_plugin.files import expanded

if TYPE_CHECKING:
    from ifan_plugin.export import Report

_DESCRIPTION = """\
Write a network with its weights as a program that runs without this package: an ONNX model (--onnx), or a program of
torch.export (--torch-export). It takes RGB pictures lq [B, C, H, W] of any height and width, float32 in [0, 1], pads
and crops inside, and gives restored [B, 3, H, W], clipped to [0, 1]. The views of dual-pixel networks are stacked in
lq. What was written is then run beside the original on pictures of three sizes; where they differ by more than 1e-4
nothing is left. Architecture, hyper-parameters, views and smallest size stand in the file's metadata."""

_EPILOG = """\
examples:
  basicsr export --weights IFAN.pytorch --out IFAN.onnx --onnx
  basicsr export --weights net_g_latest.pth --param-key params_ema --out IFAN.pt2 --torch-export
  basicsr export --weights IFAN.pth --out IFAN.onnx --onnx --opset 18 --size 720x1280 --overwrite
  basicsr export --weights bare.pth --arch IFAN --arch-option isotropic=true --out IFAN.onnx

the ONNX model on a photograph, in Python (pip install onnxruntime opencv-python):
  import cv2, numpy, onnxruntime
  session = onnxruntime.InferenceSession("IFAN.onnx")
  lq = numpy.float32(cv2.imread("photo.jpg")[:, :, ::-1] / 255).transpose(2, 0, 1)[None]
  restored = session.run(["restored"], {"lq": lq})[0][0].transpose(1, 2, 0)
  cv2.imwrite("sharp.png", (restored * 255).round().astype("uint8")[:, :, ::-1])
the other kind: torch.export.load("IFAN.pt2").module()(lq) with lq a tensor

exit status: 0 done, 2 invalid input or a network that can't be exported (one line says what), 1 a fault of the
program."""


def build_parser() -> argparse.ArgumentParser:
    """The parser of ``basicsr export``; its errors are :class:`UserError`."""
    parser = Parser(prog="basicsr export", description=_DESCRIPTION, epilog=_EPILOG)
    parser.add_argument("--weights", required=True, metavar="FILE", help="checkpoint of the network")
    parser.add_argument("--out", required=True, metavar="FILE", help="file to write, .onnx or .pt2")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--onnx", action="store_true", help="ONNX model, .onnx (default: by the ending of --out)")
    kind.add_argument("--torch-export", action="store_true", help="program of torch.export, .pt2")
    parser.add_argument("--arch", metavar="NAME", help="architecture, where the checkpoint doesn't tell")
    parser.add_argument(
        "--arch-option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an argument of the architecture, as in an option file (may be repeated)",
    )
    parser.add_argument(
        "--param-key",
        choices=("params", "params_ema"),
        default="params",
        help="which parameters of the checkpoint: the last (default) or the averaged ones",
    )
    parser.add_argument("--opset", type=int, metavar="N", help="version of ONNX's operators, 18 or more")
    parser.add_argument(
        "--size",
        action="append",
        default=[],
        metavar="HxW",
        help="check at this height and width, too, in pixels (may be repeated)",
    )
    parser.add_argument("--no-check", action="store_true", help="don't run what was written")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    return parser


def main(argv: list[str]) -> int:
    """Export one network. Returns 0.

    Raises:
        UserError: invalid arguments or files, or a network that can't be exported; one line.
    """
    args = build_parser().parse_args(argv)
    if args.size and args.no_check:
        raise UserError("--size: is for the check, and --no-check leaves it out; give one of them")
    sizes = [_size(text) for text in args.size]
    kind = "onnx" if args.onnx else "torch-export" if args.torch_export else None
    out, weights = expanded(args.out, "--out"), expanded(args.weights, "--weights")
    # After parsing, so that --help and slips are answered at once.
    from tqdm import tqdm

    from ifan_plugin import export
    from ifan_plugin.inference.networks import load_network

    kind = export.require_writable(out, kind, args.overwrite)
    export.require_packages(kind, args.opset, not args.no_check)
    network = load_network(weights, args.arch, arch_options(args.arch_option), param_key=args.param_key, device="cpu")
    sys.stderr.write(f"{network.description}\n")
    stages = 2 + (kind == "onnx") + (0 if args.no_check else 3 + len(sizes))
    with tqdm(total=stages, bar_format="{desc:<24}|{bar:20}| {elapsed}", file=sys.stderr, leave=False) as bar:
        begun = False

        def progress(stage: str) -> None:
            nonlocal begun
            bar.update(1 if begun else 0)
            begun = True
            bar.set_description_str(stage)

        report = export.export_network(
            network,
            out,
            kind,
            opset=args.opset,
            check=not args.no_check,
            sizes=sizes,
            overwrite=args.overwrite,
            progress=progress,
        )
    sys.stdout.write("\n".join(_told(report)) + "\n")
    return 0


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,6})x(\d{1,6})", text)
    if not found or not min(int(found[1]), int(found[2])):
        raise UserError(f"--size {text}: must be HEIGHTxWIDTH in pixels, such as 720x1280")
    return int(found[1]), int(found[2])


def _told(report: Report) -> list[str]:
    """What was written, for people."""
    from ifan_plugin.export import TOLERANCE

    what = "torch.export program" if report.opset is None else f"ONNX model, opset {report.opset}"
    of = "" if report.multiple == 1 else f" multiples of {report.multiple}"
    batch = "any number of pictures" if report.any_batch else "one picture"
    lines = [
        f"written to {report.path} ({what}, {report.file_size / 2**20:.1f} MiB)",
        f"takes {batch} at a time; height and width:{of or ' any'}, at least {report.smallest}",
    ]
    if not report.differences:
        return [*lines, "not checked against the original (--no-check)"]
    sizes = ", ".join(f"{height}x{width}" for _, _, height, width in report.differences)
    largest = max(report.differences.values())
    runner = "torch.export.load" if report.opset is None else "onnxruntime"
    lines.append(
        f"checked by {runner} against the original at {sizes}: largest difference {largest:.1e} "
        f"(limit {TOLERANCE:.0e} of values in [0, 1])"
    )
    return lines
