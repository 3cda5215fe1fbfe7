"""Finished pictures as a row: what somebody's network made of a test set, read from a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ifan_plugin.benchmark.options import Model
from ifan_plugin.common.errors import UserError
from ifan_plugin.images.image_io import read_image

_ENDINGS = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".webp")


class FinishedPictures:
    """The pictures of a model of type ``pictures``, found by the scenes' names.

    A scene's picture is ``FOLDER/SCENE.png`` (or ``.tif``, ``.jpg``, ``.webp``), in ``FOLDER/DATA_SET`` where there is
    such a folder, so that one row serves several test sets. 8 and 16 bits are read as they are.

    Args:
        model: ``path`` names the folder.
        dataset: the test set's name.
        keys: its scenes, in order.

    Raises:
        UserError: no such folder, or a scene without a picture, or with two.
    """

    def __init__(self, model: Model, dataset: str, keys: Sequence[str]) -> None:
        folder = Path(str(model.path))
        if not folder.is_dir():
            raise UserError(f"model {model.name}: path: folder not found: {folder}")
        folder = folder / dataset if (folder / dataset).is_dir() else folder
        there: dict[str, list[Path]] = {}
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() in _ENDINGS and not path.name.startswith("."):
                there.setdefault(path.stem, []).append(path)
        self.paths = []
        for key in keys:
            found = there.get(key, [])
            if len(found) > 1:
                raise UserError(f"model {model.name}: scene {key} has two pictures: {found[0]} and {found[1].name}")
            if not found:
                example = f"; it has {', '.join(sorted(there)[:3])}" if there else "; it has no pictures"
                raise UserError(f"model {model.name}: {folder} has no picture of scene {key} ({key}.png){example}")
            self.paths.append(found[0])

    def read(self, index: int, like: Tensor) -> Tensor:
        """A scene's picture, float32 [3, H, W] in [0, 1].

        Args:
            index: the scene's place in the test set.
            like: its sharp picture [3, H, W]. The data set may have cropped it at the bottom and right to a multiple
                of its own; a whole finished picture is cropped likewise.

        Raises:
            UserError: a picture that can't be read, or of another size.
        """
        picture = torch.from_numpy(read_image(self.paths[index], None)).permute(2, 0, 1)
        height, width = like.shape[1:]
        if not (0 <= picture.shape[1] - height < 8 and 0 <= picture.shape[2] - width < 8):
            raise UserError(
                f"{self.paths[index]}: is {picture.shape[2]}x{picture.shape[1]}; its scene is {width}x{height}"
            )
        return picture[:, :height, :width].contiguous()
