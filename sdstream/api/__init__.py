"""The HTTP face of sdstream: Daydream's REST, WHIP and WHEP signalling, extensions, the playground."""

from sdstream.api.app import create_app
from sdstream.api.keys import KeyRing

__all__ = ["KeyRing", "create_app"]
