"""``basicsr train``: BasicSR's ``train_pipeline``, mended, with the plug-ins loaded."""

from __future__ import annotations

import os
import sys

from ifan_plugin.options.arguments import parse_pipeline_arguments


def main(argv: list[str], verb: str = "train") -> int:
    """Run the host's pipeline in the working directory. Returns the exit status."""
    parse_pipeline_arguments(argv, verb)  # --help and slips are answered before torch and the host are imported
    from ifan_plugin.host.pipeline import run

    sys.argv = [f"basicsr {verb}", *argv]  # the pipeline reads it, and copies it into the experiment's options
    run(verb, os.getcwd())
    return 0
