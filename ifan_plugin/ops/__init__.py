"""IFAN's operator, useful alone: `iac(x, filters, num_steps)`, the module `IAC`, and `iac_step`, one step alone."""

from ifan_plugin.ops.iac import IAC, active_backend, available_backends, iac, iac_step
from ifan_plugin.ops.reference import filter_channels

__all__ = ["IAC", "active_backend", "available_backends", "filter_channels", "iac", "iac_step"]
