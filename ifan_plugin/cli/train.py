"""``basicsr train``: BasicSR's ``train_pipeline``, mended, with the plug-ins loaded."""

from __future__ import annotations

import os
import sys

from ifan_plugin.options.arguments import parse_pipeline_arguments


def main(argv: list[str], command: str = "train") -> int:
    """Run the host's pipeline in the working directory. Returns the exit status."""
    # --help and wrong arguments are answered before torch and the host are imported.
    parse_pipeline_arguments(argv, command)
    from ifan_plugin.host.pipeline import run

    sys.argv = [f"basicsr {command}", *argv]  # the pipeline reads it, and copies it into the experiment's options
    run(command, os.getcwd())
    return 0
