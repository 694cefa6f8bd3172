# What pyright knows of Triton, whether it is installed or not: nothing. Its own annotations do not describe what its
# compiler takes, and torch brings it on some machines and not on others.
from typing import Any

def __getattr__(name: str) -> Any: ...
