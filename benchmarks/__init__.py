"""Benchmarks of cgfe: `make bench`, or `python -m benchmarks --help`."""

from cgfe.cli import share_cores

# As the command line of cgfe does, for every variant alike; before torch is imported.
share_cores()
