"""``basicsr export``: a network as an ONNX model or a torch.export program, checked against the original."""

from __future__ import annotations

import argparse
import re
import sys
from typing import TYPE_CHECKING

from ifan_plugin import zoo
from ifan_plugin.common.errors import UserError
from ifan_plugin.common.files import expanded
from ifan_plugin.options.arguments import PLUGIN_HELP, Parser, arch_options

if TYPE_CHECKING:
    from ifan_plugin.export.program import Report

_DESCRIPTION = """\
Write a network with its weights as a program that runs without this package: an ONNX model (--onnx), or a program of
torch.export (--torch-export). It takes RGB pictures lq [B, C, H, W] of any size, float32 in [0, 1], pads
and crops inside, and gives restored [B, 3, H, W], clipped to [0, 1]. The views of dual-pixel networks are stacked in
lq. What was written is then run beside the original on pictures of three sizes; where they differ by more than 1e-4
nothing is left. Architecture, hyper-parameters, views and smallest size stand in the file's metadata."""

_EPILOG = """\
examples:
  basicsr export --weights IFAN.pytorch --out IFAN.onnx --onnx
  basicsr export --weights net_g_latest.pth --out IFAN.pt2 --torch-export
  basicsr export --weights IFAN.pth --out IFAN.onnx --onnx --opset 18 --size 1280x720 --overwrite
  basicsr export --weights bare.pth --arch IFAN --arch-option isotropic=true --out IFAN.onnx
  basicsr export --weights my_net.pth --arch MyNet --plugin my_net.py --out my_net.onnx

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
    parser.add_argument(
        "--weights", metavar="FILE", help="checkpoint of the network (default: ifan_small, where the package has it)"
    )
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
        help="which parameters of the checkpoint: params, the last, or params_ema, the averaged ones (default where it "
        "has them)",
    )
    parser.add_argument("--plugin", action="append", default=[], metavar="MODULE", help=PLUGIN_HELP)
    parser.add_argument("--opset", type=int, metavar="N", help="version of ONNX's operators, 18 or more")
    parser.add_argument(
        "--size",
        action="append",
        default=[],
        metavar="WxH",
        help="check at this width and height, too, in pixels (may be repeated)",
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
    if args.weights is None and (args.arch is not None or zoo.find() is None):
        raise UserError("--weights: is missing; give the network's checkpoint")
    out = expanded(args.out, "--out")
    weights = zoo.DEFAULT if args.weights is None else expanded(args.weights, "--weights")
    # After parsing, so that --help and wrong arguments are answered at once.
    from tqdm import tqdm

    from ifan_plugin.export import program as export
    from ifan_plugin.weights.networks import load_network

    kind = export.require_writable(out, kind, overwrite=args.overwrite)
    export.require_packages(kind, args.opset, check=not args.no_check)
    if args.plugin:
        from ifan_plugin.host import registry as plugins

        plugins.load_plugins(None, "--plugin", args.plugin)
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
        raise UserError(f"--size {text}: must be WIDTHxHEIGHT in pixels, such as 1280x720")
    return int(found[2]), int(found[1])  # height first, as tensors have it


def _told(report: Report) -> list[str]:
    """What was written, for people."""
    from ifan_plugin.export.program import TOLERANCE

    what = "torch.export program" if report.opset is None else f"ONNX model, opset {report.opset}"
    of = "" if report.multiple == 1 else f" multiples of {report.multiple}"
    batch = "any number of pictures" if report.any_batch else "one picture"
    lines = [
        f"written to {report.path} ({what}, {report.file_size / 2**20:.1f} MiB)",
        f"takes {batch} at a time; width and height:{of or ' any'}, at least {report.smallest}",
    ]
    if not report.differences:
        return [*lines, "not checked against the original (--no-check)"]
    sizes = ", ".join(f"{width}x{height}" for _, _, height, width in report.differences)
    largest = max(report.differences.values())
    runner = "torch.export.load" if report.opset is None else "onnxruntime"
    lines.append(
        f"checked by {runner} against the original at {sizes}: largest difference {largest:.1e} "
        f"(limit {TOLERANCE:.0e} of values in [0, 1])"
    )
    return lines
