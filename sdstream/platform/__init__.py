"""Every call that only some systems have: parents and children, memory, sockets to children, durable directories.

Nothing outside this package may import `fcntl`, `ctypes`, `signal` constants of one system, or test `sys.platform`.
"""

import sys

WINDOWS = sys.platform == "win32"
LINUX = sys.platform.startswith("linux")

__all__ = ["LINUX", "WINDOWS"]
