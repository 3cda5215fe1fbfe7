"""The model that BasicSR's loops drive, its validation, and the training step that both frameworks share."""
