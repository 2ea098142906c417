"""`python -m cgfe` is the same as `cgfe`."""

import sys

from cgfe.cli import main

if __name__ == "__main__":
    sys.exit(main())
