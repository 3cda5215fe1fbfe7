"""Label files: what may stand in them, and what is said of the rest."""

from __future__ import annotations

import pytest

from ifan_plugin.common.errors import UserError
from ifan_plugin.data.labels import check_labels, read_labels


def write(folder, text: str):
    path = folder / "drinnen draußen.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize(
    "text",
    [
        "1P0A0917,indoor\nb ä.1,im Freien\n",
        "\ufeffscene,label\r\n# DPDD\r\n\r\n 1P0A0917 , indoor\r\nb ä.1,im Freien",
        '"1P0A0917.png", "indoor"\nb ä.1,im Freien',
    ],
)
def test_forms(tmp_path, text):
    assert read_labels(write(tmp_path, text)) == {"1P0A0917": "indoor", "b ä.1": "im Freien"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,indoor\nb\n", "line 2: must be 'scene,label', such as '1P0A0917,indoor', not 'b'"),
        ("a,b,c", "line 1: must be 'scene,label'"),
        ("a,", "line 1: must be 'scene,label'"),
        ("a,indoor\na.png,outdoor", "line 2: scene 'a' has a label already, 'indoor'"),
        ("# nothing\n\n", "has no labels"),
        ("scene,label\n", "has no labels"),
        (b"\xff\xfe,x", "isn't UTF-8"),
    ],
)
def test_what_is_refused(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(UserError) as caught:
        read_labels(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(UserError, match=r"no\.csv: file not found; valid: a text file"):
        read_labels(tmp_path / "no.csv")
    with pytest.raises(UserError, match="can't be read: Is a directory"):
        read_labels(tmp_path)


def test_against_a_data_set():
    labels = {"1P0A0001": "indoor", "1P0A0003": "outdoor"}
    scenes = list(labels)
    check_labels(labels, "f", "DPDD", scenes, scenes)
    check_labels(labels, "f", "DPDD", scenes[:1], scenes)
    with pytest.raises(UserError, match=r"^f: data set 'DPDD' has no scene '1P0A0003'; did you mean '1P0A0004'"):
        check_labels(labels, "f", "DPDD", ["1P0A0001"], ["1P0A0001", "1P0A0004"])
    with pytest.raises(UserError, match=r"^f: has no label for scene 'x' \(and 1 more\) of data set 'DPDD'"):
        check_labels(labels, "f", "DPDD", [*scenes, "x", "y"], [*scenes, "x", "y"])
