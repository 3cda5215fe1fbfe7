"""Scenes out of videos: which frames are which picture, and no caption among them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "dpdd_videos.py"
LEVELS = {"test_c/source": 40, "dpdnet": 90, "test_c/target": 140, "test_l/source": 190, "test_r/source": 220}
HEIGHT, WIDTH = 96 + 48, 96


def write_video(path: Path, levels: list[int]) -> None:
    """Grey frames of these levels below a caption that takes all of its 96 rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 30, (WIDTH, HEIGHT))
    assert video.isOpened()
    for level in levels:
        frame = np.full((HEIGHT, WIDTH, 3), level, np.uint8)
        frame[:96] = 255 - level
        video.write(frame)
    video.release()


def write_scene(folder: Path, scene: str) -> None:
    results = [LEVELS[name] for name in ("test_c/source", "dpdnet", "test_c/target")] * 3
    write_video(folder / f"animated_results/{scene}_DPNet.mp4", [level for level in results for _ in range(30)])
    turns = [LEVELS["test_l/source"], LEVELS["test_c/source"], LEVELS["test_r/source"], LEVELS["test_c/source"]] * 4
    write_video(folder / f"animated_DP_examples/{scene}.mp4", [level for level in turns for _ in range(3)])


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), str(folder), "--out", str(folder / "out"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder)


def test_each_picture_is_its_own_frames_without_the_caption(tmp_path):
    for scene in ("one", "two"):
        write_scene(tmp_path, scene)
    done = run(tmp_path, "--scenes", "two")
    assert done.returncode == 0, done.stderr
    assert "1 scene(s) of 96x48" in done.stdout
    assert {str(file.relative_to(tmp_path / "out")) for file in tmp_path.rglob("*.png")} == {
        f"{folder}/two.png" for folder in LEVELS
    }
    for folder, level in LEVELS.items():
        picture = cv2.imread(str(tmp_path / "out" / folder / "two.png"))
        # Beside the caption a codec's blocks ring a little.
        assert np.abs(picture[16:].astype(int) - level).max() <= 6, folder


@pytest.mark.parametrize(
    ("broken", "arguments", "said"),
    [
        ("", ["--scenes", "other"], "--scenes other: not in animated_results; there are one"),
        ("animated_results/one_DPNet.mp4", [], "has no animated_results/*_DPNet.mp4"),
        ("animated_DP_examples/one.mp4", [], "no frames for test_l/source, test_r/source; missing or cut short"),
    ],
)
def test_what_is_missing_is_said(tmp_path, broken, arguments, said):
    write_scene(tmp_path, "one")
    if broken:
        (tmp_path / broken).unlink()
    done = run(tmp_path, *arguments)
    assert done.returncode in (1, 2)
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_pictures_that_are_there_stay_until_overwrite_is_said(tmp_path):
    for scene in ("one", "two"):
        write_scene(tmp_path, scene)
    kept = tmp_path / "out/test_r/source/one.png"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"somebody's own")
    done = run(tmp_path)
    assert done.returncode == 2
    assert f"{kept}: is there already; give another --out, choose --scenes, or add --overwrite" in done.stderr
    assert list(tmp_path.rglob("*.png")) == [kept]
    assert kept.read_bytes() == b"somebody's own"
    assert run(tmp_path, "--scenes", "two").returncode == 0
    assert run(tmp_path, "--scenes", "one", "--overwrite").returncode == 0
    assert cv2.imread(str(kept)) is not None
