"""What every endpoint needs: the streams, the settings, the caller behind a request."""

import os
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.types import Scope

from sdstream.api.addresses import AddressBook, PublicAddress
from sdstream.api.bodies import read_object
from sdstream.api.keys import KeyRing, parse_bearer
from sdstream.api.links import ice_links
from sdstream.api.origins import LocalCallers
from sdstream.api.ports import Streams
from sdstream.api.rates import RateLimit
from sdstream.clock import Clock
from sdstream.errors import Forbidden, Unauthorized
from sdstream.reachability import find_place
from sdstream.settings import Settings
from sdstream.streams.views import StreamRecord

CREATE_BURST_SECONDS = 10.0
UPDATE_BURST_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request. An operator may touch every stream; `key_id` is what rate limits count by."""

    author: str
    key_id: str
    operator: bool


LOCAL_CALLER = Caller("local", "local", operator=True)
"""Everybody, where authentication is switched off."""

CALLER = "sdstream.caller"
"""The scope member that holds a caller who is known already: calls from within this process, never from the network."""


class Context:
    """Shared by all endpoints of one application."""

    def __init__(self, streams: Streams, settings: Settings, keys: KeyRing, clock: Clock) -> None:
        self.streams = streams
        self.settings = settings
        self.keys = keys
        self.clock = clock
        self.place = find_place(os.environ)
        self.addresses = AddressBook(settings, self.place)
        self._local_callers = LocalCallers(settings)
        self.create_limit = RateLimit(
            settings.create_rate, settings.create_rate * CREATE_BURST_SECONDS, clock, "creates with this key"
        )
        self.update_limit = RateLimit(
            settings.update_rate, settings.update_rate * UPDATE_BURST_SECONDS, clock, "updates of this stream"
        )

    async def caller(self, request: Request) -> Caller:
        """Who sends this request. Raises `Unauthorized`; with authentication off, `Forbidden` for pages of the web."""
        known: Caller | None = request.scope.get(CALLER)
        if known is not None:
            return known
        if not self.settings.authentication:
            self._local_callers.check(request.headers)
            return LOCAL_CALLER
        header = request.headers.get("authorization")
        key = parse_bearer(header)
        if key is None:
            problem = "no bearer key was sent" if header is None else "the Authorization header is not `Bearer KEY`"
            raise Unauthorized(problem)
        entry = await self.keys.find_soon(key)
        if entry is None:
            raise Unauthorized("this bearer key is not known here")
        return Caller(entry.author, entry.id, entry.operator)

    async def owned(self, request: Request, stream_id: str) -> StreamRecord:
        """The stream, if the caller may touch it. Raises `Unauthorized`, `StreamNotFound` or `Forbidden`."""
        caller = await self.caller(request)
        record = self.streams.get(stream_id)
        if not caller.operator and record.author != caller.author:
            raise Forbidden("this stream was made with another key")
        return record

    def address(self, request: Request) -> PublicAddress:
        """How the sender of this request reaches the server."""
        return self.addresses.of(request.scope)

    async def ice_links(self, token: str, scope: Scope) -> list[str]:
        """The `Link` headers for whoever knows this stream key or playback id."""
        return ice_links(await self.streams.ice_servers(token, self.addresses.of(scope).name))

    async def read_object(self, request: Request) -> dict[str, Any]:
        """The JSON object in the body. Raises `BadRequest` or `BodyTooLarge`."""
        return await read_object(request, self.settings.max_body_bytes)


__all__ = ["CALLER", "LOCAL_CALLER", "Caller", "Context"]
