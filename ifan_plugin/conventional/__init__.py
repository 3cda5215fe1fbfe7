"""Deblurring without learning: estimate a defocus map from edges, fill it in, deconvolve by it.

Three steps that are useful alone, on NumPy arrays: :mod:`.edge_blur` (sigma at edges), :mod:`.propagation` (sigma
everywhere) and :mod:`.deconvolution` (restoring with a known sigma). :mod:`.psf` has the two models of the blur.
"""
