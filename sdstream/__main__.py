"""`python -m sdstream` is the `sdstream` program."""

from sdstream.cli import main

if __name__ == "__main__":  # a spawned worker imports this module under another name
    main()
