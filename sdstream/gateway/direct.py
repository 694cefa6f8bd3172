"""Calls to the worker that has a session, by HTTP at the session's control URL."""

import asyncio
from collections.abc import AsyncGenerator, Mapping

import httpx
import structlog

from sdstream.job_errors import OwnerAsleep, OwnerSilent, OwnerUnreachable
from sdstream.jobs.calls import OwnerAnswer, OwnerCall
from sdstream.jobs.directory import SessionEntry
from sdstream.jobs.use import LOOK
from sdstream.jobs.waiting import is_safe_to_repeat, take_seconds

NO_WAY = (httpx.HTTPError, httpx.InvalidURL, UnicodeError)
"""What httpx raises for an address at which nobody answers, or that is none; it comes from the directory or a job."""
LONG_SECONDS = 60.0
"""How long a long answer may pause: pictures and events come, or something that says that there are none."""

logger = structlog.get_logger(__name__)


class LongAnswer:
    """An answer whose body comes piece by piece. Read `chunks` to the end, or the `whole`, or `close`."""

    def __init__(self, response: httpx.Response, session_id: str) -> None:
        self.status = response.status_code
        self.headers = list(response.headers.multi_items())
        self._response = response
        self._session_id = session_id

    async def chunks(self) -> AsyncGenerator[bytes]:
        """Raises `OwnerUnreachable` when the worker breaks off."""
        try:
            async for chunk in self._response.aiter_raw():
                yield chunk
        except httpx.HTTPError as error:
            logger.info("worker ended a long answer", session_id=self._session_id, problem=type(error).__name__)
            raise OwnerUnreachable("the worker broke off its answer") from error
        finally:
            await self._response.aclose()

    async def whole(self) -> OwnerAnswer:
        """The whole answer at once, for an error. Raises `OwnerUnreachable` as `chunks`."""
        try:
            body = await self._response.aread()
        except httpx.HTTPError as error:
            raise OwnerUnreachable("the worker broke off its answer") from error
        finally:
            await self.close()
        return OwnerAnswer(status=self.status, headers=self.headers, body=body)

    async def close(self) -> None:
        """Idempotent."""
        await self._response.aclose()


async def call_owner(http: httpx.AsyncClient, entry: SessionEntry, call: OwnerCall, seconds: float) -> OwnerAnswer:
    """Have the owner carry out a call.

    Raises `OwnerUnreachable` when nobody answers at its address, so that nothing was done, and `OwnerSilent` when
    somebody does and says nothing within `seconds`, or breaks off.
    """
    url = entry.control_url + call.path + (f"?{call.query}" if call.query else "")
    headers = {**call.headers, "Authorization": f"Bearer {entry.token}"} | ({} if call.uses else {LOOK: "1"})
    try:
        response = await http.request(
            call.method, url, headers=headers, content=call.body, timeout=_limits(seconds, seconds)
        )
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
        raise OwnerUnreachable("the control URL of the worker does not answer") from error
    except (httpx.TimeoutException, httpx.NetworkError, httpx.RemoteProtocolError) as error:
        repeatable = is_safe_to_repeat(call.method)
        if isinstance(error, httpx.TimeoutException):
            words = f"the control URL of the worker gave no answer within {seconds:g} s"
        else:
            words = "the worker broke off before it answered"
        raise OwnerSilent(words, repeatable=repeatable) from error
    except NO_WAY as error:
        raise OwnerUnreachable("the control URL of the worker does not answer") from error
    answer = OwnerAnswer(
        status=response.status_code, headers=list(response.headers.multi_items()), body=response.content
    )
    return answer if call.base is None else _moved(answer, entry.control_url, call.base)


async def follow_owner(
    http: httpx.AsyncClient, entry: SessionEntry, path: str, headers: Mapping[str, str], seconds: float
) -> LongAnswer:
    """A GET whose answer is long and begins within `seconds`, whatever its status; to be read or closed.

    Raises `OwnerUnreachable`.
    """
    try:
        request = http.build_request(
            "GET",
            entry.control_url + path,
            headers={**headers, "Accept-Encoding": "identity", "Authorization": f"Bearer {entry.token}"},
            timeout=_limits(seconds, LONG_SECONDS),
        )
        async with asyncio.timeout(seconds):
            response = await http.send(request, stream=True)
    except TimeoutError as error:
        raise OwnerAsleep(f"the control URL of the worker began no answer within {seconds:g} s") from error
    except NO_WAY as error:
        raise OwnerUnreachable("the control URL of the worker cannot be reached from here") from error
    return LongAnswer(response, entry.session_id)


def _limits(seconds: float, read: float) -> httpx.Timeout:
    """A worker that is there at all takes a connection at once."""
    return httpx.Timeout(seconds, read=read, connect=take_seconds(seconds))


def _moved(answer: OwnerAnswer, control_url: str, base: str) -> OwnerAnswer:
    """The answer with its URLs under `base`: a worker that is called directly tells those of its own address."""
    headers = [
        (name, value.replace(control_url + "/", base + "/", 1) if value.startswith(control_url + "/") else value)
        for name, value in answer.headers
    ]
    body = answer.body
    if any(name.lower() == "content-type" and value.startswith("application/json") for name, value in headers):
        body = body.replace(f'"{control_url}/'.encode(), f'"{base}/'.encode())
    return OwnerAnswer(status=answer.status, headers=headers, body=body)


__all__ = ["LongAnswer", "call_owner", "follow_owner"]
