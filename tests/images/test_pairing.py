"""Pairs told by names: every family of names that people have, and those that can't be told."""

from __future__ import annotations

import unicodedata

import pytest

from ifan_plugin.common.errors import UserError
from ifan_plugin.images.pairing import Folder, in_order, pair, partners

NFC, NFD = (unicodedata.normalize(form, "Straße bei Köln") for form in ("NFC", "NFD"))


def png(*stems):
    return [f"{stem}.png" for stem in stems]


def rows(first, second, **options):
    """Pairs of stems, and the rule."""
    found = pair([Folder("a", sorted(first)), Folder("b", sorted(second))], **options)
    assert [row[0] for row in found.rows] == sorted(first)  # in the order given
    return [tuple(name.rsplit(".", 1)[0] for name in row) for row in found.rows], found.rule


NUMBERS = [str(n) for n in range(1, 12)]
BY_NAME = {
    "equal": ((["b", "a", "c"], ["a", "c", "b"]), [("a", "a"), ("b", "b"), ("c", "c")]),
    "padding": ((NUMBERS, [f"{n:0>4}" for n in NUMBERS]), sorted((n, f"{n:0>4}") for n in NUMBERS)),
    "frames": ((["frame_9", "frame_10"], ["frame_009", "frame_010"]), [("frame_10", "frame_010"), ("frame_9", "frame_009")]),
    "case": ((["IMG_1", "img_2"], ["img_1", "IMG_2"]), [("IMG_1", "img_1"), ("img_2", "IMG_2")]),
    "unicode": (([NFC, "b"], [NFD, "b"]), sorted([(NFC, NFD), ("b", "b")])),
    "suffix": ((["img_blur", "img2_blur", "img10_blur"], ["img", "img2", "img10"]),
               [("img10_blur", "img10"), ("img2_blur", "img2"), ("img_blur", "img")]),
    "both have a suffix": ((["cat_lq", "dog_lq"], ["cat_hq", "dog_hq"]), [("cat_lq", "cat_hq"), ("dog_lq", "dog_hq")]),
    "prefix": ((["gt_1", "gt_2"], ["1", "2"]), [("gt_1", "1"), ("gt_2", "2")]),
    "prefix and padding": ((["blur1", "blur10"], ["gt_01", "gt_10"]), [("blur1", "gt_01"), ("blur10", "gt_10")]),
    "scale": ((["0801x2", "0802x2"], ["0801", "0802"]), [("0801x2", "0801"), ("0802x2", "0802")]),
    "side": ((["1P0A0917", "1P0A0919"], ["1P0A0917_L", "1P0A0919_L"]),
             [("1P0A0917", "1P0A0917_L"), ("1P0A0919", "1P0A0919_L")]),
    "role in the middle": ((["a_blur_x", "b_blur_y"], ["a_sharp_x", "b_sharp_y"]),
                           [("a_blur_x", "a_sharp_x"), ("b_blur_y", "b_sharp_y")]),
    "two numbers": ((["s1_f2", "s1_f10", "s2_f2"], ["s01_f02", "s01_f10", "s02_f02"]),
                    [("s1_f10", "s01_f10"), ("s1_f2", "s01_f02"), ("s2_f2", "s02_f02")]),
    "all copies": ((["a (1)", "b (1)"], ["a", "b"]), [("a (1)", "a"), ("b (1)", "b")]),
    "copies in both": ((["2", "2 (1)"], ["2", "2 (1)"]), [("2 (1)", "2 (1)"), ("2", "2")]),
    "padding that tells apart": ((["1", "01"], ["1", "01"]), [("01", "01"), ("1", "1")]),
    "one": ((["photo"], ["photo_blur"]), [("photo", "photo_blur")]),
    "one by roles": ((["x_blurred"], ["x_gt"]), [("x_blurred", "x_gt")]),
}  # fmt: skip


@pytest.mark.parametrize("case", BY_NAME)
def test_names_tell_pairs(case):
    (first, second), expected = BY_NAME[case]
    found, rule = rows(png(*first), [f"{stem}.jpg" for stem in second])  # endings don't matter
    assert found == expected
    assert rule.startswith("by ")
    backwards, _ = rows(png(*second), png(*first))
    assert sorted((b, a) for a, b in backwards) == sorted(expected)


REFUSED = {
    "one missing in each": ((["s1", "s2", "s4"], ["s1", "s3", "s4"]), ("a/s2.png and b/s3.png", "other names agree")),
    "a browser's copy": ((["1", "2", "2 (1)"], ["1", "2", "3"]), ("a/2 (1).png and b/3.png", "copy of 2")),
    "a file manager's copy": ((["x", "x - Copy", "y"], ["x", "y", "z"]), ("looks like a copy of x",)),
    "nothing in common": ((["apple", "pear", "fig"], ["dog", "egg", "fox"]), ("nothing in common",)),
    "one each": ((["x"], ["y"]), ("a/x.png and b/y.png",)),
    "numbers that overlap": ((["0", "1", "2"], ["1", "2", "3"]), ("a/0.png and b/1.png",)),
    "numbers that don't": ((["1", "3", "5"], ["2", "4", "6"]), ("a/1.png and b/2.png",)),
    "case that collapses": ((["A", "a"], ["a", "b"]), ("A.png", "a.png", "differ by case")),
    "padding that collapses": ((["1", "01"], ["001", "002"]), ("1.png", "01.png")),
    "suffix in some": ((["1_blur", "2", "3_blur"], ["1", "2", "3"]), ("1_blur.png",)),
    "scenes against frames": ((["s1_f1", "s2_f1"], ["s3_f1", "s3_f2"]), ("s1_f1.png and b/s3_f1.png",)),
    "partly equal": ((["s1_1", "s2_1"], ["s1_1", "s1_2"]), ("s2_1",)),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_names_leave_open_is_refused_and_order_may_be_asked_for(case):
    (first, second), said = REFUSED[case]
    with pytest.raises(UserError) as caught:
        rows(png(*first), png(*second))
    message = str(caught.value)
    assert "\n" not in message
    for part in said:
        assert part in message
    found, rule = rows(png(*first), png(*second), how="order")
    assert len(found) == len(first)
    assert rule == "by order, as asked for"


def test_order_counts_as_people_do():
    assert in_order(png("frame_10", "frame_9", "a")) == png("a", "frame_9", "frame_10")
    found, _ = rows(png("x9", "x10"), png("first", "second"), how="order")
    assert found == [("x10", "second"), ("x9", "first")]


@pytest.mark.parametrize(
    ("numbers", "shift", "fits"),
    [((917, 919, 923), -1, True), ((10, 11, 12), 1, True), ((99, 101), 1, True), ((1, 5), 2, False)],
)
def test_numbers_off_by_one_where_the_layout_says_so(numbers, shift, fits):
    first, second = (png(*(f"1P0A{n + by:04}{end}" for n in numbers)) for by, end in ((0, "_L"), (shift, "")))
    if not fits:
        with pytest.raises(UserError):
            rows(first, second, shifted=True)
        return
    found, rule = rows(first, second, shifted=True)
    assert [int(b[4:]) - int(a[4:8]) for a, b in found] == [shift] * len(numbers)
    assert f"differs by {shift:+d} throughout" in rule


def test_one_missing_in_each_of_a_shifted_set():
    first, second = png("P0001", "P0003", "P0007"), png("P0002", "P0006", "P0008")
    with pytest.raises(UserError, match=r"a/P0001\.png and b/P0002\.png"):
        rows(first, second, shifted=True)


def test_several_folders_and_unequal_numbers():
    found = pair([Folder("c", png("1", "2")), Folder("l", png("1_L", "2_L")), Folder("t", png("01", "02"))])
    assert found.rows == [("1.png", "1_L.png", "01.png"), ("2.png", "2_L.png", "02.png")]
    assert "l by names, without '_l'; t by names, whatever the padding" in found.rule
    with pytest.raises(UserError, match=r"unequal numbers.*a has 2, b has 1; without a partner: a/2\.png"):
        rows(png("1", "2"), png("1"))
    with pytest.raises(UserError, match=r"a/1\.png: 1\.jpg has the same stem"):
        rows(["1.jpg", "1.png"], png("1", "2"))


def test_partners_among_others():
    folder = Folder("left", ["A_L.png", "b.png", "007.png", "more.png", f"{NFD}_L.png"])
    assert partners(["a", "b", "7", NFC, "none"], folder, "_L") == {
        "a": "A_L.png", "b": "b.png", "7": "007.png", NFC: f"{NFD}_L.png",
    }  # fmt: skip
    for wanted, names in ((["a"], ["a.png", "a_L.png"]), (["1"], ["01.png", "001.png"]), (["a", "A"], ["a.png"])):
        with pytest.raises(UserError, match=r"could be"):
            partners(wanted, Folder("left", names), "_L")
