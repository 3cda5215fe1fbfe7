"""Text of others is shown so that a terminal takes none of it for commands; progress bars still move."""

from __future__ import annotations

import io
import logging
import sys

import pytest
from tqdm import tqdm

from ifan_plugin.common.errors import UserError
from ifan_plugin.common.printable import PrintableStream, one_line, printable, printable_output


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("ä 日 😀\t|\n", "ä 日 😀\t|\n"), ("\x1b[31m", r"\x1b[31m"), ("a\0b\x07", r"a\x00b\x07"), ("\x9b2J", r"\x9b2J"),
        ("\u202egnp.x", r"\u202egnp.x"), ("a\u2028b", r"a\u2028b"), ("\udcff.png", r"\xff.png"), ("\ud800", r"\ud800"),
        ("a\rb", r"a\x0db"), ("\x7f", r"\x7f"), ("a\u200db", "a\u200db"),
    ],
)  # fmt: skip
def test_what_commands_a_terminal_is_escaped(text, shown):
    assert printable(text) == shown


def test_messages_are_one_line():
    assert one_line("a\n b\tc\x1b") == r"a b c\x1b"
    assert str(UserError("x\ny\x1b[2J: no such file")) == r"x y\x1b[2J: no such file"


def test_bars_move_and_names_in_them_do_not():
    stream = io.StringIO()
    out = PrintableStream(stream)
    with tqdm(total=2, file=out, position=1, desc="a\x1b[31mb", ascii=True) as bar:
        bar.update()
        tqdm.write("name\x1b[2J", file=out)
    text = stream.getvalue()
    assert "\r" in text
    assert "\x1b[A" in text
    assert "\x1b[31m" not in text
    assert "\x1b[2J" not in text
    assert r"name\x1b[2J" in text


def test_all_that_a_command_writes_is_escaped_logs_too(tmp_path, capsys):
    handler = logging.FileHandler(tmp_path / "log", encoding="utf-8")
    logger = logging.getLogger("test_printable")
    logger.addHandler(handler)
    with printable_output():
        sys.stdout.write("out\x1b[31m\n")
        sys.stderr.write("err\x1b[31m\n")
        logger.warning("loaded %s\nsecond line", "\x1b[31m\udcff")
        sys.stdout.write("\x1b[4m\x1b[32mINFO\x1b[0m coloured by a log\x07\n")
    handler.close()
    logger.removeHandler(handler)
    said = capsys.readouterr()
    assert said.out == "out\\x1b[31m\n\x1b[4m\x1b[32mINFO\x1b[0m coloured by a log\\x07\n"
    assert said.err.startswith("err\\x1b[31m\n")
    assert (tmp_path / "log").read_text(encoding="utf-8") == "loaded \\x1b[31m\\xff\nsecond line\n"
    sys.stdout.write("\x1b")
    assert capsys.readouterr().out == "\x1b"
