"""What :mod:`ifan_plugin.inference.photos` reads and writes, a module a kind of file."""
