"""Numbers with their nouns."""

from __future__ import annotations

import pytest

from ifan_plugin.common.words import counted


@pytest.mark.parametrize(
    ("number", "nouns", "said"),
    [
        (0, ("picture",), "0 pictures"),
        (1, ("picture",), "1 picture"),
        (2, ("picture",), "2 pictures"),
        (1200, ("picture",), "1,200 pictures"),
        (1, ("kind", "kinds"), "1 kind"),
        (2, ("foot", "feet"), "2 feet"),
    ],
)
def test_one_and_many(number, nouns, said):
    assert counted(number, *nouns) == said
