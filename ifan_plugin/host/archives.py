"""Folders of earlier runs, which BasicSR moves aside before one of the same name begins."""

from __future__ import annotations

import time
from pathlib import Path


def mend_archives() -> None:
    """The host names what it moves aside by the second: a second run within one ends in "Directory not empty".

    Ours waits for the next.
    """
    from basicsr import train
    from basicsr.utils import misc

    move = misc.mkdir_and_rename

    def mkdir_and_rename(path: str) -> None:
        while Path(path).exists() and Path(f"{path}_archived_{misc.get_time_str()}").exists():
            time.sleep(0.05)
        move(path)

    misc.mkdir_and_rename = train.mkdir_and_rename = mkdir_and_rename
