"""Folders of earlier runs are moved aside, however soon the next one begins."""

from __future__ import annotations

from ifan_plugin.host.mends import mend_all


def test_runs_of_one_name_within_a_second_keep_each_others_files(tmp_path):
    mend_all()  # without it BasicSR can't be imported
    from basicsr.utils import misc

    for number in range(3):
        misc.mkdir_and_rename(str(tmp_path / "small"))
        (tmp_path / "small" / f"{number}.png").touch()
    assert sorted(path.name for path in tmp_path.glob("small*/*")) == ["0.png", "1.png", "2.png"]
    assert len(list(tmp_path.iterdir())) == 3
