"""Pictures as files and as arrays: reading and writing, formats, colour, resampling."""
