"""Notices that a session is used by HTTP: who steers it by its control URL, or looks at it, uses it as a job does."""

import re
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOK = "X-Sdstream-Look"
"""The header of a request that keeps no session from being idle, such as a gateway's for its list of all."""

_LOOK = LOOK.lower().encode()
_STREAM = re.compile(r"/v1/streams/([A-Za-z0-9_-]+)")


def notice_use(application: ASGIApp, used: Callable[[str], None]) -> ASGIApp:
    """`application`, where `used` hears the id of each stream that a request was about which was not refused."""

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        is_request = scope["type"] == "http" and scope["method"] != "OPTIONS"  # which browsers send without a key
        found = _STREAM.search(scope["path"]) if is_request else None
        if found is None or any(name == _LOOK for name, _ in scope["headers"]):
            await application(scope, receive, send)
            return

        async def pass_on(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] < 400:
                used(found[1])
            await send(message)

        await application(scope, receive, pass_on)

    return call


__all__ = ["LOOK", "notice_use"]
