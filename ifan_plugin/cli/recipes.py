"""``basicsr recipes``: the option files that ship with the package."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from ifan_plugin.common.errors import UserError
from ifan_plugin.common.files import written_aside
from ifan_plugin.options import recipes
from ifan_plugin.options.arguments import Parser

_EPILOG = """\
-opt of `train`, `test` and `benchmark`, and the config of `python -m ifan_plugin.mm`, take a name of this list as well
as a path. To change more than a few values (--force_yml), copy the file.

examples:
  basicsr recipes
  basicsr recipes copy train_IFAN_DPDD.yml
  basicsr recipes copy train_IFAN_DPDD.yml --out mine.yml
  basicsr recipes schema --out options --page docs/options.md
  basicsr train -opt train_IFAN_DPDD.yml --force_yml datasets:train:dataroot=~/DPDD

exit status: 0 done, 2 invalid input (one line says what)."""


def build_parser() -> argparse.ArgumentParser:
    """The parser of ``basicsr recipes``; its errors are :class:`UserError`."""
    parser = Parser(
        prog="basicsr recipes",
        description="List the option files that ship with the package, with what each reproduces, on what hardware and"
        " in what time; copy one; or write the JSON Schema that editors check option files with.",
        epilog=_EPILOG,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser("list", help="list them (as without a command)")
    copy = commands.add_parser("copy", help="write one here, to change it")
    copy.add_argument("name", metavar="NAME", help="a name of the list")
    copy.add_argument("--out", type=Path, metavar="PATH", help="file or folder to write (default: here, same name)")
    copy.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    schema = commands.add_parser("schema", help="write the JSON Schema of option files, for editors")
    schema.add_argument("--out", type=Path, default=Path(), metavar="FOLDER", help="where (default: here)")
    schema.add_argument("--page", type=Path, metavar="FILE.md", help="write the list of every option, too")
    return parser


def main(argv: list[str]) -> int:
    """List, copy, or write the schema. Returns 0.

    Raises:
        UserError: no such recipe, a file that is there already or can't be written.
    """
    args = build_parser().parse_args(argv)
    if args.command == "copy":
        sys.stdout.write(f"written to {_copy(args.name, args.out, args.overwrite)}\n")
        return 0
    if args.command == "schema":
        for path in _write_schema(args.out, args.page):
            sys.stdout.write(f"written to {path}\n")
        return 0
    found = [recipes.describe(path) for path in recipes.paths().values()]
    width = max(len(recipe.path.name) for recipe in found)
    for recipe in found:
        sys.stdout.write(f"{recipe.path.name:<{width}}  {recipe.line}\n")
    return 0


def _copy(name: str, out: Path | None, overwrite: bool) -> Path:
    source = recipes.get(name)
    target = out or Path(source.name)
    if target.is_dir():
        target = target / source.name
    if target.exists() and not overwrite:
        raise UserError(f"{target}: is there already; --overwrite replaces it, --out PATH writes elsewhere")
    text = source.read_text(encoding="utf-8")
    # The copy lies elsewhere, and its schema doesn't.
    place = re.match(rf"{re.escape(recipes.MODELINE)}(.+)\n", text)
    if place:
        text = f"{recipes.MODELINE}{(source.parent / place[1]).resolve()}\n{text[place.end() :]}"
    with written_aside(target, durable=False) as file:
        file.write(text.encode())
    return target


def _write_schema(folder: Path, page: Path | None) -> list[Path]:
    from ifan_plugin.cli import every_option

    written = every_option.write(folder)
    if page is not None:
        with written_aside(page, durable=False) as file:
            file.write(every_option.page().encode())
        written.append(page)
    return written
