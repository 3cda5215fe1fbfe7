"""Which networks ship with the package, and where their files are.

A file is safetensors: its metadata name the architecture, its hyper-parameters, the recipe, the data, the date, the
commit and the figures it reached, so that a copy of it still says what it is.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
WEIGHTS = Path("weights")
"""Where checkpoints lie, below the working directory: what has no folder and isn't here is looked for there."""

LOOKED = f"looked for here and in {WEIGHTS}/ (docs/weights.md: where to get checkpoints)"

DEFAULT = "ifan_small"
"""The network that is taken where a photograph is to be restored and nobody named one."""

_LARGEST_HEADER = 10_000_000  # bytes; that of a small network has some 20,000


@dataclass(frozen=True)
class Shipped:
    """A network's file and what its metadata say.

    Args:
        name: what may stand where a checkpoint's path is asked for.
        path: the file.
        metadata: ``arch``, ``hyper_parameters`` (JSON), ``recipe``, ``iterations``, ``data``, ``date``, ``commit``,
            ``figures`` (JSON), ``licence``, ``summary`` (one sentence for people), ``blur_unit`` where its map is the
            size of the blur.
    """

    name: str
    path: Path
    metadata: dict[str, str]

    @property
    def summary(self) -> str:
        """One sentence: what it was trained on and where others are."""
        return self.metadata.get("summary", "")


def networks() -> dict[str, Shipped]:
    """Name -> network, for all that ship with the package."""
    return {path.stem: Shipped(path.stem, path, _metadata(path)) for path in sorted(FOLDER.glob("*.safetensors"))}


def find(name: str = DEFAULT) -> Shipped | None:
    """The network of that name; None where there is none."""
    path = FOLDER / f"{name}.safetensors"
    plain = Path(name).name == name and not name.startswith(".")
    return Shipped(name, path, _metadata(path)) if plain and path.is_file() else None


def located(path: str | Path) -> str | Path:
    """The file that ``path`` names.

    A file that is there is meant. Else a name without a folder means the file in :data:`WEIGHTS`, or the network that
    ships with the package under that name.
    """
    if isinstance(path, str) and path and not Path(path).expanduser().exists():
        below = WEIGHTS / path
        if Path(path).name == path and below.is_file():
            return str(below)
        found = find(path)
        if found is not None:
            return found.path
    return path


def not_found(path: str | Path) -> str:
    """What to say of a checkpoint that isn't there."""
    return f"file not found: {path}; {LOOKED}"


def _metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file: JSON behind its length in eight bytes."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(min(length, _LARGEST_HEADER)))
    return dict(header.get("__metadata__", {}))
