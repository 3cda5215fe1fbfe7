"""Scenes found in every layout, paired by order, and the messages for folders that don't fit."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from ifan_plugin.common.errors import UserError
from ifan_plugin.data.layouts import LAYOUTS, find_scenes


def fill(folder, names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"")  # scenes are found by name alone


def make_dpdd(root, split="test", numbers=(917, 919, 923), sharp_offset=-1, sides=True):
    fill(root / f"{split}_c/source", [f"1P0A{n:04}.png" for n in numbers])
    fill(root / f"{split}_c/target", [f"1P0A{n + sharp_offset:04}.png" for n in numbers])
    if sides:
        fill(root / f"{split}_l/source", [f"1P0A{n:04}_L.png" for n in numbers])
        fill(root / f"{split}_r/source", [f"1P0A{n:04}_R.png" for n in numbers])
    return root


def refusal(*args, **kwargs):
    with pytest.raises(UserError) as caught:
        find_scenes(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_dpdd_pairs_by_order_where_names_differ(tmp_path):
    make_dpdd(tmp_path)
    scenes = find_scenes(tmp_path, "dpdd", "test", ["center", "left", "right"])
    assert [scene.key for scene in scenes] == ["1P0A0917", "1P0A0919", "1P0A0923"]
    assert scenes[1].center == tmp_path / "test_c/source/1P0A0919.png"
    assert scenes[1].left == tmp_path / "test_l/source/1P0A0919_L.png"
    assert scenes[1].right == tmp_path / "test_r/source/1P0A0919_R.png"
    assert scenes[1].target == tmp_path / "test_c/target/1P0A0918.png"


def test_order_decides_even_where_names_suggest_another_pairing(tmp_path):
    # Consecutive scenes whose blurred picture has the name of the next scene's sharp one.
    make_dpdd(tmp_path, "train", (10, 11, 12), sharp_offset=1)
    scenes = find_scenes(tmp_path, "dpdd", "train", ["center"])
    assert [(s.center.stem, s.target.stem) for s in scenes] == [
        ("1P0A0010", "1P0A0011"), ("1P0A0011", "1P0A0012"), ("1P0A0012", "1P0A0013"),
    ]  # fmt: skip


def test_splits_are_kept_apart(tmp_path):
    make_dpdd(tmp_path, "train", (1, 3))
    make_dpdd(tmp_path, "test", (5,))
    assert len(find_scenes(tmp_path, "dpdd", "train", ["center"])) == 2
    assert len(find_scenes(tmp_path, "dpdd", "test", ["center"])) == 1


def test_views_not_asked_for_need_not_be_there(tmp_path):
    make_dpdd(tmp_path, sides=False)
    (scene, *_) = find_scenes(tmp_path, "dpdd", "test", ["center"])
    assert scene.left is None
    assert scene.right is None
    message = refusal(tmp_path, "dpdd", "test", ["center", "left"])
    assert str(tmp_path / "test_l/source") in message
    assert "left view" in message


def test_results_of_side_views_are_named_as_those_of_the_centre(tmp_path):
    make_dpdd(tmp_path)
    scenes = find_scenes(tmp_path, "dpdd", "test", ["left", "right"])
    assert [scene.key for scene in scenes] == ["1P0A0917", "1P0A0919", "1P0A0923"]
    assert scenes[0].center is None
    # The centre names the scene where it is asked for, wherever it stands.
    assert find_scenes(tmp_path, "dpdd", "test", ["right", "center"])[0].key == "1P0A0917"


@pytest.mark.parametrize(("split", "cut"), [("train", "_crops"), ("val", "_crops"), ("test", "")])
def test_restormer(tmp_path, split, cut):
    for role in ("inputL", "inputR", "inputC", "target"):
        fill(tmp_path / split / "DPDD" / f"{role}{cut}", ["0-0.png", "0-1.png"])
    scenes = find_scenes(tmp_path, "restormer", split, ["left", "right"])
    assert [scene.key for scene in scenes] == ["0-0", "0-1"]
    assert scenes[0].right == tmp_path / split / "DPDD" / f"inputR{cut}" / "0-0.png"
    assert scenes[0].target == tmp_path / split / "DPDD" / f"target{cut}" / "0-0.png"


def test_realdof(tmp_path):
    fill(tmp_path / "source", ["1.png", "10.png", "2.png"])
    fill(tmp_path / "target", ["1.png", "10.png", "2.png"])
    scenes = find_scenes(tmp_path, "realdof", "test", ["center"])
    assert [scene.key for scene in scenes] == ["1", "10", "2"]  # plain order, as the file systems' tools sort
    assert all(scene.center.name == scene.target.name for scene in scenes)
    message = refusal(tmp_path, "realdof", "test", ["center", "left"])
    assert "'left'" in message
    assert "center" in message


def test_pixeldp_is_turned_and_has_no_ground_truth(tmp_path):
    for side in "clr":
        fill(tmp_path / f"test_{side}/source", ["001.png"])
    (scene,) = find_scenes(tmp_path, "pixeldp", "test", ["center", "left", "right"])
    assert scene.left == tmp_path / "test_l/source/001.png"
    assert scene.target is None
    assert LAYOUTS["pixeldp"].quarter_turns == 1
    assert {name for name, layout in LAYOUTS.items() if layout.quarter_turns} == {"pixeldp"}
    assert "no sharp pictures" in refusal(tmp_path, "pixeldp", "test", ["center"], target="required")


@pytest.mark.parametrize("layout", ["cuhk", "folder"])
def test_flat_folders(tmp_path, layout):
    fill(tmp_path, ["b.JPG", "a.jpeg", "c.png", ".hidden.png", "._b.jpg", "Thumbs.db", ".DS_Store", "notes.txt"])
    fill(tmp_path / "below", ["d.png"])
    (tmp_path / "folder.png").mkdir()
    scenes = find_scenes(tmp_path, layout, "test", ["center"])
    assert [scene.center.name for scene in scenes] == ["a.jpeg", "b.JPG", "c.png"]
    assert {scene.target for scene in scenes} == {None}


def test_target_auto_none_and_required(tmp_path):
    fill(tmp_path / "val_c/source", ["1.png"])
    assert find_scenes(tmp_path, "dpdd", "val", ["center"])[0].target is None
    assert str(tmp_path / "val_c/target") in refusal(tmp_path, "dpdd", "val", ["center"], target="required")
    fill(tmp_path / "val_c/target", ["1.png"])
    assert find_scenes(tmp_path, "dpdd", "val", ["center"])[0].target is not None
    assert find_scenes(tmp_path, "dpdd", "val", ["center"], target="none")[0].target is None


def test_extra_blurred_picture_in_the_middle_is_named(tmp_path):
    make_dpdd(tmp_path, numbers=(917, 919, 923, 929))
    (tmp_path / "test_c/target/1P0A0918.png").unlink()
    message = refusal(tmp_path, "dpdd", "test", ["center"])
    assert f"{tmp_path / 'test_c/source'} has 4" in message
    assert f"{tmp_path / 'test_c/target'} has 3" in message
    assert "1P0A0919.png and 1P0A0922.png" in message


def test_extra_last_picture_is_named(tmp_path):
    make_dpdd(tmp_path)
    fill(tmp_path / "test_c/target", ["1P0A0999.png"])
    message = refusal(tmp_path, "dpdd", "test", ["center"])
    assert str(tmp_path / "test_c/target/1P0A0999.png") in message


def test_missing_side_view_is_named_by_its_scene(tmp_path):
    make_dpdd(tmp_path)
    (tmp_path / "test_r/source/1P0A0919_R.png").unlink()
    message = refusal(tmp_path, "dpdd", "test", ["center", "right"])
    assert str(tmp_path / "test_c/source/1P0A0919.png") in message
    assert f"{tmp_path / 'test_r/source'} has 2" in message


def test_missing_picture_among_running_numbers_is_named(tmp_path):
    fill(tmp_path / "source", [f"{n:02}.png" for n in range(9)])
    fill(tmp_path / "target", [f"{n:02}.png" for n in range(9) if n != 4])
    assert str(tmp_path / "source/04.png") in refusal(tmp_path, "realdof", "test", ["center"])


def test_missing_root_and_missing_folder(tmp_path):
    assert "nowhere: folder not found" in refusal(tmp_path / "nowhere", "dpdd", "test", ["center"])
    message = refusal(tmp_path, "dpdd", "test", ["center"])
    assert str(tmp_path / "test_c/source") in message
    assert "layout 'dpdd'" in message


def test_another_layouts_folders_are_recognised(tmp_path):
    fill(tmp_path / "test/DPDD/inputC", ["1.png"])
    assert "looks like layout 'restormer'" in refusal(tmp_path, "dpdd", "test", ["center"])


def test_empty_folder(tmp_path):
    fill(tmp_path / "source", ["Thumbs.db", "notes.txt"])
    message = refusal(tmp_path, "realdof", "test", ["center"])
    assert f"{tmp_path / 'source'}: no pictures found" in message
    assert ".png" in message


def test_unknown_words_are_answered_with_the_nearest(tmp_path):
    make_dpdd(tmp_path)
    assert "did you mean 'dpdd'?" in refusal(tmp_path, "DPDD", "test", ["center"])
    assert "did you mean 'center'?" in refusal(tmp_path, "dpdd", "test", ["centre"])
    assert "valid: test, train, val" in refusal(tmp_path, "dpdd", "x", ["center"])
    assert "has no split 'train'" in refusal(tmp_path, "realdof", "train", ["center"])
    assert "center, left, right" in refusal(tmp_path, "dpdd", "test", [])
    assert "'target'" in refusal(tmp_path, "dpdd", "test", ["target"])


def test_two_pictures_of_one_name_are_refused(tmp_path):
    fill(tmp_path, ["a.jpg", "a.png", "b.png"])
    message = refusal(tmp_path, "folder", "test", ["center"])
    assert "a.png" in message
    assert "a.jpg" in message


@pytest.mark.skipif(sys.platform != "linux", reason="other systems allow no such names")
def test_file_name_that_is_no_text(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.png")).write_bytes(b"")
    message = refusal(tmp_path, "folder", "test", ["center"])
    message.encode()  # can be printed
    assert str(tmp_path) in message


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    fill(tmp_path / "pictures", ["a.png"])
    assert find_scenes("~/pictures", "folder", "test", ["center"])[0].center == Path(tmp_path / "pictures/a.png")
