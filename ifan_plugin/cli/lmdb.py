"""``basicsr lmdb``: make databases of pictures, verify them, look at them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from ifan_plugin.common.errors import UserError
from ifan_plugin.options.arguments import Parser
from ifan_plugin.options.schema import nearest

_LAYOUTS = ("dpdd", "restormer", "realdof", "pixeldp", "cuhk", "folder", "folders")
_ROLES = ("center", "left", "right", "target")
_STATUS = "exit status: 0 done, 2 invalid input (one line says what), 1 a fault of the program."

_EXAMPLES = f"""\
commands:
  create    make databases from a data set's folders, whole pictures or patches
  verify    check databases: keys, counts, checksums, every picture decoded
  show      write a contact sheet of what is in a database

examples:
  basicsr lmdb create --layout dpdd --root datasets/DPDD --out datasets/DPDD_lmdb --encoding raw
  basicsr lmdb verify datasets/DPDD_lmdb
  basicsr lmdb COMMAND --help

{_STATUS}"""

_CREATE = """\
Make LMDBs from the pictures of a data set: DIR/{split}/{center,left,right,target}.lmdb, with the same keys in all.
An option file reads them with 'layout: lmdb' and 'dataroot: DIR'; BasicSR's own PairedImageDataset reads two of
them (encoding png) with 'io_backend: {type: lmdb}'."""

_CREATE_EXAMPLES = f"""\
layouts: dpdd, restormer (its patches or pictures), realdof, pixeldp, cuhk: as these sets are published, below --root;
  folder: one flat --root of pictures; folders: a folder a role, given by --center, --left, --right, --target.
  Pictures pair by what their names say (DPDD's by order, its numbers differ by one), and keys are named after the
  centre view's files.

A run that is killed goes on where it stopped when the same command is given again. A database takes its place only
when it is whole. Databases that are there, made alike from the same files, are left alone.

examples:
  basicsr lmdb create --layout dpdd --root datasets/DPDD --out datasets/DPDD_raw --encoding raw
  basicsr lmdb create --layout dpdd --root datasets/DPDD --out datasets/DPDD_8bit --bit-depth 8
  basicsr lmdb create --layout dpdd --root datasets/DPDD --out datasets/DPDD_512 --split train \\
      --patch-size 512 --stride 204 --drop 0.3        # Restormer's training patches: 20 a picture
  basicsr lmdb create --layout dpdd --root datasets/DPDD --out datasets/DPDD_512 --split val --center-crop 256
  basicsr lmdb create --layout folders --center blurred --target sharp --out datasets/mine --split train

{_STATUS}"""

_VERIFY_EXAMPLES = """\
examples:
  basicsr lmdb verify datasets/DPDD_lmdb                       # all databases below, and that their keys agree
  basicsr lmdb verify train/center.lmdb train/target.lmdb
  basicsr lmdb verify datasets/made_by_basicsr.lmdb            # has no checksums; everything else is checked

exit status: 0 all well, 2 something isn't (the first faults are named), 1 a fault of the program."""

_SHOW_EXAMPLES = f"""\
examples:
  basicsr lmdb show datasets/DPDD_lmdb/train                   # all views and the sharp pictures, side by side
  basicsr lmdb show datasets/DPDD_lmdb/train/center.lmdb --out sheet.png --count 20 --seed 1

{_STATUS}"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of ``basicsr lmdb`` itself, for its help and its commands' names."""
    parser = Parser(
        prog="basicsr lmdb",
        description="Pictures in LMDB: few large files instead of many small ones, and crops that don't decode a whole "
        "picture.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("command", metavar="create|verify|show")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="see basicsr lmdb COMMAND --help")
    return parser


def create_parser() -> argparse.ArgumentParser:
    """The parser of ``basicsr lmdb create``; its errors are :class:`UserError`."""
    parser = Parser(prog="basicsr lmdb create", description=_CREATE, epilog=_CREATE_EXAMPLES)
    what = parser.add_argument_group("pictures")
    what.add_argument("--layout", required=True, choices=_LAYOUTS, help="how the pictures lie in their folders")
    what.add_argument("--root", type=Path, metavar="DIR", help="the data set's folder (all layouts but folders)")
    for role in _ROLES:
        name = "sharp pictures" if role == "target" else f"{role} view"
        what.add_argument(f"--{role}", type=Path, metavar="DIR", help=f"layout folders: folder of the {name}")
    what.add_argument(
        "--split", nargs="+", metavar="SPLIT", help="train, val, test (default: all that are there; folders: train)"
    )
    what.add_argument(
        "--views",
        nargs="+",
        choices=_ROLES[:3],
        help="views to take (default: all that are there); sharp pictures come along where there are some",
    )
    what.add_argument(
        "--pairing",
        choices=["auto", "order"],
        default="auto",
        help="auto: by the names (default); order: the n-th picture of each folder, whatever the names say",
    )
    store = parser.add_argument_group("databases")
    store.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the databases")
    store.add_argument(
        "--encoding",
        choices=["png", "raw"],
        default="png",
        help="png: BasicSR's format (default); raw: uncompressed, so that a random crop reads only its rows "
        "(DPDD: 5.6 MB a picture in 8 bits, 11.3 in 16)",
    )
    store.add_argument(
        "--bit-depth",
        choices=["auto", "8", "16"],
        default="auto",
        help="8 shifts out the lower bits of 16-bit files, as OpenCV's colour reading does (default: auto, the files')",
    )
    store.add_argument("--compression", type=int, default=1, metavar="0-9", help="PNG compression level (default: 1)")
    store.add_argument("--overwrite", action="store_true", help="replace databases that are there, once all is made")
    cut = parser.add_argument_group("patches (default: whole pictures)")
    cut.add_argument("--patch-size", type=int, metavar="PX", help="side of overlapping patches; Restormer: 512")
    cut.add_argument(
        "--stride",
        type=int,
        metavar="PX",
        help="distance of patches; the last ones move back to the border (default: 40%% of the size; Restormer: 204)",
    )
    cut.add_argument(
        "--drop",
        type=float,
        metavar="SHARE",
        help="share of each picture's patches left out, those with the least Sobel energy in the sharp picture where "
        "there is one, else in the centre view; the same patches for every role (default: 0.3)",
    )
    cut.add_argument("--center-crop", type=int, metavar="PX", help="one square from the middle; Restormer's val: 256")
    run = parser.add_argument_group("run")
    run.add_argument("--workers", type=int, metavar="N", help="processes (default: the cores this process may use)")
    return parser


def verify_parser() -> argparse.ArgumentParser:
    """The parser of ``basicsr lmdb verify``."""
    parser = Parser(
        prog="basicsr lmdb verify",
        description="Check databases: keys against meta_info.txt, checksums, sizes, every picture decoded.",
        epilog=_VERIFY_EXAMPLES,
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="X.lmdb", help="databases, or folders of them")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: the cores this process may use)")
    return parser


def show_parser() -> argparse.ArgumentParser:
    """The parser of ``basicsr lmdb show``."""
    parser = Parser(
        prog="basicsr lmdb show", description="Write a contact sheet of a database's pictures.", epilog=_SHOW_EXAMPLES
    )
    parser.add_argument(
        "path",
        type=Path,
        metavar="X.lmdb",
        help="the database, or a folder with center.lmdb, left.lmdb, …: then the roles stand side by side",
    )
    parser.add_argument(
        "--out", type=Path, metavar="SHEET.png", help="file to write (default: named after the database, here)"
    )
    parser.add_argument("--count", type=int, default=8, help="pictures shown (default: 8)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of pictures (default: 0)")
    parser.add_argument("--overwrite", action="store_true", help="replace SHEET.png if it exists")
    return parser


def main(argv: list[str]) -> int:
    """Run ``basicsr lmdb …``. Returns 0, or 2 where ``verify`` found faults.

    Raises:
        UserError: invalid arguments or input; one line.
    """
    commands: dict[str, Callable[[list[str]], int]] = {"create": _create, "verify": _verify, "show": _show}
    args = build_parser().parse_args(argv)
    if args.command not in commands:
        raise UserError(f"basicsr lmdb: unknown command '{args.command}'; {nearest(args.command, commands)}")
    return commands[args.command](args.arguments)


def _create(argv: list[str]) -> int:
    args = create_parser().parse_args(argv)
    folders = {role: getattr(args, role) for role in _ROLES if getattr(args, role) is not None}
    _check_combination(args, folders)
    # After parsing, so that --help and wrong arguments are answered at once.
    from ifan_plugin.data.lmdb.create import create
    from ifan_plugin.data.lmdb.patches import CenterCrop, Cut, Patches

    cut: Cut = CenterCrop(args.center_crop) if args.center_crop is not None else None
    if args.patch_size is not None:
        stride = max(1, args.patch_size * 2 // 5) if args.stride is None else args.stride
        cut = Patches(args.patch_size, stride, 0.3 if args.drop is None else args.drop)
    report = create(
        args.out,
        layout=args.layout,
        root=args.root,
        folders=folders or None,
        splits=args.split,
        views=args.views,
        encoding=args.encoding,
        bit_depth=None if args.bit_depth == "auto" else int(args.bit_depth),
        cut=cut,
        compression=args.compression,
        workers=args.workers,
        overwrite=args.overwrite,
        progress=True,
        pairing=args.pairing,
    )
    sys.stdout.write(f"{report}\n")
    return 0


def _check_combination(args: argparse.Namespace, folders: dict[str, Path]) -> None:
    if args.layout == "folders":
        if args.root is not None:
            raise UserError("--root: layout folders has none; give --center DIR, --target DIR and the like")
        if args.views is not None:
            raise UserError("--views: with layout folders, the views are those whose folders are given")
        if args.split is not None and len(args.split) > 1:
            raise UserError("--split: layout folders makes one split a run")
    elif folders:
        flag = next(iter(folders))
        raise UserError(f"--{flag}: is only used with --layout folders; the others find their folders below --root")
    elif args.root is None:
        raise UserError(f"--root: missing; give the folder of the data set in layout {args.layout}")
    if args.patch_size is None:
        for name in ("stride", "drop"):
            if getattr(args, name) is not None:
                raise UserError(f"--{name}: is only used with --patch-size")
    elif args.center_crop is not None:
        raise UserError("--center-crop: can't be combined with --patch-size; give one")


def _verify(argv: list[str]) -> int:
    args = verify_parser().parse_args(argv)
    from ifan_plugin.data.lmdb.verify import verify

    verdicts = verify(args.paths, args.workers, progress=True)
    for verdict in verdicts:
        (sys.stderr if verdict.faults else sys.stdout).write(f"{verdict}\n")
    return 2 if any(verdict.faults for verdict in verdicts) else 0


def _show(argv: list[str]) -> int:
    args = show_parser().parse_args(argv)
    from ifan_plugin.pictures.data_sheet import show_lmdb

    sheet = show_lmdb(args.path, args.out, args.count, args.seed, overwrite=args.overwrite)
    sys.stdout.write(f"written to {sheet}\n")
    return 0
