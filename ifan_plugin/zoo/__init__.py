"""The networks that ship with the package, as files; docs/zoo.md says what each is for and what it reaches."""

from ifan_plugin.zoo.shipped import DEFAULT, LOOKED, Shipped, find, located, networks, not_found

__all__ = ["DEFAULT", "LOOKED", "Shipped", "find", "located", "networks", "not_found"]
