"""What the gateway hands on: a request's headers to the worker, the worker's answer to the client."""

import contextlib
import json
from collections.abc import AsyncGenerator, Collection, Iterable

from starlette.requests import HTTPConnection, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from sdstream.api.answers import HEAD, REQUEST_ID
from sdstream.gateway.direct import LongAnswer
from sdstream.job_errors import OwnerUnreachable
from sdstream.jobs.calls import OwnerAnswer

PASSED_ON = (
    "accept",
    "content-type",
    "if-match",
    "if-range",
    "last-event-id",
    "range",
    "traceparent",
    "x-client-source",
)
"""Headers of a request that the owner is given."""
HANDED_BACK = frozenset(
    {
        "accept-patch",
        "accept-ranges",
        "cache-control",
        "content-disposition",
        "content-range",
        "content-type",
        "etag",
        "last-modified",
        "link",
        "livepeer-playback-url",
        "location",
        "retry-after",
    }
)
"""Headers of the owner's answer that the client is given."""


class LongResponse(StreamingResponse):
    """A long answer as it comes, whose connection to the worker ends with the client's, also when that one went before
    the first byte: nobody has begun to read `chunks` then, so that they cannot end it.

    It is cut off when the worker breaks off, but one that is `live`, which never was to be whole, just ends.
    """

    def __init__(self, answer: LongAnswer, headers: Collection[str], *, live: bool = False) -> None:
        super().__init__(_until_broken(answer.chunks()) if live else answer.chunks(), answer.status)
        self._answer = answer
        _hand_back(answer.headers, self, headers)
        if live:  # the worker says so too, but proxies before it keep that to themselves
            self.headers["X-Accel-Buffering"] = "no"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._answer.close()


def headers_for_owner(connection: HTTPConnection) -> dict[str, str]:
    """What the worker is told of a request's headers, with the id of the request."""
    given = {name: connection.headers[name] for name in PASSED_ON if name in connection.headers}
    return given | {"x-request-id": connection.scope[REQUEST_ID]}


def whole_response(answer: OwnerAnswer) -> Response:
    """A worker's answer for the client. Raises what it tells of when it is an error without the usual envelope."""
    if answer.status >= 400 and not _is_envelope(answer.body):
        raise answer.error()
    return _hand_back(answer.headers, Response(answer.body, answer.status), HANDED_BACK)


async def long_response(
    request: Request,
    answer: LongAnswer | OwnerAnswer,
    headers: Collection[str] = HANDED_BACK,
    *,
    live: bool = False,
) -> Response:
    """The response to `request`, only the beginning of it where no more is wanted. Raises as `whole_response`."""
    if isinstance(answer, OwnerAnswer):
        return whole_response(answer)
    if not request.scope.get(HEAD):
        return LongResponse(answer, headers, live=live)
    await answer.close()
    response = Response(None, answer.status)
    if "content-length" in headers:
        del response.headers["content-length"]  # an empty body has one of its own
    return _hand_back(answer.headers, response, headers)


def _hand_back(headers: Iterable[tuple[str, str]], response: Response, names: Collection[str]) -> Response:
    """`response` with those of `headers` that are among `names`."""
    for name, value in headers:
        if name.lower() in names:
            response.headers.append(name, value)
    return response


async def _until_broken(chunks: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    async with contextlib.aclosing(chunks):
        with contextlib.suppress(OwnerUnreachable):
            async for chunk in chunks:
                yield chunk


def _is_envelope(body: bytes) -> bool:
    try:
        found = json.loads(body)
    except ValueError:
        return False
    return isinstance(found, dict) and "requestId" in found


__all__ = ["HANDED_BACK", "LongResponse", "headers_for_owner", "long_response", "whole_response"]
