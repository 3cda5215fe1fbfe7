"""What MkDocs makes as it builds the site: every command's help, plain docstrings. `hooks` in mkdocs.yml names it."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from pathlib import Path
from unittest import mock

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
SUBCOMMANDS = {
    "lmdb": ("create", "verify", "show"),
    "dataset": ("show",),
    "recipes": ("list", "copy", "schema"),
    "mm": ("train", "test"),
}
PAGE = "commands.md"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page, which no file in docs/ holds: it is what this version prints."""
    files.append(File.generated(config, PAGE, content=commands_page()))
    return files


def on_page_content(html: str, **_: object) -> str:
    """Docstrings name things by Sphinx's roles and end a line before code with two colons: plain here."""
    return re.sub(r":(?:func|class|mod|meth|data|attr):(?=<code>)", "", html).replace("::</p>", ":</p>")


def commands_page() -> str:
    """Every command's help as Markdown."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    from ifan_plugin import cli

    parts = ["# Commands", "", "What `basicsr COMMAND --help` prints.", "", "## basicsr", "", fenced(help_of())]
    for command in cli.COMMANDS:
        parts += ["", f"## {command}", "", fenced(help_of(command))]
        for below in SUBCOMMANDS.get(command, ()):
            parts += ["", f"### {command} {below}", "", fenced(help_of(command, below))]
    return "\n".join([*parts, ""])


def help_of(*command: str) -> str:
    """What the command prints for ``--help``, 110 characters wide."""
    from ifan_plugin import cli

    printed = io.StringIO()
    with (
        contextlib.redirect_stdout(printed),
        contextlib.suppress(SystemExit),
        mock.patch.dict(os.environ, COLUMNS="110"),
    ):
        cli.main([*command, "--help"])
    text = printed.getvalue().strip()
    if not text:
        raise RuntimeError(f"basicsr {' '.join(command)} --help prints nothing")
    return re.sub(r"[ \t]+$", "", text, flags=re.M)


def fenced(text: str) -> str:
    return f"```text\n{text}\n```"
