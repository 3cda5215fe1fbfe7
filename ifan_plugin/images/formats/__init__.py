"""What :mod:`ifan_plugin.photos.read_write` reads and writes, a module a kind of file."""
