"""Real-time video diffusion on your own GPU, speaking Daydream's API."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("sdstream")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0.0.0+source"

__all__ = ["__version__"]
