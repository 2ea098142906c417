"""CG frames: the file format, force mapping, splits, embedded sets."""
