"""Entry point of `python -m benchmarks`."""

from cgfe.cli import share_cores

# As the command line of cgfe does, for every variant alike; before torch is imported.
share_cores()

from benchmarks.run import main  # noqa: E402

if __name__ == "__main__":
    main()
