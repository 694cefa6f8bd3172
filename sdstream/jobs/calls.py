"""A call of the REST API as a message: how control jobs, gateways and other workers reach the worker of a session."""

import json
from typing import Annotated, Any, Protocol, cast

import msgspec

from sdstream.errors import BodyTooLarge, InternalError, RequestError, Unavailable
from sdstream.job_errors import JobFailed, OwnerUnreachable
from sdstream.jobs.outputs import error_of


class OwnerCall(msgspec.Struct, frozen=True, kw_only=True):
    """One HTTP request for the worker that has a session, with a caller whom the sender has checked.

    `base` is the URL under which the answer's own URLs shall stand; None: the worker's own address. `uses` says whether
    it is about this session, which is not idle then; a look at all of them is not.
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
    uses: bool = True


class OwnerAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer: HTTP status, headers in order, body."""

    status: Annotated[int, msgspec.Meta(ge=200, le=599)]
    headers: list[tuple[str, str]] = []
    body: bytes = b""

    def json(self) -> Any:
        """The body, a JSON object. Raises the error that it tells of when it is one, `OwnerUnreachable` for another."""
        if self.status >= 400:
            raise self.error()
        try:
            found = json.loads(self.body)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise OwnerUnreachable(f"what has this session answers {self.status} without an object: it is no worker")
        return cast("dict[str, Any]", found)

    def error(self) -> RequestError:
        """The error of the envelope in the body; without one, what the status alone says."""
        try:
            envelope = json.loads(self.body)
            failed = JobFailed(str(envelope["error"]), job_id="", error_code=str(envelope["code"]))
        except (ValueError, KeyError, TypeError):
            return self._error_of_status()
        known = error_of(failed)
        if not isinstance(known, RequestError):
            return InternalError(failed.message)
        known.details = envelope.get("details")
        return known

    def _error_of_status(self) -> RequestError:
        """The first two are the post's own; others come of what stands before a worker, or in its place."""
        if self.status == BodyTooLarge.status:
            return BodyTooLarge(
                "the worker's answer is too large to be passed on",
                hint="Give large style images by URL, or call the worker's control URL.",
            )
        if self.status == 429:
            return Unavailable("the worker that has this session has too many calls at a time")
        return OwnerUnreachable(f"what has this session answers {self.status} without an envelope: it is no worker")


class Caller(Protocol):
    """Carries out calls."""

    async def __call__(self, call: OwnerCall) -> OwnerAnswer: ...


__all__ = ["Caller", "OwnerAnswer", "OwnerCall"]
