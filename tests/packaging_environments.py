"""Empty environments that borrow this one's heavy packages, so that a wheel is tried away from the checkout in seconds."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Collection
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OURS = ("ifan_plugin", "__editable__", "__pycache__", "_virtualenv", "distutils-precedence")


def clean_environment(**variables: str) -> dict[str, str]:
    """This process's variables without those that lead to the checkout; one thread."""
    left = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "IFAN_", "VIRTUAL_ENV"))}
    return left | {"OMP_NUM_THREADS": "1", **variables}


def build_wheel(source: Path, out: Path, **variables: str) -> Path:
    """By this environment's torch and setuptools."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--no-deps", "--no-build-isolation"]
    built = subprocess.run(
        [*pip, "--no-index", "--wheel-dir", out, source],
        cwd=out,
        env=clean_environment(**variables),
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = out.glob("*.whl")
    return path


class Environment:
    """A virtual environment in `folder` that sees, of this one's packages, all but ours and those of `without`.

    Args:
        folder: where it is made.
        without: names of packages (and modules) that it mustn't see.
        only: names of packages that it may see; None: all.
    """

    def __init__(self, folder: Path, without: Collection[str] = (), only: Collection[str] | None = None) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        self.python = folder / "bin" / "python"
        self.folder = folder
        borrowed = folder / "borrowed"
        borrowed.mkdir()
        for place in dict.fromkeys((sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))):
            for entry in Path(place).iterdir():
                name = entry.name.lower().replace("-", "_")
                hidden = name.startswith((*OURS, *without)) or name.endswith((".pth", ".egg_link"))
                if not hidden and (only is None or name.startswith(tuple(only))):
                    (borrowed / entry.name).symlink_to(entry)
        code = "import sysconfig; print(sysconfig.get_path('purelib'))"
        self.site = Path(self._run([self.python, "-c", code]).stdout.strip())
        (self.site / "borrowed.pth").write_text(f"{borrowed}\n")

    def install(self, package: Path) -> None:
        """A wheel, without what it requires, by this environment's pip."""
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", self.python, "install"]
        self._run([*pip, "--quiet", "--no-deps", "--no-index", package])

    def run(
        self, *arguments: object, cwd: Path, timeout: float = 600, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Its Python on `arguments`, with nothing of this process's paths; the status isn't checked."""
        environment = clean_environment(PATH=f"{self.folder / 'bin'}:{os.environ['PATH']}", **variables)
        command = [self.python, *map(str, arguments)]
        return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout)

    def _run(self, command: list[object]) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            list(map(str, command)),
            cwd=self.folder,
            env=clean_environment(),
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done
