"""``basicsr mm``: the same networks on mmengine's Runner; ``python -m ifan_plugin.mm`` under another name."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec

from ifan_plugin.common.errors import UserError


def main(argv: list[str]) -> int:
    """Run mmengine's ``train`` or ``test``. Returns the exit status.

    Raises:
        UserError: mmengine isn't installed.
    """
    if find_spec("mmengine") is None:
        raise UserError("basicsr mm needs mmengine: pip install 'ifan_plugin[mm]'")
    if not getattr(sys.flags, "safe_path", False) and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` has it: a config's custom_imports may lie there
    from ifan_plugin.mm.cli import main as run

    status = run(argv, program="basicsr mm")
    if argv[:1] in (["-h"], ["--help"]):
        raise SystemExit(status)  # as argparse answers it for the other commands
    return status
