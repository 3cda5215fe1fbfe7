"""BasicSR: the only place that mends it, its registries, its training states."""
