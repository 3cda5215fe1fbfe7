"""``basicsr deblur``: photographs in, sharp ones out."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import math
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ifan_plugin import zoo
from ifan_plugin.common.errors import UserError
from ifan_plugin.common.files import expanded, make_folder
from ifan_plugin.common.stopping import ended_by_sigterm
from ifan_plugin.options.arguments import PLUGIN_HELP, Parser, arch_options

if TYPE_CHECKING:
    from ifan_plugin.photos.batch import Outcome
    from ifan_plugin.photos.plan import Job

_SECONDS = 10  # between two lines on one picture, where there is no terminal to show a bar
RUNTIMES = ("auto", "torch", "openvino", "onnxruntime")  # export.runtimes.CHOICES, without torch
FORMATS = ("jpeg", "png", "tiff", "webp")  # batch_plan.ENDINGS, without loading readers for --help

_DESCRIPTION = """\
Restore photographs that are out of focus. INPUT is a file, a folder (searched with those below it) or a pattern such
as 'photos/**/*.jpg'. Read are JPEG, PNG, TIFF, WebP, AVIF and BMP of 8 or 16 bits, grey, colour or CMYK, with or
without alpha; HEIC where pillow-heif is installed (pip install 'ifan_plugin[heif]'), camera raw where rawpy is (pip
install 'ifan_plugin[raw]'). Pictures are turned upright; EXIF data, captions (IPTC), comments, colour profile and bit
depth are kept, alpha is passed through untouched, CMYK becomes sRGB."""

_EPILOG = """\
what is written to OUT:
  NAME.jpg                    the restored picture: name, sub-folder and kind of file are the input's; raw becomes
                              16-bit TIFF, HEIC, AVIF and BMP become PNG, a palette RGB
  NAME_compare.jpg            --compare: before and after, and the part that gained most (or --crop) at 200 %
  NAME_disparity.png          --save-disparity: 16 bits; disparity in pixels = value / 256 - 128, or, of a network that
                              was taught the size of the blur, as ifan_small was, its diameter (the file says which)
  NAME_disparity_colours.png  --save-disparity: blue below zero, white in focus, red above
Where two restored pictures differ by their ending alone (x.jpg and x.png), NAME has it, too: x.png_compare.jpg.
OUT is a folder, or for a single INPUT the file's name. No input is ever written over. A picture that is there restored
already is skipped, which counts as done, unless --overwrite is given; where only others of its files are there, it
fails. Files appear when they are whole, the restored picture first: an interrupted run leaves no half ones.

dual-pixel networks: INPUT is the centre view, --left and --right are files, or folders with pictures named like the
inputs (or with _L and _R at the end). Of a network that takes left and right alone, INPUT gives name, EXIF data and
alpha: give the left views again where there are no others.

large photographs: networks undo blur of a few pixels, and a camera's 24 megapixels have wider blur of the same lens.
Above 1 megapixel the blur is estimated; where it is too wide, the photograph is restored at a smaller size, and what
changed is put back at full size, where all other detail stays. A line says so; --scale 1 works at full size always.

examples:
  basicsr deblur IMG_0042.JPG --out sharp --weights IFAN.pth
  basicsr deblur holiday/ 'more/**/*.NEF' --out sharp --weights IFAN.pth --compare --device cuda --precision fp16
  basicsr deblur portrait.tif --out portrait_sharp.tif --weights IFAN.pth --tile 1024 --ensemble
  basicsr deblur holiday/ --out sharp --device cpu --runtime openvino
  basicsr deblur face.jpg --out sharp --weights IFAN.pth --strength 0.6 --compare --crop 1200,800,400,300
  basicsr deblur scan.png --out sharp --arch DefocusDeconvolution --arch-option noise=0.02
  basicsr deblur test_c/source --left test_l/source --right test_r/source --out sharp --weights IFAN_dual.pth

exit status: 0 all pictures are restored or were there already, 1 some failed (the last lines say which and why; a fault
of the program, with its traceback, has this status, too), 2 invalid arguments, and nothing was done (one line says
why), 130 interrupted, by Ctrl-C or SIGTERM."""


def build_parser() -> argparse.ArgumentParser:
    """The parser of ``basicsr deblur``; its errors are :class:`UserError`."""
    parser = Parser(prog="basicsr deblur", description=_DESCRIPTION, epilog=_EPILOG)
    parser.add_argument("input", nargs="+", metavar="INPUT", help="photograph, folder or pattern")
    parser.add_argument("--out", required=True, metavar="OUT", help="folder to write to, or a file's name")

    network = parser.add_argument_group("network")
    network.add_argument(
        "--weights", metavar="FILE",
        help="checkpoint; it usually tells what network it is (default: ifan_small, where the package has it)",
    )  # fmt: skip
    network.add_argument("--arch", metavar="NAME", help="architecture, as a benchmark's option file may name it")
    network.add_argument(
        "--arch-option", action="append", default=[], metavar="KEY=VALUE",
        help="an argument of the architecture, as in an option file (may be repeated)",
    )  # fmt: skip
    network.add_argument(
        "--param-key", choices=("params", "params_ema"),
        help="which parameters of the checkpoint: params, the last, or params_ema, the averaged ones (default where it "
        "has them)",
    )  # fmt: skip
    network.add_argument("--plugin", action="append", default=[], metavar="MODULE", help=PLUGIN_HELP)
    network.add_argument(
        "--white-level", type=int, metavar="N",
        help="the value of 16-bit files that is white, such as 4095 for 12 bits: they are scaled (default: 65535)",
    )  # fmt: skip
    network.add_argument("--left", metavar="PATH", help="left views, for dual-pixel networks")
    network.add_argument("--right", metavar="PATH", help="right views, for dual-pixel networks")

    how = parser.add_argument_group("how it is run")
    how.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:N or mps")
    how.add_argument(
        "--runtime", choices=RUNTIMES, default="auto",
        help="what computes on a CPU: torch, or openvino or onnxruntime, which may be faster on your processor; the "
        "first time one of these is asked for, the network is exported and checked, which takes minutes, and kept; "
        "auto (default): one of the two where that was done already, else torch",
    )  # fmt: skip
    how.add_argument(
        "--precision", choices=("fp32", "bf16", "fp16"), default="fp32",
        help="fp32 (default) is exact; fp16 and bf16 are faster on a GPU, bf16 is slow on most CPUs",
    )  # fmt: skip
    how.add_argument(
        "--tile", type=_tile, default="auto", metavar="auto|N|off",
        help="restore in tiles of N pixels a side; auto (default): where memory asks for it; off: never",
    )  # fmt: skip
    how.add_argument(
        "--scale", type=_scale, default="auto", metavar="auto|S",
        help="restore at S times the size, above 0 and up to 1, and put what changed back at full size; auto "
        "(default): 1, or what makes the blur of a large photograph fit",
    )  # fmt: skip
    how.add_argument(
        "--strength", type=_share, default=1.0, metavar="S",
        help="how much of the restored picture is mixed into the photograph, above 0 and up to 1 (default: 1, all)",
    )  # fmt: skip
    how.add_argument("--ensemble", action="store_true", help="mean over flips and turns: 4 to 8 times as slow")

    output = parser.add_argument_group("output")
    output.add_argument("--format", choices=FORMATS, help="kind of files to write (default: as the input)")
    output.add_argument("--quality", type=int, default=95, metavar="Q", help="of JPEG and WebP, 1 to 100 (default: 95)")
    output.add_argument("--compare", action="store_true", help="write a picture of before and after, too")
    output.add_argument(
        "--crop", type=_crop, metavar="X,Y,W,H",
        help="the part that --compare enlarges: column and row of its corner, width, height (default: what gained "
        "most)",
    )  # fmt: skip
    output.add_argument("--save-disparity", action="store_true", help="write the network's disparity map, too")
    output.add_argument("--overwrite", action="store_true", help="replace files that are there already")
    output.add_argument(
        "--max-megapixels", type=float, default=400, metavar="N",
        help="refuse larger pictures, before they are decoded (default: 400)",
    )  # fmt: skip
    output.add_argument("--quiet", action="store_true", help="say only what failed")
    return parser


def _tile(text: str) -> int | str:
    if text in ("auto", "off"):
        return text
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"must be auto, off or a positive number of pixels, not '{text}'")


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"must be a number above 0 and up to 1, not '{text}'")
    return share


def _scale(text: str) -> float | str:
    if text == "auto":
        return text
    try:
        return _share(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(str(error).replace("must be", "must be auto or")) from None


def _crop(text: str) -> tuple[int, int, int, int]:
    parts = text.split(",")
    if len(parts) != 4 or not all(part.strip().isdecimal() for part in parts) or 0 in map(int, parts[2:]):
        raise argparse.ArgumentTypeError(f"must be four whole numbers X,Y,W,H, such as 1200,800,400,300, not '{text}'")
    left, top, width, height = map(int, parts)
    return left, top, width, height


def main(argv: list[str]) -> int:
    """Restore photographs. Returns 0, or 1 where some failed.

    Raises:
        UserError: invalid arguments; nothing was restored.
    """
    args = build_parser().parse_args(argv)
    if args.white_level is not None and not 255 <= args.white_level <= 65535:
        raise UserError(f"--white-level {args.white_level}: must be from 255 to 65535; 4095 for values of 12 bits")
    if not 1 <= args.quality <= 100:
        raise UserError(f"--quality {args.quality}: must be from 1 to 100")
    if not (args.max_megapixels > 0 and math.isfinite(args.max_megapixels * 1e6)):
        raise UserError(f"--max-megapixels {args.max_megapixels:g}: must be above 0, and finite")
    if args.crop is not None and not args.compare:
        raise UserError("--crop: says what --compare enlarges; give --compare, too")
    if args.weights is None and args.arch is None and zoo.find() is None:
        raise UserError("--weights: is missing; give a checkpoint, or --arch DefocusDeconvolution, which needs none")
    arguments = arch_options(args.arch_option)
    if re.match(r"\w+=", args.out) and not os.path.lexists(args.out):
        raise UserError(f"--out {args.out}: looks like a value of --arch-option; a folder of that name is ./{args.out}")
    out = expanded(args.out, "--out")
    args.weights = None if args.weights is None else expanded(args.weights, "--weights")
    # After parsing, so that --help and wrong arguments are answered at once; planning doesn't need torch either.
    from ifan_plugin.photos import plan as batch_plan

    try:
        found, others = batch_plan.find_inputs(args.input, out)
        jobs = batch_plan.plan(
            found, out, args.format, args.left, args.right, compare=args.compare, disparity=args.save_disparity
        )  # fmt: skip
    except OSError as error:  # a folder that may not be looked into, a name that is too long
        raise UserError(f"{error.filename}: {error.strerror or error}") from None
    talk = sys.stderr.write if not args.quiet else _silent
    if others:
        talk(f"{others} {'file' if others == 1 else 'files'} of other kinds left alone\n")

    from ifan_plugin.export.runtimes import running_on
    from ifan_plugin.photos import batch

    network = running_on(_load(args, arguments), args.runtime, args.precision, lambda line: talk(f"{line}\n"))
    settings = batch.Settings(
        network, args.precision, args.tile, args.ensemble, args.quality, args.overwrite,
        args.white_level, int(args.max_megapixels * 1e6), args.scale, args.strength, args.crop,
    )  # fmt: skip
    talk(f"{settings.network.description}; on {settings.network.place}\n")
    batch.require_runnable(jobs, settings)
    to_file = jobs[0].output == out
    _make_folder(out.parent if to_file else out)
    with ended_by_sigterm(), _watcher(len(jobs), args.quiet) as watcher:
        outcome = batch.restore_all(jobs, settings, watcher)
    _report(outcome, args.quiet, out)
    return 1 if outcome.failed or outcome.untried else 0


def _silent(text: str) -> None:
    """Say nothing."""


def _make_folder(folder: Path) -> None:
    make_folder(folder)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"--out {folder}: can't be written to: permission denied")


def _load(args: argparse.Namespace, arguments: dict[str, Any]) -> Any:
    """The network that the arguments name."""
    from ifan_plugin.weights.networks import load_network, views_of

    if args.plugin:
        from ifan_plugin.host.registry import load_plugins

        load_plugins(None, "--plugin", args.plugin)
    views = arguments.pop("views", None)  # no argument of the architecture, but a key beside them in option files
    network = load_network(args.weights, args.arch, arguments, args.param_key, args.device)
    if views is None:
        return network
    from ifan_plugin.benchmark.options import MODEL_OPTIONS
    from ifan_plugin.options.schema import check_value

    check_value(views, MODEL_OPTIONS["views"], "--arch-option views")
    return dataclasses.replace(network, views=views_of(network.net, network.name, f"model {network.name}", views))


@contextmanager
def _watcher(total: int, quiet: bool) -> Iterator[Any]:  # noqa: C901 (a bar, lines or nothing: three small watchers)
    """Bars on a terminal, a line a picture elsewhere, nothing with --quiet; the package's log goes the same way."""
    from tqdm import tqdm

    from ifan_plugin.photos.batch import Watcher

    if quiet:
        yield Watcher()
        return
    terminal = sys.stderr.isatty()

    def tell(line: str) -> None:
        tqdm.write(line.replace("\n", " "), file=sys.stderr)  # a name may hold one

    class Teller(Watcher):
        """Bars over pictures and tiles."""

        number, parts, whole = 0, 1, 0
        inner: tqdm | None = None
        last = 0.0

        def begins(self, job: Job) -> None:
            self.number += 1
            self.job, self.parts, self.whole, self.last = job, 1, 0, time.monotonic()
            bar.set_postfix_str(job.source.name.replace("\n", " "))

        def tiles(self, done: int, parts: int) -> None:
            self.whole, self.parts = done, parts
            self.stage(0.0)

        def stage(self, share: float) -> None:
            done = self.whole + share
            if not terminal:
                self._tell_now_and_then(done / self.parts)
                return
            if self.inner is None:
                self.inner = tqdm(leave=False, position=1)
            if self.parts > 1:
                self.inner.unit, self.inner.total = "tile", self.parts
                self.inner.n = round(done, 1) if share else self.whole
            else:
                self.inner.unit, self.inner.total, self.inner.n = "%", 100, min(round(100 * done), 100)
            self.inner.refresh()

        def _tell_now_and_then(self, share: float) -> None:
            now = time.monotonic()
            if now - self.last >= _SECONDS and share < 1:
                self.last = now
                tell(f"[{self.number}/{total}] {self.job.source} {100 * share:.0f} %")

        def says(self, job: Job, line: str) -> None:
            tell(f"{job.source}: {line}")

        def ends(self, job: Job, line: str) -> None:
            if self.inner is not None:
                self.inner.close()
                self.inner = None
            if not terminal or not line.startswith("->"):  # what went well, the bar shows
                line = line.replace(f"failed: {job.source}: ", "failed: ", 1)
                tell(f"[{self.number}/{total}] {job.source} {line}")
            bar.update()

    class Handler(logging.Handler):
        """The package's log beside the bars."""

        def emit(self, record: logging.LogRecord) -> None:
            tell(self.format(record))

    logger, handler = logging.getLogger("ifan_plugin"), Handler()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    teller = Teller()
    try:
        with tqdm(total=total, unit="picture", disable=not terminal, position=0) as bar:
            yield teller
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        if teller.inner is not None:
            teller.inner.close()


def _report(outcome: Outcome, quiet: bool, out: Path) -> None:
    """The last lines: how many, where they are, and which failed and why."""
    counts = [f"{len(outcome.restored)} restored"]
    if outcome.skipped:
        counts.append(f"{len(outcome.skipped)} skipped, there already (--overwrite replaces)")
    if outcome.failed:
        counts.append(f"{len(outcome.failed)} failed")
    if outcome.untried:
        counts.append(f"{len(outcome.untried)} not tried")
    if not quiet:
        sys.stdout.write(", ".join(counts) + "\n")
        if outcome.restored or outcome.skipped:
            sys.stdout.write(f"results: {os.path.abspath(out)}".replace("\n", " ") + "\n")
        sys.stdout.flush()
    sys.stderr.writelines(f"failed: {reason}\n" for _, reason in outcome.failed)
    if outcome.untried:
        sys.stderr.write(f"not tried after that: {len(outcome.untried)} more\n")
