"""``basicsr deblur``: photographs in, sharp ones out."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import math
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ifan_plugin.cli.arguments import Parser, arch_options
from ifan_plugin.errors import UserError
from ifan_plugin.files import expanded

if TYPE_CHECKING:
    from ifan_plugin.inference.batch import Outcome
    from ifan_plugin.inference.batch_plan import Job

FORMATS = ("jpeg", "png", "tiff", "webp")  # batch_plan.ENDINGS, without loading readers for --help

_DESCRIPTION = """\
Restore photographs that are out of focus. INPUT is a file, a folder (searched with those below it) or a pattern such
as 'photos/**/*.jpg'. Read are JPEG, PNG, TIFF and WebP of 8 or 16 bits, grey or colour, with or without alpha, and
camera raw where rawpy is installed (pip install 'ifan_plugin[raw]'). Pictures are turned upright; EXIF data, colour
profile and bit depth are kept, alpha is passed through untouched."""

_EPILOG = """\
what is written to OUT:
  NAME.jpg                    the restored picture: name, sub-folder and kind of file are the input's; raw becomes
                              16-bit TIFF, a palette RGB
  NAME_compare.jpg            --compare: before and after, and the part that gained most at 200 %
  NAME_disparity.png          --save-disparity: 16 bits; disparity in pixels = value / 256 - 128 (the file says so, too)
  NAME_disparity_colours.png  --save-disparity: blue below zero, white in focus, red above
Where two restored pictures differ by their ending alone (x.jpg and x.png), NAME has it, too: x.png_compare.jpg.
OUT is a folder, or for a single INPUT the file's name. No input is ever written over. A picture that is there restored
already is skipped, which counts as done, unless --overwrite is given; where only others of its files are there, it
fails. Files appear when they are whole, the restored picture first: an interrupted run leaves no half ones.

dual-pixel networks: INPUT is the centre view, --left and --right are files, or folders with pictures named like the
inputs (or with _L and _R at the end). Of a network that takes left and right alone, INPUT gives name, EXIF data and
alpha: give the left views again where there are no others.

examples:
  basicsr deblur IMG_0042.JPG --out sharp --weights IFAN.pth
  basicsr deblur holiday/ 'more/**/*.NEF' --out sharp --weights IFAN.pth --compare --device cuda --precision fp16
  basicsr deblur portrait.tif --out portrait_sharp.tif --weights IFAN.pth --tile 1024 --ensemble
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
    network.add_argument("--weights", metavar="FILE", help="checkpoint; it usually tells what network it is")
    network.add_argument("--arch", metavar="NAME", help="architecture, as a benchmark's option file may name it")
    network.add_argument(
        "--arch-option", action="append", default=[], metavar="KEY=VALUE",
        help="an argument of the architecture, as in an option file (may be repeated)",
    )  # fmt: skip
    network.add_argument(
        "--param-key", choices=("params", "params_ema"), default="params",
        help="which parameters of the checkpoint: the last (default) or the averaged ones",
    )  # fmt: skip
    network.add_argument(
        "--plugin", action="append", default=[], metavar="MODULE", help="installed module with more architectures"
    )
    network.add_argument("--left", metavar="PATH", help="left views, for dual-pixel networks")
    network.add_argument("--right", metavar="PATH", help="right views, for dual-pixel networks")

    how = parser.add_argument_group("how it is run")
    how.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:N or mps")
    how.add_argument(
        "--precision", choices=("fp32", "bf16", "fp16"), default="fp32",
        help="fp32 (default) is exact; fp16 and bf16 are faster on a GPU, bf16 is slow on most CPUs",
    )  # fmt: skip
    how.add_argument(
        "--tile", type=_tile, default="auto", metavar="auto|N|off",
        help="restore in tiles of N pixels a side; auto (default): where memory asks for it; off: never",
    )  # fmt: skip
    how.add_argument("--ensemble", action="store_true", help="mean over flips and turns: 4 to 8 times as slow")

    output = parser.add_argument_group("output")
    output.add_argument("--format", choices=FORMATS, help="kind of files to write (default: as the input)")
    output.add_argument("--quality", type=int, default=95, metavar="Q", help="of JPEG and WebP, 1 to 100 (default: 95)")
    output.add_argument("--compare", action="store_true", help="write a picture of before and after, too")
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


def main(argv: list[str]) -> int:
    """Restore photographs. Returns 0, or 1 where some failed.

    Raises:
        UserError: invalid arguments; nothing was restored.
    """
    args = build_parser().parse_args(argv)
    if not 1 <= args.quality <= 100:
        raise UserError(f"--quality {args.quality}: must be from 1 to 100")
    if not (args.max_megapixels > 0 and math.isfinite(args.max_megapixels * 1e6)):
        raise UserError(f"--max-megapixels {args.max_megapixels:g}: must be above 0, and finite")
    if args.weights is None and args.arch is None:
        raise UserError("--weights: is missing; give a checkpoint, or --arch DefocusDeconvolution, which needs none")
    arguments = arch_options(args.arch_option)
    out = expanded(args.out, "--out")
    args.weights = None if args.weights is None else expanded(args.weights, "--weights")
    # After parsing, so that --help and slips are answered at once; planning doesn't need torch either.
    from ifan_plugin.inference import batch_plan

    try:
        found, others = batch_plan.find_inputs(args.input, out)
        jobs = batch_plan.plan(
            found, out, args.format, args.left, args.right, args.compare, args.save_disparity
        )  # fmt: skip
    except OSError as error:  # a folder that may not be looked into, a name that is too long
        raise UserError(f"{error.filename}: {error.strerror or error}") from None
    talk = sys.stderr.write if not args.quiet else _silent
    if others:
        talk(f"{others} {'file' if others == 1 else 'files'} of other kinds left alone\n")

    from ifan_plugin.inference import batch

    settings = batch.Settings(
        _load(args, arguments), args.precision, args.tile, args.ensemble, args.quality, args.overwrite,
        int(args.max_megapixels * 1e6),
    )  # fmt: skip
    talk(f"{settings.network.description}; on {settings.network.device}\n")
    batch.require_runnable(jobs, settings)
    _make_folder(out.parent if jobs[0].output == out else out)
    with _ended_by_sigterm(), _watcher(len(jobs), args.quiet) as watcher:
        outcome = batch.restore_all(jobs, settings, watcher)
    _report(outcome, args.quiet)
    return 1 if outcome.failed or outcome.untried else 0


def _silent(text: str) -> None:
    """Say nothing."""


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, so that nothing half-written is left."""
    if threading.current_thread() is not threading.main_thread():  # Python lets no other take signals
        yield
        return
    before = signal.signal(signal.SIGTERM, _interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {folder}: can't be made: {error.strerror or error}") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"--out {folder}: can't be written to: permission denied")


def _load(args: argparse.Namespace, arguments: dict[str, Any]) -> Any:
    """The network that the arguments name."""
    from ifan_plugin.inference.networks import load_network

    if args.plugin:
        from ifan_plugin import plugins

        plugins.load_plugins(args.plugin, "--plugin")
    views = arguments.pop("views", None)  # no argument of the architecture, but a key beside them in option files
    network = load_network(args.weights, args.arch, arguments, args.param_key, args.device)
    if views is None:
        return network
    from ifan_plugin.benchmark import models, options
    from ifan_plugin.options import check_value

    check_value(views, options.MODEL_OPTIONS["views"], "--arch-option views")
    model = options.Model(network.name, network.name, None, None, tuple(views), {})
    return dataclasses.replace(network, views=models.views_of(model, network.net))


@contextmanager
def _watcher(total: int, quiet: bool) -> Iterator[Any]:
    """Bars on a terminal, a line a picture elsewhere, nothing with --quiet; the package's log goes the same way."""
    from tqdm import tqdm

    from ifan_plugin.inference.batch import Watcher

    if quiet:
        yield Watcher()
        return
    terminal = sys.stderr.isatty()

    def tell(line: str) -> None:
        tqdm.write(line.replace("\n", " "), file=sys.stderr)  # a name may hold one

    class Teller(Watcher):
        """Bars over pictures and tiles."""

        number = 0
        inner: tqdm | None = None

        def begins(self, job: Job) -> None:
            self.number += 1
            bar.set_postfix_str(job.source.name.replace("\n", " "))

        def tiles(self, done: int, parts: int) -> None:
            if not terminal or parts < 2:
                return
            if self.inner is None:
                self.inner = tqdm(total=parts, unit="tile", leave=False, position=1)
            self.inner.total, self.inner.n = parts, done
            self.inner.refresh()

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
    logger.addHandler(handler)
    teller = Teller()
    try:
        with tqdm(total=total, unit="picture", disable=not terminal, position=0) as bar:
            yield teller
    finally:
        logger.removeHandler(handler)
        if teller.inner is not None:
            teller.inner.close()


def _report(outcome: Outcome, quiet: bool) -> None:
    """The last lines: how many, and which failed and why."""
    counts = [f"{len(outcome.restored)} restored"]
    if outcome.skipped:
        counts.append(f"{len(outcome.skipped)} skipped, there already (--overwrite replaces)")
    if outcome.failed:
        counts.append(f"{len(outcome.failed)} failed")
    if outcome.untried:
        counts.append(f"{len(outcome.untried)} not tried")
    if not quiet:
        sys.stdout.write(", ".join(counts) + "\n")
        sys.stdout.flush()
    sys.stderr.writelines(f"failed: {reason}\n" for _, reason in outcome.failed)
    if outcome.untried:
        sys.stderr.write(f"not tried after that: {len(outcome.untried)} more\n")
