"""The ``basicsr`` command: one module a command below it, each imported when it is asked for."""

from __future__ import annotations

import importlib
import logging
import os
import sys

from ifan_plugin.options import commands

COMMANDS = {
    "train": "train a network in BasicSR's loop, from an option file",
    "test": "test a network in BasicSR's loop, from an option file",
    "mm": "train and test on mmengine's Runner, from a config",
    "deblur": "restore photographs: files, folders, camera raw",
    "demo": "a local web page: restore a picture and look at the kernels that the network predicted",
    "lmdb": "make and check LMDBs of pictures, and look at them",
    "simulate": "make a dual-pixel data set from sharp pictures and depth",
    "dataset": "show what the network is given: a contact sheet of a data set's samples",
    "benchmark": "measure models on test sets: quality, operations, time, memory; one report",
    "export": "write a network as ONNX or torch.export program, checked against the original",
    "convert": "turn IFAN's checkpoints into safetensors, or to and from the authors' keys",
    "recipes": "list the option files that ship with the package, or copy one",
    "doctor": "show versions, devices, operator backends and frameworks found",
}
"""Command -> what it does; ``ifan_plugin.cli.<command>`` has ``main(argv) -> exit status``."""


_RESTORING = ("deblur", "demo")
_SPIN = "10000"
"""How long OpenMP's threads spin before they sleep, in these commands; it must be set before torch is loaded. Beside
another job a restoration is three to four times as fast with it, alone as fast as without (docs/benchmarks/waiting.md).
Training's short steps are slower with it."""


def _help() -> str:
    lines = [f"  {command:<10}{what}" for command, what in COMMANDS.items()]
    return "\n".join(
        [
            "usage: basicsr COMMAND [arguments]",
            "",
            "Defocus deblurring with IFAN, and any network of BasicSR, in BasicSR's own loops.",
            "",
            "commands:",
            *lines,
            "",
            "examples:",
            "  basicsr simulate --preset quickstart --out datasets/quickstart",
            "  basicsr train -opt options/train_IFAN_quickstart.yml",
            "  basicsr COMMAND --help",
            "",
        ]
    )


def main(argv: list[str] | None = None) -> int:
    """Run one command. Returns the exit status, as :func:`ifan_plugin.options.commands.run` does."""
    argv = sys.argv[1:] if argv is None else argv
    return commands.run(argv, "basicsr", COMMANDS, _help(), _start, lambda: logging.getLogger("basicsr").handlers)


def _start(command: str, arguments: list[str]) -> int:
    if command in _RESTORING and not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = _SPIN
    status: int = importlib.import_module(f"ifan_plugin.cli.{command}").main(arguments)
    return status
