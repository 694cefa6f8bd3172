"""`python -m builder`."""

import gc
import sys

OBJECTS = 20_000
"""How many new objects the garbage collector lets come before it looks at them: exporting and compiling make millions
that stay, and looking at them as often as Python does by itself takes twice as long."""

if __name__ == "__main__":
    gc.set_threshold(OBJECTS, 20, 20)  # before what is imported, which is a good part of them
    from builder.command import run

    sys.exit(run())
