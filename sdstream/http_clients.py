"""What the system's variables tell programs that ask by HTTP, where it cannot be obeyed."""

import contextlib
from collections.abc import Generator

from sdstream.errors import ConfigurationError

CANNOT_BE_OBEYED = (ImportError, OSError, ValueError)
"""What making a client raises then."""


@contextlib.contextmanager
def obeying_variables() -> Generator[None]:
    """Around the making of a client of `httpx`. Raises `ConfigurationError` where the variables name a proxy, or a file
    of authorities, that cannot be used."""
    try:
        yield
    except CANNOT_BE_OBEYED as error:
        problem, hint = describe(error)
        raise ConfigurationError(problem, hint=hint) from None


def describe(error: Exception) -> tuple[str, str]:
    """What is wrong with the variables, and what helps. Values are not told, as there may be a password in one."""
    if isinstance(error, ImportError):
        return (
            "a proxy of the environment speaks SOCKS, and the package socksio is not installed",
            "Install it, or take the proxy out of ALL_PROXY, HTTP_PROXY and HTTPS_PROXY.",
        )
    if isinstance(error, OSError):
        return "a file of authorities of the environment cannot be used", "Look at SSL_CERT_FILE and SSL_CERT_DIR."
    return "a proxy of the environment cannot be used", "Look at ALL_PROXY, HTTP_PROXY and HTTPS_PROXY."


__all__ = ["CANNOT_BE_OBEYED", "describe", "obeying_variables"]
