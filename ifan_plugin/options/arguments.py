"""Command lines: one-line errors with the nearest valid name, and the flags of the host's pipelines."""

from __future__ import annotations

import argparse
import re
from typing import Any, NoReturn

from ifan_plugin.common.errors import UserError
from ifan_plugin.options.file import given_value
from ifan_plugin.options.recipes import option_path
from ifan_plugin.options.schema import nearest

PLUGIN_HELP = "module that registers more classes: an installed one's name, or a FILE.py (may be repeated)"
OPT_HELP = "option file, or the name of one that ships with the package (see basicsr recipes)"


class Parser(argparse.ArgumentParser):
    """An ``ArgumentParser`` whose errors are one line (:class:`UserError`) and which takes no abbreviations."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **kwargs)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's, which of a value ``--`` has none left and fails (``--workers=--``)."""
        passes_on = any(action.nargs == argparse.REMAINDER for action in self._actions)
        for arg in () if passes_on or args is None else args:
            if arg == "--":
                break
            if arg.startswith("-") and arg.endswith("=--"):
                self.error(f"argument {arg[:-3]}: expected a value, not --")
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        unknown = re.match(r"unrecognized arguments: (-\S+)", message)
        if unknown:
            flag = unknown[1].split("=")[0]
            message = f"unknown flag {flag}; {nearest(flag, self._option_string_actions)}"
        raise UserError(f"{self.prog}: {message} (see {self.prog} --help)")


_EXAMPLES = {
    "train": """examples:
  basicsr train -opt options/train_IFAN_DPDD.yml
  basicsr train -opt options/train_IFAN_DPDD.yml --auto_resume
  basicsr train -opt options/train_IFAN_DPDD.yml --force_yml train:total_iter=100 datasets:train:dataroot=~/DPDD
  basicsr train -opt my_net.yml --plugin my_net.py
  torchrun --nproc_per_node=4 -m ifan_plugin train -opt options/train_IFAN_DPDD.yml --launcher pytorch

exit status: 0 done, 2 invalid input (one line says what), 1 a fault of the program.""",
    "test": """examples:
  basicsr test -opt options/test/test_IFAN_DPDD.yml
  basicsr test -opt options/test/test_IFAN_DPDD.yml --force_yml path:pretrain_network_g=IFAN_44.pytorch

exit status: 0 done, 2 invalid input (one line says what), 1 a fault of the program.""",
}


def pipeline_parser(command: str) -> Parser:
    """The parser of ``basicsr train`` / ``basicsr test``: the host's flags, unchanged."""
    what = "Train a network" if command == "train" else "Test a network"
    parser = Parser(
        prog=f"basicsr {command}",
        description=f"{what} in BasicSR's own loop, from a YAML option file.",
        epilog=_EXAMPLES[command],
    )
    parser.add_argument("-opt", required=True, type=option_path, metavar="FILE.yml", help=OPT_HELP)
    parser.add_argument(
        "--launcher",
        choices=["none", "pytorch", "slurm"],
        default="none",
        help="how ranks were started (default: none)",
    )
    parser.add_argument(
        "--auto_resume", action="store_true", help="continue from the newest whole state of this experiment"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="tell every layer of the networks")
    parser.add_argument("--debug", action="store_true", help="log every iteration, validate and save every 8")
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument(
        "--force_yml", nargs="+", default=[], metavar="KEY:SUBKEY=VALUE", help="override values of the option file"
    )
    parser.add_argument("--plugin", action="append", default=[], metavar="MODULE", help=PLUGIN_HELP)
    return parser


def parse_pipeline_arguments(argv: list[str], command: str) -> argparse.Namespace:
    """Parse what follows ``basicsr train`` or ``basicsr test``. Raises :class:`UserError` for bad arguments."""
    return pipeline_parser(command).parse_args(argv)


def arch_options(entries: list[str]) -> dict[str, Any]:
    """An architecture's arguments from repeated ``--arch-option KEY=VALUE``, values as in an option file.

    Raises:
        UserError: no such form, or no YAML.
    """
    arguments = {}
    for entry in entries:
        key, equals, text = entry.partition("=")
        if not equals or not key.strip():
            raise UserError(f"--arch-option {entry}: must have the form key=value")
        arguments[key.strip()] = given_value(text, f"--arch-option {entry}", key.strip())
    return arguments
