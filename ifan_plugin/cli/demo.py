"""``basicsr demo``: a local web page that restores a picture and shows the kernels that were predicted for it."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from ifan_plugin.cli.arguments import Parser
from ifan_plugin.errors import UserError

QUICKSTART_WEIGHTS = Path("experiments/IFAN_quickstart/models/net_g_latest.pth")

_DESCRIPTION = """\
Serve a page on this machine: upload a picture or choose a sample, restore it, compare before and after, look at the
disparity map, and click a place to see the effective deblurring kernel that the network predicted there. Nothing is
sent to or fetched from other machines. Without --weights it takes the network that the quickstart trained."""

_EPILOG = """\
examples:
  basicsr demo
  basicsr demo --weights IFAN.pytorch
  basicsr demo --weights experiments/IFAN_DPDD/models/net_g_latest.pth --param-key params_ema --device cuda
  basicsr demo --samples ~/pictures --max-megapixels 12 --max-upload-mb 100 --tile 1024
  basicsr demo --arch DefocusDeconvolution
  basicsr demo --port 8000        then open http://127.0.0.1:8000; Ctrl-C ends it

exit status: 0 ended by Ctrl-C, 2 invalid input (one line says what), 1 a fault of the program."""


def build_parser() -> argparse.ArgumentParser:
    """The parser of ``basicsr demo``; its errors are :class:`UserError`."""
    parser = Parser(prog="basicsr demo", description=_DESCRIPTION, epilog=_EPILOG)
    parser.add_argument(
        "--weights", type=Path, metavar="FILE", help=f"checkpoint (default: {QUICKSTART_WEIGHTS}, averaged weights)"
    )
    parser.add_argument("--arch", metavar="NAME", help="architecture (default: told by the checkpoint)")
    parser.add_argument(
        "--param-key", choices=("params", "params_ema"), help="which weights of the checkpoint (default: params)"
    )
    parser.add_argument(
        "--samples", type=Path, metavar="DIR", help="folder of pictures to try (default: the quickstart's)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: auto)")
    parser.add_argument(
        "--precision", choices=("fp32", "bf16", "fp16"), default="fp32", help="of the computation (default: fp32)"
    )
    parser.add_argument(
        "--tile", default="auto", metavar="N", help="side of a tile in pixels, auto, or off (default: auto)"
    )
    parser.add_argument(
        "--max-megapixels", type=float, default=4.0, metavar="N", help="largest picture (default: 4 megapixels)"
    )
    parser.add_argument(
        "--max-upload-mb", type=float, default=40.0, metavar="N", help="largest upload (default: 40 MB of 2^20 bytes)"
    )
    parser.add_argument("--port", type=int, help="port (default: the first free one from 7860 on)")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to serve on (default: 127.0.0.1, this machine alone); there is no password",
    )
    return parser


def main(argv: list[str]) -> int:
    """Serve until Ctrl-C. Returns 0.

    Raises:
        UserError: invalid arguments, weights or samples, gradio is missing, or the port is taken; one line.
    """
    args = build_parser().parse_args(argv)
    tile = _check(args)
    # Before gradio is imported, which reads them then: no telemetry, and files in a folder that goes with the program.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    with tempfile.TemporaryDirectory(prefix="basicsr_demo_", ignore_cleanup_errors=True) as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        return _serve(args, tile, Path(folder))


def _check(args: argparse.Namespace) -> int | str:
    """The tile; UserError for arguments that can't be right."""
    for flag, value in (("--max-megapixels", args.max_megapixels), ("--max-upload-mb", args.max_upload_mb)):
        if not 0 < value < 1e6:
            raise UserError(f"{flag} {value:g}: must be more than 0 and less than a million")
    if ":" in args.host:
        raise UserError(f"--host {args.host}: IPv6 isn't served; valid: a name or an IPv4 address")
    if args.port is not None and not 1 <= args.port <= 65535:
        raise UserError(f"--port {args.port}: must be 1 to 65535")
    if args.tile in ("auto", "off"):
        return args.tile
    if not args.tile.isdecimal() or int(args.tile) < 1:
        raise UserError(f"--tile {args.tile}: must be auto, off, or a number of pixels")
    return int(args.tile)


def _serve(args: argparse.Namespace, tile: int | str, folder: Path) -> int:
    weights, param_key = args.weights, args.param_key
    if weights is None and args.arch is None:
        if not QUICKSTART_WEIGHTS.is_file():
            raise UserError(
                f"{QUICKSTART_WEIGHTS}: not found; run ./scripts/quickstart.sh first, here, or give --weights FILE"
            )
        weights, param_key = QUICKSTART_WEIGHTS, param_key or "params_ema"
    param_key = param_key or "params"
    try:
        import gradio
    except ImportError as error:
        raise UserError(f"basicsr demo needs gradio: pip install 'ifan_plugin[demo]' ({error})") from error
    if not hasattr(gradio, "ImageSlider"):
        raise UserError(f"gradio {gradio.__version__} has no ImageSlider: pip install --upgrade 'ifan_plugin[demo]'")

    from ifan_plugin.demo.page import LOOPBACK, Setting, build, close, launch
    from ifan_plugin.demo.pictures import Limits
    from ifan_plugin.demo.samples import find_samples
    from ifan_plugin.demo.work import Worker
    from ifan_plugin.inference.networks import load_network

    logging.getLogger("httpx").setLevel(logging.WARNING)  # gradio asks itself whether it is there
    limits = Limits(args.max_upload_mb, args.max_megapixels)
    network = load_network(weights, args.arch, param_key=param_key, device=args.device)
    worker = Worker(network, tile, args.precision)
    samples = find_samples(args.samples, limits)
    loaded = loaded_lines(network, param_key)
    page = build(Setting(worker, limits, samples, folder, loaded))
    signal.signal(signal.SIGTERM, _interrupted)
    try:
        address = launch(page, limits, args.host, args.port)
        sys.stdout.write("\n".join([*loaded, f"Serving on {address} (Ctrl-C ends it)"]) + "\n")
        sys.stdout.flush()
        if args.host not in LOOPBACK:
            sys.stderr.write(
                f"basicsr demo: warning: whoever reaches {args.host} can use this page; there is no password\n"
            )
        while True:
            time.sleep(1)
    except KeyboardInterrupt:
        sys.stdout.write("Ending\n")
    finally:
        worker.stopping.set()
        close(page, folder)
    sys.stdout.flush()
    if worker.is_busy:  # torch can't be interrupted, and Python's own way out would trip over its threads
        os._exit(0)
    return 0


def loaded_lines(network, param_key: str) -> list[str]:
    """Which network and which weights these are, for the page and the terminal."""
    from ifan_plugin.demo.work import iterations

    lines = [f"Network: {network.description} (on {network.device})"]
    if network.path is None:
        lines.append("Weights: none; this method has nothing that is learnt.")
    else:
        trained = iterations(network.path)
        known = f"trained for {trained:,} iterations" if trained else "how long they were trained isn't known"
        lines.append(f"Weights: {network.path} [{param_key}], {known}.")
    return lines


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt
