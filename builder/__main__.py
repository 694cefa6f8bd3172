"""`python -m builder`."""

import sys

from builder.command import run

if __name__ == "__main__":
    sys.exit(run())
