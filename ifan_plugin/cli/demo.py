"""``basicsr demo``: a local web page that restores a picture and shows the kernels that were predicted for it."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from pathlib import Path

from ifan_plugin.common.errors import UserError
from ifan_plugin.common.files import expanded, temporary_folder
from ifan_plugin.common.stopping import ended_by_sigterm
from ifan_plugin.options.arguments import PLUGIN_HELP, Parser

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "ftp_proxy")
QUICKSTART_WEIGHTS = Path("experiments/IFAN_quickstart/models/net_g_latest.pth")  # demo.choice's, without torch

_DESCRIPTION = """\
Serve a page on this machine: upload a picture or choose a sample, and see it restored, before and after in one frame,
with the disparity map and the effective deblurring kernel at any place you click. The result is given in the upload's
kind of file, with its EXIF data. The page offers the networks of --weights, those that ship with the package, those
in the folder weights/, and the one that the quickstart trained. Nothing is sent to or fetched from other machines."""

_EPILOG = """\
examples:
  basicsr demo
  basicsr demo --weights weights/IFAN.pytorch
  basicsr demo --weights weights/IFAN.pytorch experiments/IFAN_DPDD/models/net_g_best.pth --device cuda
  basicsr demo --samples ~/pictures --at-once 12 --max-upload-mb 200 --tile 1024
  basicsr demo --arch DefocusDeconvolution
  basicsr demo --weights my_net.pth --arch MyNet --plugin my_net.py
  basicsr demo --port 8000        then open http://127.0.0.1:8000; Ctrl-C ends it

exit status: 0 ended by Ctrl-C, 2 invalid input (one line says what), 1 a fault of the program."""


def build_parser() -> argparse.ArgumentParser:
    """The parser of ``basicsr demo``; its errors are :class:`UserError`."""
    parser = Parser(prog="basicsr demo", description=_DESCRIPTION, epilog=_EPILOG)
    parser.add_argument(
        "--weights",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help=f"checkpoints to choose from, the first at once (default: those in weights/, {QUICKSTART_WEIGHTS})",
    )
    parser.add_argument("--arch", metavar="NAME", help="architecture (default: told by the checkpoint)")
    parser.add_argument(
        "--param-key",
        choices=("params", "params_ema"),
        help="which weights of the checkpoint: params, the last, or params_ema, "
        "the averaged ones (default where it has them)",
    )
    parser.add_argument(
        "--samples", type=Path, metavar="DIR", help="folder of pictures to try (default: the quickstart's)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: auto)")
    parser.add_argument(
        "--runtime",
        choices=("auto", "torch", "openvino", "onnxruntime"),
        default="auto",
        help="what computes on a CPU, as in basicsr deblur (default: auto)",
    )
    parser.add_argument(
        "--precision", choices=("fp32", "bf16", "fp16"), default="fp32", help="of the computation (default: fp32)"
    )
    parser.add_argument(
        "--tile", default="auto", metavar="N", help="side of a tile in pixels, auto, or off (default: auto)"
    )
    parser.add_argument(
        "--at-once",
        type=float,
        default=4.0,
        metavar="N",
        help="reduce larger pictures to N megapixels first; a button restores them whole, by tiles (default: 4)",
    )
    parser.add_argument(
        "--max-megapixels", type=float, default=100.0, metavar="N", help="largest picture (default: 100 megapixels)"
    )
    parser.add_argument(
        "--max-upload-mb", type=float, default=100.0, metavar="N", help="largest upload (default: 100 MB of 2^20 bytes)"
    )
    parser.add_argument("--plugin", action="append", default=[], metavar="MODULE", help=PLUGIN_HELP)
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
    # Nothing is fetched from other machines, and gradio would ask its own port through a proxy.
    for name in [name for name in os.environ if name.lower() in PROXIES]:
        del os.environ[name]
    with temporary_folder("basicsr_demo_") as folder:  # visitors' pictures, so they go even after a kill
        os.environ["GRADIO_TEMP_DIR"] = str(folder)
        return _serve(args, tile, folder)


def _check(args: argparse.Namespace) -> int | str:
    """The tile; UserError for arguments that can't be right."""
    for flag, value in (
        ("--at-once", args.at_once), ("--max-megapixels", args.max_megapixels), ("--max-upload-mb", args.max_upload_mb)
    ):  # fmt: skip
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
    try:
        import gradio
    except ImportError as error:
        raise UserError(f"basicsr demo needs gradio: pip install 'ifan_plugin[demo]' ({error})") from error
    if not hasattr(gradio, "DownloadButton"):
        raise UserError(f"gradio {gradio.__version__} is too old: pip install --upgrade 'ifan_plugin[demo]'")

    from ifan_plugin.demo.choice import Choice, Pool, find_choices, loaded_lines
    from ifan_plugin.demo.page import Setting, build, close, launch
    from ifan_plugin.demo.pictures import Limits
    from ifan_plugin.demo.samples import find_samples
    from ifan_plugin.demo.serve import LOOPBACK
    from ifan_plugin.demo.work import Worker
    from ifan_plugin.export.runtimes import running_on
    from ifan_plugin.weights.networks import Network, load_network

    choices = find_choices([expanded(path, "--weights") for path in args.weights], args.arch)
    if not choices:
        raise UserError(
            f"{QUICKSTART_WEIGHTS}: not found; run ./scripts/quickstart.sh first, here, or give --weights FILE, or put "
            "a checkpoint into the folder weights/"
        )
    logging.getLogger("httpx").setLevel(logging.WARNING)  # gradio asks itself whether it is there
    if args.plugin:
        from ifan_plugin.host import registry as plugins

        plugins.load_plugins(None, "--plugin", args.plugin)

    def load(choice: Choice) -> Network:
        network = load_network(choice.path, args.arch, param_key=args.param_key, device=args.device)
        return running_on(network, args.runtime, args.precision, lambda line: sys.stderr.write(f"{line}\n"))

    limits = Limits(args.max_upload_mb, args.max_megapixels, args.at_once)
    pool = Pool(choices, load, lambda network: Worker(network, tile, args.precision))
    network = pool.worker(0).network  # before the page: what is wrong with it is said here
    samples = find_samples(args.samples, limits)
    page = build(Setting(pool, limits, samples, folder))
    try:
        with ended_by_sigterm():
            address = launch(page, limits, args.host, args.port)
            lines = loaded_lines(network)
            if len(choices) > 1:
                lines.append(f"To choose from: {', '.join(choice.name for choice in choices)}.")
            sys.stdout.write("\n".join([*lines, f"Serving on {address} (Ctrl-C ends it)"]) + "\n")
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
        pool.stop()
        close(page, folder)
    sys.stdout.flush()
    if pool.is_busy:  # torch can't be interrupted, and Python's own way out would trip over its threads
        os._exit(0)
    return 0
