"""Photographs as files: opened, restored in batches, written with their metadata."""
