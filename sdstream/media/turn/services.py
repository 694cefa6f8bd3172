"""TURN elsewhere: servers of the settings, Cloudflare's and Twilio's, whose credentials are asked for each session."""

import asyncio
import re
from typing import Any, Protocol, cast
from urllib.parse import quote

import httpx

from sdstream.clock import Clock
from sdstream.errors import ConfigurationError, TurnUnavailable
from sdstream.media.ports import IceServer
from sdstream.settings import Settings

CREDENTIAL_SECONDS = 86_400
"""How long a service's credentials are good: for the whole session, as a service may end a relay with them."""
REQUEST_SECONDS = 4.0
REUSE_SECONDS = 20.0
"""An answer of a service serves this long: the three questions of one session (OPTIONS, the POST's answer, our own
relay) are then one request."""
SERVER_URL = re.compile(
    r"(?P<scheme>stun|turn|turns):(?P<host>[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::(?P<port>[0-9]{1,5}))?"
    r"(?:\?transport=(?P<transport>udp|tcp))?"
)
CLOUDFLARE = "https://rtc.live.cloudflare.com"
TWILIO = "https://api.twilio.com"


class TurnService(Protocol):
    """Somebody who gives TURN servers for one session."""

    async def servers(self) -> tuple[IceServer, ...]:
        """Raises `TurnUnavailable`."""
        ...


class StaticServers:
    """The servers of `webrtc_ice_servers`, with the one name and password of the settings."""

    def __init__(self, settings: Settings) -> None:
        credential = settings.turn_credential
        self._servers = tuple(
            IceServer((url,), settings.turn_username, credential.get_secret_value() if credential else None)
            if url.startswith(("turn:", "turns:"))
            else IceServer((url,))
            for url in settings.webrtc_ice_servers
        )

    async def servers(self) -> tuple[IceServer, ...]:
        return self._servers


class CloudflareTurn:
    """Cloudflare's TURN service, by a TURN key and its API token."""

    def __init__(self, key_id: str, token: str, http: httpx.AsyncClient, base: str = CLOUDFLARE) -> None:
        self._url = f"{base}/v1/turn/keys/{quote(key_id, safe='')}/credentials/generate-ice-servers"
        self._token = token
        self._http = http

    async def servers(self) -> tuple[IceServer, ...]:
        answer = await _ask(
            "Cloudflare",
            self._http,
            self._url,
            headers={"Authorization": f"Bearer {self._token}"},
            json={"ttl": CREDENTIAL_SECONDS},
        )
        return read_ice_servers("Cloudflare", answer.get("iceServers"))


class TwilioTurn:
    """Twilio's Network Traversal Service, by account and auth token."""

    def __init__(self, account: str, token: str, http: httpx.AsyncClient, base: str = TWILIO) -> None:
        self._url = f"{base}/2010-04-01/Accounts/{quote(account, safe='')}/Tokens.json"
        self._login = (account, token)
        self._http = http

    async def servers(self) -> tuple[IceServer, ...]:
        answer = await _ask("Twilio", self._http, self._url, auth=self._login, data={"Ttl": str(CREDENTIAL_SECONDS)})
        return read_ice_servers("Twilio", answer.get("ice_servers"))


class Remembered:
    """Another service's answer, kept for `REUSE_SECONDS`; who comes meanwhile shares one request and its failure."""

    def __init__(self, service: TurnService, clock: Clock) -> None:
        self._service = service
        self._clock = clock
        self._answer: tuple[IceServer, ...] = ()
        self._until = float("-inf")
        self._asking: asyncio.Future[tuple[IceServer, ...]] | None = None

    async def servers(self) -> tuple[IceServer, ...]:
        if self._clock.monotonic() < self._until:
            return self._answer
        asking = self._asking
        if asking is None:
            asking = self._asking = asyncio.ensure_future(self._ask())
            asking.add_done_callback(self._forget)
        return await asyncio.shield(asking)  # who leaves must not take the answer from the others

    async def _ask(self) -> tuple[IceServer, ...]:
        self._answer = await self._service.servers()
        self._until = self._clock.monotonic() + REUSE_SECONDS
        return self._answer

    def _forget(self, done: "asyncio.Future[tuple[IceServer, ...]]") -> None:
        self._asking = None
        if not done.cancelled():
            done.exception()  # looked at, so that nobody complains when all who asked have left


def read_ice_servers(name: str, given: Any) -> tuple[IceServer, ...]:
    """`iceServers` as browsers take them (one object or a list) without what cannot be used.

    Raises `TurnUnavailable` when no TURN server is among them.
    """
    entries = cast("list[Any]", given if isinstance(given, list) else [given])
    found: list[IceServer] = []
    for entry in entries:
        if not isinstance(entry, dict):
            continue
        members = cast("dict[str, Any]", entry)
        urls: Any = members.get("urls") or members.get("url") or ()
        listed = cast("list[Any]", [urls] if isinstance(urls, str) else urls if isinstance(urls, list) else [])
        wanted = tuple(url for url in map(str, listed) if _is_usable(url))
        if wanted:
            username, credential = members.get("username"), members.get("credential")
            found.append(IceServer(wanted, username, credential) if username and credential else IceServer(wanted))
    if not any(server.credential for server in found):
        raise TurnUnavailable(f"{name} answered without a TURN server")
    return tuple(found)


def _is_usable(url: str) -> bool:
    """Whether browsers take this URL. Port 53 is for networks that open nothing else; they block it."""
    match = SERVER_URL.fullmatch(url)
    return match is not None and match["port"] != "53"


async def _ask(name: str, http: httpx.AsyncClient, url: str, **request: Any) -> dict[str, Any]:
    try:
        async with asyncio.timeout(REQUEST_SECONDS):
            response = await http.post(url, **request)
    except TimeoutError:
        raise TurnUnavailable(f"{name} did not answer within {REQUEST_SECONDS:g} s") from None
    except httpx.HTTPError as error:
        raise TurnUnavailable(f"{name} cannot be reached ({type(error).__name__})") from None
    if response.status_code in (401, 403, 404):
        raise TurnUnavailable(f"{name} refuses the key of the settings (status {response.status_code})")
    if not response.is_success:
        raise TurnUnavailable(f"{name} answered with status {response.status_code}")
    try:
        answer = response.json()
    except ValueError:
        raise TurnUnavailable(f"{name} answered with what is no JSON") from None
    if not isinstance(answer, dict):
        raise TurnUnavailable(f"{name} answered with what is no object")
    return cast("dict[str, Any]", answer)


def check_server(url: str) -> None:
    """Raises `ConfigurationError` for what is no STUN or TURN URL."""
    match = SERVER_URL.fullmatch(url)
    if match is None or (match["port"] and not 0 < int(match["port"]) < 65536):
        raise ConfigurationError(
            f"webrtc_ice_servers: {url[:80]!r} is no STUN or TURN URL",
            hint="Write stun:host:port, or turn:host:port?transport=tcp.",
        )
    if match["scheme"] == "stun" and match["transport"]:
        raise ConfigurationError(f"webrtc_ice_servers: {url[:80]!r} is a STUN URL with a transport, which none has")


def choose_service(settings: Settings, http: httpx.AsyncClient, clock: Clock) -> TurnService:
    """The service that the settings name; a service with fresh credentials before servers with a fixed password."""
    if settings.cloudflare_turn_key_id and settings.cloudflare_turn_api_token:
        token = settings.cloudflare_turn_api_token.get_secret_value()
        return Remembered(CloudflareTurn(settings.cloudflare_turn_key_id, token, http), clock)
    if settings.twilio_account_sid and settings.twilio_auth_token:
        token = settings.twilio_auth_token.get_secret_value()
        return Remembered(TwilioTurn(settings.twilio_account_sid, token, http), clock)
    return StaticServers(settings)


__all__ = [
    "CREDENTIAL_SECONDS",
    "SERVER_URL",
    "CloudflareTurn",
    "Remembered",
    "StaticServers",
    "TurnService",
    "TwilioTurn",
    "check_server",
    "choose_service",
    "read_ice_servers",
]
