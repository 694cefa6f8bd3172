"""The commands of `sdstream`, one file each; `sdstream/cli.py` imports a command only when it runs."""

__all__: list[str] = []
