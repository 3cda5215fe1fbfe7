"""IFAN and DPDNet for the package spandrel, by its public name; see :mod:`ifan_plugin.weights.spandrel`."""

from ifan_plugin.weights.spandrel import DPDNetArchitecture, IFANArchitecture, load_file, register

__all__ = ["DPDNetArchitecture", "IFANArchitecture", "load_file", "register"]
