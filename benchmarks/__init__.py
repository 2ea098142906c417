"""Benchmarks of cgfe: `make bench`, or `python -m benchmarks --help`."""
