"""``basicsr mm``, or ``python -m ifan_plugin.mm``: train and test on mmengine's Runner, with mmengine's own flags."""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import sys
import zipfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from ifan_plugin.common import stopping
from ifan_plugin.common.errors import UserError
from ifan_plugin.common.files import make_folder, writing_below
from ifan_plugin.common.locks import only_run
from ifan_plugin.host import ranks
from ifan_plugin.mm import checkpoints, distributed, resuming
from ifan_plugin.mm import config as configs
from ifan_plugin.mm.hooks import ThroughputHook
from ifan_plugin.mm.optim import ScheduleFreeHook
from ifan_plugin.mm.stopping import StopHook
from ifan_plugin.options import commands
from ifan_plugin.options.arguments import Parser
from ifan_plugin.options.recipes import option_path

PROGRAM = "python -m ifan_plugin.mm"

_HELP = """\
usage: {PROGRAM} COMMAND [arguments]

IFAN, and other networks, on mmengine's Runner, from a config file.

commands:
  train     train, validate and keep checkpoints
  test      measure a checkpoint and write its pictures

examples:
  {PROGRAM} train options/mm/ifan_quickstart.py
  {PROGRAM} test options/mm/ifan_quickstart.py work_dirs/ifan_quickstart/iter_1800.pth
  {PROGRAM} COMMAND --help

A config that ends in .py is a program and is run: read it before you use somebody else's. One in YAML or JSON is data.
"""

_END = """
exit status: 0 done, 2 invalid input (one line says what), 1 a fault of the program."""

_EXAMPLES = {
    "train": """\
values of --cfg-options:
  numbers, true, false, None, lists 1,2 or [1,2], tuples (1,2); anything else is text, and so is what stands in quotes
  ('"a, b"'). Values aren't run. A number as a key picks an item of a list: param_scheduler.0.gamma=0.5

A config that ends in .py is a program and is run: read it before you use somebody else's. One in YAML or JSON is data.

examples:
  {PROGRAM} train options/mm/ifan_quickstart.py
  {PROGRAM} train options/mm/ifan_dpdd.py --work-dir runs/dpdd --resume
  {PROGRAM} train options/mm/ifan_dpdd.py --amp --cfg-options train_cfg.max_iters=1000 train_dataloader.batch_size=4
  torchrun --nproc_per_node=2 -m ifan_plugin.mm train options/mm/ifan_dpdd.py --launcher pytorch
""",
    "test": """\
examples:
  {PROGRAM} test options/mm/ifan_quickstart.py work_dirs/ifan_quickstart/iter_1800.pth
  {PROGRAM} test options/mm/ifan_quickstart.py experiments/IFAN_quickstart/models/net_g_latest.pth
  {PROGRAM} test options/mm/ifan_dpdd.py IFAN.pth --cfg-options test_dataloader.dataset.dataroot=~/DPDD
""",
}


def build_parser(command: str, program: str = PROGRAM) -> Parser:
    """The parser of one command; its errors are :class:`UserError`. ``program``: what it is called as."""
    what = "Train a network" if command == "train" else "Test a checkpoint"
    parser = Parser(
        prog=f"{program} {command}",
        description=f"{what} on mmengine's Runner, from a config file (.py, .yml, .yaml or .json).",
        epilog=f"{_EXAMPLES[command]}{_END}".replace("{PROGRAM}", program),
    )
    parser.add_argument(
        "config",
        metavar="CONFIG",
        type=option_path,
        help="config file, or the name of one that ships with the package (see basicsr recipes)",
    )
    if command == "test":
        parser.add_argument(
            "checkpoint", metavar="CHECKPOINT", help="checkpoint of mmengine, BasicSR or the IFAN authors"
        )
    parser.add_argument(
        "--work-dir", metavar="DIR", help="where checkpoints, logs and pictures go (default: work_dirs/NAME OF CONFIG)"
    )
    if command == "train":
        parser.add_argument(
            "--resume",
            nargs="?",
            const="auto",
            type=_resume_from,
            metavar="FILE",
            help="continue from FILE, or without FILE ('auto') from the newest whole checkpoint in the work dir",
        )
        parser.add_argument(
            "--amp", action="store_true", help="mixed precision: fp16 with a scaled loss on a GPU, bf16 on a CPU"
        )
    parser.add_argument(
        "--cfg-options", nargs="+", default=[], action="extend", metavar="KEY=VALUE", help="override the config"
    )
    parser.add_argument(
        "--launcher", choices=distributed.LAUNCHERS, default="none", help="how ranks were started (default: none)"
    )
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)
    return parser


def _resume_from(text: str) -> str:
    if Path(text).suffix in configs.ENDINGS:
        raise argparse.ArgumentTypeError(f"{text} is a config: put CONFIG before --resume")
    return text


def main(argv: list[str] | None = None, program: str = PROGRAM) -> int:
    """Run one command. Returns the exit status, as :func:`ifan_plugin.options.commands.run` does.

    Args:
        argv: the arguments; None: the process's.
        program: what it is called as, for help and messages.
    """
    argv = sys.argv[1:] if argv is None else argv

    def start(command: str, arguments: list[str]) -> int:
        _COMMANDS[command](build_parser(command, program).parse_args(arguments))
        return 0

    return commands.run(argv, program, _COMMANDS, _HELP.replace("{PROGRAM}", program), start, _log_handlers)


def train(args: argparse.Namespace) -> None:
    """``train``, with what :func:`build_parser` parsed. Raises :class:`UserError`."""
    config = _prepared(args, "train")
    if args.amp:
        use_mixed_precision(config)
    _require_precision(config)
    start = args.resume
    if start is None and config.get("resume") and "://" not in str(config.get("load_from")):
        start = config.get("load_from") or "auto"
    if start is not None:
        flag = "load_from (resume)" if args.resume is None else "--resume"
        folders = checkpoint_folders(config)
        path = newest_checkpoint(*folders) if start == "auto" else _existing(str(start), flag)
        if path is None:
            where = " or ".join(map(str, folders))
            sys.stderr.write(f"--resume: no checkpoint in {where}: starting from the beginning.\n")
        else:
            checkpoints.require_resumable(path, schedulers=bool(config.get("param_scheduler")))
            resuming.require_same_training(path, config)
            sys.stderr.write(f"Resuming from {path}.\n")
        config.resume, config.load_from = path is not None, None if path is None else str(path)
    with ExitStack() as locks:
        if _is_first_rank(args.launcher):
            work_dir = Path(config.work_dir)
            locks.enter_context(only_run(work_dir / ".train.lock", f"work dir {work_dir}:"))
        _run(config, args.launcher, lambda runner: runner.train())


def _is_first_rank(launcher: str) -> bool:
    ranks = {"pytorch": "RANK", "slurm": "SLURM_PROCID", "mpi": "OMPI_COMM_WORLD_RANK"}
    return launcher == "none" or os.environ.get(ranks[launcher], "0") == "0"


def test(args: argparse.Namespace) -> None:
    """``test``, with what :func:`build_parser` parsed. Raises :class:`UserError`."""
    config = _prepared(args, "test")
    config.resume, config.load_from = False, str(_existing(args.checkpoint, "CHECKPOINT"))
    _run(config, args.launcher, lambda runner: runner.test())


_COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {"train": train, "test": test}


def _prepared(args: argparse.Namespace, command: str) -> Config:
    """The config with the command line's values, checked; its work dir exists then."""
    config = configs.read(args.config)
    configs.override(config, args.cfg_options)
    name = Path(args.config).name
    configs.check(config, name, command)
    work_dir = args.work_dir or config.get("work_dir") or f"work_dirs/{Path(args.config).stem}"
    config.work_dir = str(Path(work_dir).expanduser())
    make_folder(config.work_dir)
    for loop in ("train", "val", "test"):
        loader = config.get(f"{loop}_dataloader")
        if isinstance(loader, dict) and not loader.get("num_workers", 0):
            loader["persistent_workers"] = False  # torch refuses to let none persist
    _leave_out_tensorboard(config)
    return config


def _leave_out_tensorboard(config: Config) -> None:
    backends = (config.get("visualizer") or {}).get("vis_backends") or []
    kept = [backend for backend in backends if backend.get("type") != "TensorboardVisBackend"]
    if len(kept) < len(backends) and importlib.util.find_spec("tensorboard") is None:
        sys.stderr.write("TensorBoard isn't installed (pip install tensorboard): nothing is written for it.\n")
        config.visualizer.vis_backends = kept


def use_mixed_precision(config: Config) -> None:
    """What ``--amp`` does to a config: mmengine's ``AmpOptimWrapper`` where there is a GPU, bf16 where there is none.

    Raises:
        UserError: ``optim_wrapper`` is of a type that can't be exchanged.
    """
    kind = config.optim_wrapper.get("type", "OptimWrapper")
    if kind in ("AmpOptimWrapper", "BF16OptimWrapper"):
        return
    if kind != "OptimWrapper":
        raise UserError(
            f"--amp: optim_wrapper: type: must be OptimWrapper, AmpOptimWrapper or BF16OptimWrapper, not {kind}"
        )
    config.optim_wrapper.type = "AmpOptimWrapper" if torch.cuda.is_available() else "BF16OptimWrapper"


def _require_precision(config: Config) -> None:
    if config.optim_wrapper.get("type") == "AmpOptimWrapper" and not torch.cuda.is_available():
        raise UserError(
            "optim_wrapper: type: AmpOptimWrapper needs a GPU, and none is found here; BF16OptimWrapper does without"
        )


def checkpoint_folders(config: Config) -> list[Path]:
    """Where a run's checkpoints may lie: its work dir, and what ``out_dir`` of its checkpoint hook makes of it."""
    folders = [Path(config.work_dir)]
    out_dir = ((config.get("default_hooks") or {}).get("checkpoint") or {}).get("out_dir")
    if out_dir is not None:
        folders.append(Path(out_dir) / Path(config.work_dir).absolute().name)
    return folders


def newest_checkpoint(*folders: Path) -> Path | None:
    """The checkpoint in some folders with the highest iteration that is whole; None where there is none.

    mmengine follows the absolute path in ``last_checkpoint``, which a moved folder or a killed save leave wrong. Here
    it counts only where no file has a number, as with a ``filename_tmpl`` of one's own.
    """
    numbered = []
    for path in (path for folder in folders for path in folder.glob("*.pth")):
        kind, _, number = path.stem.rpartition("_")
        if kind in ("iter", "epoch") and number.isdigit():
            numbered.append((int(number), path))
    candidates = [path for _, path in sorted(numbered, reverse=True)]
    if not candidates:
        notes = [folder / "last_checkpoint" for folder in folders]
        named = [Path(note.read_text(encoding="utf-8", errors="replace").strip()) for note in notes if note.is_file()]
        candidates = [path for path in named if path.is_file()]
    for path in candidates:
        if zipfile.is_zipfile(path):  # torch.save writes the directory of its zip last
            return path
        sys.stderr.write(f"--resume: passed over {path}: cut short\n")
    return None


def _existing(path: str, flag: str) -> Path:
    found = Path(path).expanduser()
    if not found.is_file():
        raise UserError(f"{flag}: no such file: {path}")
    return found


def _run(config: Config, launcher: str, what: Callable[[Runner], Any]) -> None:
    with ranks.left_together("--resume"), writing_below(config.work_dir):
        distributed.prepare(config, launcher)
        try:
            with checkpoints.scoped_loader():
                what(_built_runner(config))
        finally:
            stopping.forget()


def _built_runner(config: Config) -> Runner:
    wrapper = config.get("optim_wrapper")
    if isinstance(wrapper, dict) and "optimizer" in wrapper and not wrapper.get("clip_grad"):
        wrapper["clip_grad"] = {"max_norm": float("inf")}  # changes nothing, and puts the gradient's norm into the log
    runner = RUNNERS.build(config) if "runner_type" in config else Runner.from_cfg(config)
    for kind in (StopHook, ThroughputHook, ScheduleFreeHook):
        if not any(isinstance(hook, kind) for hook in runner.hooks):
            runner.register_hook(kind())
    if torch.distributed.is_initialized():
        ranks.meet()
    return runner


def _log_handlers() -> list[logging.Handler]:
    """Those of the Runner's log, if it has begun."""
    return list(MMLogger.get_current_instance().handlers) if MMLogger._instance_dict else []
