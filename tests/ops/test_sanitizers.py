"""The CPU operator built with AddressSanitizer and UndefinedBehaviorSanitizer: its tests and odd calls again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "sanitize_cpu.sh"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_sanitizers_find_nothing(tmp_path):
    env = {**os.environ, "PYTHON": sys.executable, "IFAN_TEST_CASES": "0:500"}
    done = subprocess.run([SCRIPT, tmp_path], env=env, capture_output=True, text=True, timeout=1100)
    if done.returncode == 77:
        pytest.skip(done.stdout.strip().splitlines()[-1])
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
    assert "sanitize_cpu: nothing found" in done.stdout
