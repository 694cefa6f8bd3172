"""MediaMTX's control API and its WHIP and WHEP, asked on loopback."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urljoin

import httpx

from sdstream.errors import InvalidSdp, Unavailable
from sdstream.media.mediamtx.config import LOOPBACK, Ports
from sdstream.media.mediamtx.doors import OUR_NAME

REQUEST_SECONDS = 5.0
SESSION_SECONDS = 15.0
PAGE = 500
KICKED = {
    "rtspSession": "rtspsessions",
    "rtspsSession": "rtspssessions",
    "rtmpConn": "rtmpconns",
    "srtConn": "srtconns",
    "webRTCSession": "webrtcsessions",
}
"""Kinds of publishers and readers, and the part of the API that ends one."""


@dataclass(frozen=True, slots=True)
class Party:
    """A publisher or reader of a path."""

    kind: str
    id: str


@dataclass(frozen=True, slots=True)
class PathState:
    """A path at one moment. `publisher` is None without one."""

    name: str
    online: bool
    publisher: Party | None
    readers: tuple[Party, ...] = ()
    bytes_received: int = 0
    bytes_sent: int = 0


@dataclass(frozen=True, slots=True)
class RtpCounts:
    """RTP packets that a WebRTC session received, all its tracks together. `lost` never came, or too late."""

    received: int
    lost: int


@dataclass(frozen=True, slots=True)
class RelayedSession:
    """A WHIP or WHEP session of MediaMTX: its answer, and the URL at which it is known."""

    sdp: str
    url: str


class ControlApi:
    """One for the life of the back end; MediaMTX may come and go. Raises `Unavailable` while it does not answer."""

    def __init__(self, ports: Ports, secret: str) -> None:
        self._api = f"http://{LOOPBACK}:{ports.api}/v3"
        self._whip = f"http://{LOOPBACK}:{ports.whip}"
        login = base64.b64encode(f"{OUR_NAME}:{secret}".encode()).decode("ascii")
        self._http = httpx.AsyncClient(
            headers={"Authorization": f"Basic {login}"}, timeout=REQUEST_SECONDS, trust_env=False
        )

    async def version(self) -> str:
        """MediaMTX's version, such as `v1.20.1`."""
        return str((await self._get("/info")).get("version", ""))

    async def paths(self) -> dict[str, PathState]:
        """All paths that somebody publishes or waits for, by name."""
        return {state.name: state for state in map(read_path, await self._list("paths"))}

    async def web_sessions(self) -> dict[str, RtpCounts]:
        """What WebRTC sessions have received so far, by the id that a `Party` has too."""
        return {
            str(item.get("id", "")): RtpCounts(
                int(item.get("inboundRTPPackets") or 0), int(item.get("inboundRTPPacketsLost") or 0)
            )
            for item in await self._list("webrtcsessions")
        }

    async def kick(self, party: Party) -> None:
        """End a publisher or reader; nothing when it is gone or cannot be ended."""
        part = KICKED.get(party.kind)
        if part is not None:
            await self._send("POST", f"{self._api}/{part}/kick/{party.id}")

    async def open_session(self, path: str, kind: str, offer: str) -> RelayedSession:
        """Post an offer to `kind`, `whip` or `whep`. Raises `InvalidSdp` when it is refused, `LookupError` when nobody
        publishes there."""
        url = f"{self._whip}/{path}/{kind}"
        answer = await self._send(
            "POST", url, content=offer.encode(), headers={"Content-Type": "application/sdp"}, timeout=SESSION_SECONDS
        )
        if answer.status_code == 404:
            raise LookupError(path)
        if answer.status_code in (400, 406):
            raise InvalidSdp(f"the offer cannot be answered: {_reason(answer)}")
        if answer.status_code != 201:
            raise Unavailable(f"MediaMTX answered an offer with {answer.status_code}")
        return RelayedSession(answer.text, urljoin(url, answer.headers.get("location", "")))

    async def add_candidates(self, url: str, fragment: str) -> bool:
        """Pass a trickle-ICE fragment on; False when the session is gone. Raises `InvalidSdp`."""
        headers = {"Content-Type": "application/trickle-ice-sdpfrag", "If-Match": "*"}
        answer = await self._send("PATCH", url, content=fragment.encode(), headers=headers)
        if answer.status_code == 400:
            raise InvalidSdp(f"the candidates cannot be read: {_reason(answer)}")
        return answer.is_success

    async def end_session(self, url: str) -> bool:
        """End a session; False when it is gone."""
        return (await self._send("DELETE", url)).is_success

    async def close(self) -> None:
        """Idempotent."""
        await self._http.aclose()

    async def _list(self, what: str) -> list[Mapping[str, Any]]:
        found: list[Mapping[str, Any]] = []
        page = 0
        while True:
            answer = await self._get(f"/{what}/list?page={page}&itemsPerPage={PAGE}")
            found += cast("list[Mapping[str, Any]]", answer.get("items") or [])
            page += 1
            if page >= int(answer.get("pageCount") or 0):
                return found

    async def _get(self, path: str) -> Mapping[str, Any]:
        answer = await self._send("GET", self._api + path)
        if not answer.is_success:
            raise Unavailable(f"MediaMTX's API answered {answer.status_code}")
        return answer.json()

    async def _send(self, method: str, url: str, **request: Any) -> httpx.Response:
        try:
            return await self._http.request(method, url, **request)
        except httpx.HTTPError as error:
            raise Unavailable(f"MediaMTX does not answer ({type(error).__name__})") from None


def read_path(item: Mapping[str, Any]) -> PathState:
    """An item of the API's list of paths."""
    readers = cast("list[Mapping[str, Any]]", item.get("readers") or [])
    return PathState(
        name=str(item.get("name", "")),
        online=bool(item.get("online", item.get("ready"))),
        publisher=_party(item.get("source")),
        readers=tuple(party for party in map(_party, readers) if party is not None),
        bytes_received=int(item.get("inboundBytes") or 0),
        bytes_sent=int(item.get("outboundBytes") or 0),
    )


def _party(item: Mapping[str, Any] | None) -> Party | None:
    return None if item is None else Party(str(item.get("type", "")), str(item.get("id", "")))


def _reason(answer: httpx.Response) -> str:
    try:
        said: Any = answer.json()
    except ValueError:
        return "no reason was given"
    return str(cast("dict[str, Any]", said).get("error", ""))[:200] if isinstance(said, dict) else "no reason was given"


__all__ = ["ControlApi", "Party", "PathState", "RelayedSession", "RtpCounts", "read_path"]
