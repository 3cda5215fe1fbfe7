"""Numbers with their nouns, the same everywhere."""

from __future__ import annotations


def counted(number: int, one: str, many: str | None = None) -> str:
    """``1 picture``, ``0 pictures``, ``1,200 pictures``; ``many``: a plural that isn't made by an s."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"
