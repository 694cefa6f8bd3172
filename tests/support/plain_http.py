"""What clients of httpx are given in tests, which speak plain HTTP to this machine alone."""

import ssl

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For `verify`. Otherwise each client, and each call without one, reads the certificates of all authorities anew, which
takes a core 50 ms."""

__all__ = ["NO_TLS"]
