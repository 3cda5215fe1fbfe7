"""BasicSR's own training and testing, with every mend in place. The loops themselves stay BasicSR's."""

from __future__ import annotations

import importlib
import pickle
import sys
from pathlib import Path

from ifan_plugin.common import stopping
from ifan_plugin.common.errors import UserError
from ifan_plugin.common.files import writing_below
from ifan_plugin.host import ranks
from ifan_plugin.host.current import Run
from ifan_plugin.host.mends import mend_all, run_locks
from ifan_plugin.options import file as option_file
from ifan_plugin.options import kinds
from ifan_plugin.options.arguments import parse_pipeline_arguments


def run(command: str, root_path: str) -> None:
    """The host's own ``train_pipeline`` or ``test_pipeline``, mended; it reads ``sys.argv``.

    Args:
        command: ``train`` or ``test``.
        root_path: where ``experiments/``, ``results/`` and ``tb_logger/`` go unless the options say ``path: root``.

    Raises:
        UserError: invalid options or data.
    """
    mend_all()
    args = parse_pipeline_arguments(sys.argv[1:], command)
    options = option_file.read_with_overrides(args.opt, args.force_yml)
    kinds.require_kind(options, args.opt, kinds.BASICSR)
    paths = options.get("path")  # its form and its keys are checked later, as a whole
    root = (paths.get("root") if isinstance(paths, dict) else None) or root_path
    pipeline = importlib.import_module(f"basicsr.{command}")
    folder = Path(str(root)).expanduser().absolute()
    with run_locks(), ranks.left_together("--auto_resume"), writing_below(folder):
        Run.in_loop = True
        try:
            getattr(pipeline, f"{command}_pipeline")(str(folder))
        except pickle.UnpicklingError as error:  # others' models may load with torch.load
            raise UserError(f"a checkpoint was refused: {str(error).splitlines()[0]}") from error
        finally:
            Run.in_loop = False
            stopping.forget()
