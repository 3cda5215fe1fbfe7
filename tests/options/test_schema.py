"""Option schemas: every mistake is one line that names the place and what would be valid."""

from __future__ import annotations

import pytest

from ifan_plugin.common.errors import UserError
from ifan_plugin.options.schema import Option, check_call, check_mapping, check_value, nearest

SCHEMA = {
    "size": Option(int, minimum=1),
    "rate": Option(float, 0.5, minimum=0, maximum=1),
    "mode": Option(str, "a", choices=("a", "beta")),
    "views": Option(list, [], items=str, choices=("left", "right")),
    "name": Option(str, None),
}


def test_defaults_are_filled_in_and_the_mapping_stays_as_it_was():
    given = {"size": 3}
    assert check_mapping(given, SCHEMA, "f") == {"size": 3, "rate": 0.5, "mode": "a", "views": [], "name": None}
    assert given == {"size": 3}


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"size": 3, "rat": 1}, "f: unknown key 'rat'; did you mean 'rate'?"),
        ({"size": 3, "SIZE": 1}, "f: unknown key 'SIZE'; did you mean 'size'?"),
        ({"size": 3, "xyz": 1}, "f: unknown key 'xyz'; valid: mode, name, rate, size, views"),
        ({}, "f: 'size' is missing (an integer)"),
        ({"size": "3"}, "f: size: must be an integer, not '3'"),
        ({"size": True}, "f: size: must be an integer, not True"),
        ({"size": 0}, "f: size: must be at least 1, not 0"),
        ({"size": 3, "rate": 2}, "f: rate: must be at most 1, not 2"),
        ({"size": 3, "rate": float("nan")}, "f: rate: must be finite, not nan"),
        ({"size": 3, "mode": "bet"}, "f: mode: must be one of 'a', 'beta', not 'bet'; did you mean 'beta'?"),
        ({"size": 3, "views": ["left", "rihgt"]}, "f: views: unknown item 'rihgt'; did you mean 'right'?"),
        ({"size": 3, "views": "left"}, "f: views: must be a list, not 'left'"),
        ([1], "f: must be a mapping of options, not [1]"),
        (None, "f: must be a mapping of options, not nothing"),
    ],
)
def test_slips(mapping, message):
    with pytest.raises(UserError) as caught:
        check_mapping(mapping, SCHEMA, "f")
    assert str(caught.value) == message


def test_a_missing_folder_is_named(tmp_path):
    check_value(str(tmp_path), Option(str, is_folder=True), "f: root")
    with pytest.raises(UserError, match=r"f: root: folder not found: .*none"):
        check_value(str(tmp_path / "none"), Option(str, is_folder=True), "f: root")


def example(net, width: int = 3, *, rate: float = 0.1, name: str | None = None, needed: bool):
    """A signature to check against."""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"needed": True, "widht": 3}, "f: unknown key 'widht'; did you mean 'width'?"),
        ({"net": 1, "needed": True}, "f: unknown key 'net'"),
        ({}, "f: 'needed' is missing"),
        ({"needed": True, "width": "3"}, "f: width: must be an integer, not '3'"),
        ({"needed": True, "width": 2.5}, "f: width: must be an integer, not 2.5"),
        ({"needed": True, "name": 3}, "f: name: must be a string, not 3"),
        ({"needed": 1}, "f: needed: must be true or false, not 1"),
    ],
)
def test_calls(arguments, message):
    with pytest.raises(UserError) as caught:
        check_call(example, arguments, "f", skip=1)
    assert str(caught.value).startswith(message)


def test_good_calls():
    check_call(example, {"needed": True, "rate": 1, "name": None}, "f", skip=1)
    check_call(example, {}, "f", skip=1, may_lack=True)
    check_call(lambda **anything: None, {"x": 1}, "f")


def test_an_error_out_of_a_worker_is_its_last_line():
    text = (
        "Caught UserError in DataLoader worker process 0.\nTraceback: …\nifan_plugin.errors.UserError: a.png: broken\n"
    )
    assert str(UserError(text)) == "a.png: broken"


def test_nearest_of_nothing():
    assert nearest("x", []) == "nothing is valid here"
