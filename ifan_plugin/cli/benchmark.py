"""``basicsr benchmark``: models x test sets -> one report."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ifan_plugin.common.files import make_folder
from ifan_plugin.common.words import counted
from ifan_plugin.options.arguments import OPT_HELP, PLUGIN_HELP, Parser
from ifan_plugin.options.recipes import option_path

_DESCRIPTION = """\
Measure a list of models on a list of test sets: quality under a named protocol, parameters, operations, latency, peak
memory and throughput. A model is any architecture that is registered, with or without a checkpoint. What is finished
isn't run again; what fails says why in its row, and the rest goes on."""

_EPILOG = """\
writes to DIR:
  report.html    one page that needs nothing else: tables, plots, pictures side by side
  report.md      the tables, for a README      report.csv, report.json    the numbers
  report.tex     the tables, for a paper       scenes.csv                 each scene's figures
  cells/         a file a finished cell; delete one, or use --overwrite, to measure it anew

examples:
  basicsr benchmark -opt options/benchmark/quickstart.yml
  basicsr benchmark -opt options/benchmark/defocus.yml --only IFAN 'IFAN dual'
  basicsr benchmark -opt options/benchmark/defocus.yml --force_yml device=cpu datasets:0:dataroot=~/DPDD

exit status: 0 all cells ran, 1 some failed (said at the end), 2 invalid input (one line says what)."""


def build_parser() -> argparse.ArgumentParser:
    """The parser of ``basicsr benchmark``; its errors are :class:`UserError`."""
    parser = Parser(prog="basicsr benchmark", description=_DESCRIPTION, epilog=_EPILOG)
    parser.add_argument("-opt", required=True, type=option_path, metavar="FILE.yml", help=OPT_HELP)
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder of the report (default: results/benchmark/ and the file's name)"
    )
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="run these models only; of the others, show what is finished"
    )
    parser.add_argument("--overwrite", action="store_true", help="run finished cells again")
    parser.add_argument("--plugin", action="append", default=[], metavar="MODULE", help=PLUGIN_HELP)
    parser.add_argument(
        "--force_yml", nargs="+", default=[], metavar="KEY:SUBKEY=VALUE", help="override values of the option file"
    )
    return parser


def main(argv: list[str]) -> int:
    """Run a benchmark. Returns 0, or 1 where a cell failed.

    Raises:
        UserError: invalid arguments or options; one line.
    """
    args = build_parser().parse_args(argv)
    # After parsing, so that --help and wrong arguments are answered at once.
    from ifan_plugin.benchmark import options
    from ifan_plugin.host.registry import load_plugins
    from ifan_plugin.options import file as option_file
    from ifan_plugin.options import kinds

    read = option_file.read(args.opt)
    kinds.require_kind(read, args.opt, kinds.BENCHMARK)
    option_file.override(read, args.force_yml, options.TOP_OPTIONS)
    given = load_plugins(read.get("plugins"), str(args.opt), args.plugin)
    if args.plugin:  # networks are profiled in processes of their own, which load them again
        read["plugins"] = [*(read.get("plugins") or []), *given[len(given) - len(args.plugin) :]]
    benchmark = options.check(read, str(args.opt))
    only = options.chosen_models(benchmark, args.only)
    out = args.out or Path("results") / "benchmark" / benchmark.name
    make_folder(out / "cells")

    from ifan_plugin.benchmark import report, run
    from ifan_plugin.benchmark.files import write_reports

    found = run.run(benchmark, out, only, overwrite=args.overwrite)
    made = report.make_report(benchmark, found)
    paths = write_reports(made, out)
    lines = [
        f"{counted(found['ran'], 'cell')} run, {found['reused']} finished before",
        *report.failure_lines(made),
        *made["notes"],
    ]
    lines += [f"written to {path}" for path in paths.values()]
    sys.stdout.write("\n".join(lines) + "\n")
    return 1 if made["failures"] else 0
