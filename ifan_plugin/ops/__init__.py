"""IFAN's operator, useful alone: `iac(x, filters, num_steps)` and the module `IAC`."""

from ifan_plugin.ops.iac import IAC, active_backend, available_backends, iac
from ifan_plugin.ops.reference import filter_channels

__all__ = ["IAC", "active_backend", "available_backends", "filter_channels", "iac"]
