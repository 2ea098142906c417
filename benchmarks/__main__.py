"""Entry point of `python -m benchmarks`."""

import os

# As the command line of cgfe does: threads that spin while they wait stall as soon as another
# process shares the cores, for every variant alike. It must be set before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from benchmarks.run import main

if __name__ == "__main__":
    main()
