"""Several folders of pictures as one data set, some shown more often than others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ifan_plugin.common.errors import UserError
from ifan_plugin.data.layouts import Scene
from ifan_plugin.data.sources import PictureSource
from ifan_plugin.images.image_io import Region


class SeveralSources(PictureSource):
    """The scenes of several sources, one after another; a source of weight n n times.

    Scenes whose keys are taken already get their source's number before it, so that results don't overwrite each other.

    Args:
        sources: two or more, with the same roles, turned alike.
        weights: a positive integer each.

    Raises:
        UserError: sources that don't fit together.
    """

    def __init__(self, sources: Sequence[PictureSource], weights: Sequence[int]) -> None:
        first = sources[0]
        for source in sources[1:]:
            if source.roles != first.roles:
                raise UserError(
                    f"{source.name(0, source.roles[0])}: its set has {', '.join(source.roles)}, and the first one "
                    f"{', '.join(first.roles)}; sets that are mixed need the same views, and all or none sharp pictures"
                )
            if source.quarter_turns != first.quarter_turns:
                raise UserError(f"{source.name(0, source.roles[0])}: its set is turned otherwise than the first one")
        self._sources = tuple(sources)
        self._places = [
            (number, index)
            for number, (source, weight) in enumerate(zip(sources, weights))
            for _ in range(weight)
            for index in range(len(source.scenes))
        ]
        self.roles, self.quarter_turns, self.bit_depth = first.roles, first.quarter_turns, first.bit_depth
        self.white_level = first.white_level
        self.pairing = "; ".join(dict.fromkeys(source.pairing for source in sources if source.pairing))
        taken: dict[str, int] = {}
        self.scenes: list[Scene] = []
        for number, index in self._places:
            scene = sources[number].scenes[index]
            if taken.setdefault(scene.key, number) != number:
                scene = scene._replace(key=f"{number + 1}_{scene.key}")
            self.scenes.append(scene)

    def name(self, index: int, role: str) -> str:
        source, place = self._at(index)
        return source.name(place, role)

    def stored_size(self, index: int, role: str) -> tuple[int, int]:
        source, place = self._at(index)
        return source.stored_size(place, role)

    def check(self) -> None:
        for source in self._sources:
            source.check()

    def note(self) -> str | None:
        """Each source's, in one line."""
        return "; ".join(filter(None, (source.note() for source in self._sources))) or None

    def _read_stored(self, index: int, role: str, region: Region | None) -> np.ndarray:
        source, place = self._at(index)
        return source._read_stored(place, role, region)

    def _at(self, index: int) -> tuple[PictureSource, int]:
        number, place = self._places[int(index)]
        return self._sources[number], place
