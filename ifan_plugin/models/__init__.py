"""Models of BasicSR. Importing them imports the host, mended so that it can be."""

from ifan_plugin import host

host.prepare()
