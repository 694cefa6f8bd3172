"""RunPod's entry point; everything is in `sdstream.serverless`. `python handler.py --test` runs test_input.json."""

import sys

from sdstream.serverless import main

if __name__ == "__main__":
    sys.exit(main())
