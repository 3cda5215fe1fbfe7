"""``basicsr test``: BasicSR's ``test_pipeline``, mended, with the plug-ins loaded."""

from __future__ import annotations

from ifan_plugin.cli import train


def main(argv: list[str]) -> int:
    """Run the host's pipeline in the working directory. Returns the exit status."""
    return train.main(argv, "test")
