#!/usr/bin/env bash
# seal.sh DIRECTORY: gives what is in it, which stands for the image's root, its bytecode and one date, so that the same
# packages make the same layer whenever they are installed, and registries and hosts keep the one they have.
#
# Not rewrite-timestamp of BuildKit: bytecode tells the date of its source, so a later change makes Python compile again at
# each start.
set -euo pipefail

date_all() { find "$1" -exec touch --no-dereference --date=@1577836800 {} +; }

date_all "$1"
# In one process: what several make differs in bytes.
python -m compileall -q -s "$1" -p / "$1"
date_all "$1"
