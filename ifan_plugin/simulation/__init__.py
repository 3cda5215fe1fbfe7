"""Dual-pixel defocus from sharp pictures and depth: optics, and data sets made with it."""
