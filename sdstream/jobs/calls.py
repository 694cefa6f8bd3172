"""A call of the REST API as a message: how control jobs, gateways and other workers reach the worker of a session."""

import json
from typing import Any, Protocol

import msgspec

from sdstream.errors import InternalError, RequestError
from sdstream.job_errors import JobFailed
from sdstream.jobs.outputs import error_of


class OwnerCall(msgspec.Struct, frozen=True, kw_only=True):
    """One HTTP request for the worker that has a session, with a caller whom the sender has checked.

    `base` is the URL under which the answer's own URLs shall stand; None: the worker's own address.
    """

    method: str
    path: str
    query: str = ""
    headers: dict[str, str] = {}
    body: bytes = b""
    author: str
    key_id: str = "forwarded"
    operator: bool = False
    base: str | None = None


class OwnerAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer: HTTP status, headers in order, body."""

    status: int
    headers: list[tuple[str, str]] = []
    body: bytes = b""

    def json(self) -> Any:
        """The body as JSON. Raises the error that it tells of, when it is one."""
        if self.status >= 400:
            raise self.error()
        return json.loads(self.body)

    def error(self) -> RequestError:
        """The error of the envelope in the body."""
        try:
            envelope = json.loads(self.body)
            failed = JobFailed(str(envelope["error"]), job_id="", error_code=str(envelope["code"]))
        except (ValueError, KeyError, TypeError):
            return InternalError(f"the worker answered {self.status} without an envelope")
        known = error_of(failed)
        if not isinstance(known, RequestError):
            return InternalError(failed.message)
        known.details = envelope.get("details")
        return known


class Caller(Protocol):
    """Carries out calls."""

    async def __call__(self, call: OwnerCall) -> OwnerAnswer: ...


__all__ = ["Caller", "OwnerAnswer", "OwnerCall"]
