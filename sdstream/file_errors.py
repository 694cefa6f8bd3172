"""The errors of files that are given out, on the tree of `sdstream.errors`.

SdstreamError
└── RequestError
    └── RangeNotSatisfiable 416   RANGE_NOT_SATISFIABLE
"""

from typing import Any

from sdstream.errors import RequestError


class RangeNotSatisfiable(RequestError):
    """A `Range` of which a file has nothing; `byte_count` is what it has."""

    code = "RANGE_NOT_SATISFIABLE"
    status = 416
    hint = "The `Content-Range` header has the file's length."

    def __init__(self, message: str, *, byte_count: int = 0, hint: str | None = None, details: Any = None) -> None:
        super().__init__(message, hint=hint, details=details)
        self.headers = {"Content-Range": f"bytes */{byte_count}"}  # pyright: ignore[reportAttributeAccessIssue]


__all__ = ["RangeNotSatisfiable"]
