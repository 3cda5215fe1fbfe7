"""The curves' viewer, in the environment that set-up makes: it starts, and shows what BasicSR's logger wrote."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from urllib.request import urlopen

import pytest


def test_the_viewer_starts_and_shows_a_run(tmp_path):
    pytest.importorskip("tensorboard")
    from ifan_plugin.host import mends

    mends.prepare()
    from basicsr.utils.logger import init_tb_logger

    writer = init_tb_logger(str(tmp_path / "runs" / "IFAN"))
    for step in range(3):
        writer.add_scalar("losses/l_total", 1 / (step + 1), step)
    writer.close()

    said = tmp_path / "said.txt"
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", tmp_path / "runs", "--host", "127.0.0.1"]
    with said.open("w") as file:
        viewer = subprocess.Popen([*map(str, command), "--port", "0"], stdout=file, stderr=subprocess.STDOUT)
    try:
        for _ in range(300):
            address = re.search(r"http://127\.0\.0\.1:\d+/", said.read_text())
            if address or viewer.poll() is not None:
                break
            time.sleep(0.2)
        assert address, said.read_text()
        tags = {}
        for _ in range(100):  # the runs are read after the viewer answers
            with urlopen(f"{address[0]}data/plugin/scalars/tags", timeout=30) as answer:
                tags = json.load(answer)
            if tags:
                break
            time.sleep(0.2)
        assert "losses/l_total" in tags["IFAN"]
    finally:
        viewer.kill()
        viewer.wait()
