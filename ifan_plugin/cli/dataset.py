"""``basicsr dataset show``: a picture of what the network is given."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ifan_plugin.common.errors import UserError
from ifan_plugin.options.arguments import OPT_HELP, PLUGIN_HELP, Parser
from ifan_plugin.options.recipes import option_path
from ifan_plugin.options.schema import nearest

_DESCRIPTION = """\
Build a data set exactly as 'basicsr train' or 'basicsr test' would, and write a contact sheet of its samples after
augmentation: a row a sample, with the views that lq is stacked of, the target, the views that only losses see, and
left minus right. Works with every data set that is registered, BasicSR's own and plug-ins' too."""

_EPILOG = """\
examples:
  basicsr dataset show -opt options/train_IFAN_DPDD.yml
  basicsr dataset show -opt options/train_IFAN_DPDD.yml --phase val --count 4 --out val.png
  basicsr dataset show -opt options/train_IFAN_DPDD.yml --force_yml datasets:train:patch_size=128 --seed 7

exit status: 0 done, 2 invalid input (one line says what), 1 a fault of the program."""

ACTIONS = ("show",)


def build_parser() -> argparse.ArgumentParser:
    """The parser of ``basicsr dataset show``; its errors are :class:`UserError`."""
    parser = Parser(prog="basicsr dataset show", description=_DESCRIPTION, epilog=_EPILOG)
    parser.add_argument("-opt", required=True, type=option_path, metavar="FILE.yml", help=OPT_HELP)
    parser.add_argument(
        "--phase", metavar="NAME", help="train, val, test, val_1, …, or a data set's name (default: train)"
    )
    parser.add_argument("--count", type=int, default=8, metavar="N", help="samples on the sheet (default: 8)")
    parser.add_argument(
        "--out", type=Path, metavar="FILE.png", help="the sheet (default: from the names of option file and data set)"
    )
    parser.add_argument("--seed", type=int, help="seed of the draws (default: the file's manual_seed)")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing sheet")
    parser.add_argument("--plugin", action="append", default=[], metavar="MODULE", help=PLUGIN_HELP)
    parser.add_argument(
        "--force_yml", nargs="+", default=[], metavar="KEY:SUBKEY=VALUE", help="override values of the option file"
    )
    return parser


def main(argv: list[str]) -> int:
    """Run one action. Returns 0.

    Raises:
        UserError: invalid arguments, options or data; one line.
    """
    if argv[:1] in (["-h"], ["--help"]):
        argv = ["show", *argv]  # the only action there is
    if not argv or argv[0] not in ACTIONS:
        said = f"unknown action '{argv[0]}'" if argv else "no action given"
        raise UserError(f"basicsr dataset: {said}; {nearest(argv[0] if argv else '', ACTIONS)}")
    args = build_parser().parse_args(argv[1:])
    # After parsing, so that --help and wrong arguments are answered at once.
    from ifan_plugin.host.registry import load_plugins
    from ifan_plugin.options import file as option_file
    from ifan_plugin.options import kinds
    from ifan_plugin.pictures.data_sheet import show_dataset

    options = option_file.read_with_overrides(args.opt, args.force_yml)
    kinds.require_kind(options, args.opt, kinds.BASICSR)
    load_plugins(options.get("plugins"), str(args.opt), args.plugin)
    shown = show_dataset(
        options, Path(args.opt).name, args.out, args.phase, args.count, args.seed, overwrite=args.overwrite
    )
    sys.stdout.write("\n".join([*shown.lines, f"written to {shown.path}"]) + "\n")
    return 0
