"""The ``basicsr`` command: one module a verb, each imported when it is asked for."""

from __future__ import annotations

import importlib
import logging
import os
import sys

from ifan_plugin import __version__
from ifan_plugin.errors import UserError
from ifan_plugin.options import nearest

VERBS = {
    "train": "train a network in BasicSR's loop, from an option file",
    "test": "test a network in BasicSR's loop, from an option file",
    "deblur": "restore photographs: files, folders, camera raw",
    "demo": "a local web page: restore a picture and look at the kernels that the network predicted",
    "lmdb": "make and check LMDBs of pictures, and look at them",
    "simulate": "make a dual-pixel data set from sharp pictures and depth",
    "dataset": "show what the network eats: a contact sheet of a data set's samples",
    "benchmark": "measure models on test sets: quality, operations, time, memory; one report",
    "export": "write a network as ONNX or torch.export program, checked against the original",
    "convert": "turn IFAN's checkpoints into safetensors, or to and from the authors' keys",
    "doctor": "show versions, devices, operator backends and hosts found",
}
"""Verb -> what it does; ``ifan_plugin.cli.<verb>`` has ``main(argv) -> exit status``."""


def _help() -> str:
    lines = [f"  {verb:<10}{what}" for verb, what in VERBS.items()]
    return "\n".join(
        [
            "usage: basicsr VERB [arguments]",
            "",
            "Defocus deblurring with IFAN, and any network of BasicSR, in BasicSR's own loops.",
            "",
            "verbs:",
            *lines,
            "",
            "examples:",
            "  basicsr simulate --preset quickstart --out datasets/quickstart",
            "  basicsr train -opt options/train_IFAN_quickstart.yml",
            "  basicsr VERB --help",
            "",
        ]
    )


def main(argv: list[str] | None = None) -> int:
    """Run one verb. Returns the exit status: 0 done, 2 invalid input (one line on stderr), 130 interrupted."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help", "help"):
        (sys.stdout if argv else sys.stderr).write(_help())
        return 0 if argv else 2
    if argv[0] in ("-V", "--version"):
        sys.stdout.write(f"ifan_plugin {__version__}\n")
        return 0
    verb = argv[0]
    if verb not in VERBS:
        sys.stderr.write(f"basicsr: unknown verb '{verb}'; {nearest(verb, VERBS)}\n")
        return 2
    try:
        return importlib.import_module(f"ifan_plugin.cli.{verb}").main(argv[1:])
    except UserError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        sys.stderr.write("basicsr: interrupted\n")
        return 130
    except BrokenPipeError:  # somebody closed our output (… | head)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _fail(message: str) -> int:
    message = " ".join(message.split())
    prefix = "" if message.startswith("basicsr ") else "basicsr: "
    sys.stderr.write(f"{prefix}{message}\n")
    for handler in logging.getLogger("basicsr").handlers:  # a run's log file should say why it ended
        if isinstance(handler, logging.FileHandler):
            handler.emit(logging.makeLogRecord({"levelname": "ERROR", "levelno": logging.ERROR, "msg": message}))
    return 2
