"""Says of errors which part of a stream's params they come from."""

import contextlib
from collections.abc import Generator

from sdstream.errors import SdstreamError


@contextlib.contextmanager
def blaming(part: str) -> Generator[None]:
    """What is raised on purpose in here comes from `part`, a name of `params.attainable`, unless it says so itself."""
    try:
        yield
    except SdstreamError as error:
        error.part = error.part or part
        raise


__all__ = ["blaming"]
