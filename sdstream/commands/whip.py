"""The publisher's end of a WHIP session, on aiortc."""

import asyncio
import contextlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urljoin, urlsplit

import aioice.ice
import httpx
from aiortc import RTCConfiguration, RTCIceServer, RTCPeerConnection, RTCRtpSender, RTCSessionDescription
from aiortc.exceptions import OperationError

from sdstream.commands.camera import CameraTrack, Codec
from sdstream.errors import CommandFailed
from sdstream.http_clients import obeying_variables
from sdstream.settings import is_loopback

CONNECT_SECONDS = 15.0
GOODBYE_SECONDS = 5.0
_LINK = re.compile(r'<(?P<url>[^>]+)>(?P<parameters>(?:\s*;\s*[\w-]+=(?:"(?:[^"\\]|\\.)*"|[^\s;,"]*))*)')
_PARAMETER = re.compile(r'([\w-]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s;,"]*))')


@dataclass(frozen=True, slots=True)
class Sent:
    """What a session has sent. `round_trip` is seconds, None before the first report of it."""

    bytes: int
    packets: int
    packets_lost: int
    round_trip: float | None


class WhipSession:
    """One WHIP session: offer, answer, connection, end. To be closed, whether `open` succeeded or not."""

    def __init__(self, url: str, key: str | None, codec: Codec) -> None:
        self.url = url
        self.codec: Codec = codec
        self.playback_url: str | None = None
        self.ending = ""
        """The server's words for the end: WebRTC has none."""
        # One for all requests: to make it reads the certificates of authorities, which takes longer than to ask.
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        with obeying_variables():
            self._http = httpx.AsyncClient(headers=headers, timeout=CONNECT_SECONDS)
        self._location: str | None = None
        self._peer: Any = None
        self._ended = asyncio.Event()
        self._connected = asyncio.Event()

    async def open(self, track: CameraTrack) -> None:
        """Post the offer and wait for the connection. Raises `CommandFailed` with the server's words."""
        host = urlsplit(self.url).hostname or ""
        servers: list[RTCIceServer] = []
        if is_loopback(host):
            # aioice never offers loopback; with a server on this machine nothing else is needed
            aioice.ice.get_host_addresses = lambda use_ipv4, use_ipv6: ["127.0.0.1"]  # pyright: ignore[reportUnknownLambdaType]
        else:
            # Before the offer, as RFC 9725 allows: aiortc gathers once, and not again for servers told with the answer.
            servers = read_ice_servers((await self._ask("OPTIONS")).headers.get_list("link"))
        self._peer = RTCPeerConnection(RTCConfiguration(iceServers=servers))
        self._peer.on("connectionstatechange", self._on_state)
        transceiver = self._peer.addTransceiver(track, direction="sendonly")
        transceiver.setCodecPreferences(
            [
                entry
                for entry in RTCRtpSender.getCapabilities("video").codecs
                if entry.mimeType.lower() == f"video/{self.codec}"
            ]
        )
        track.obey(transceiver.sender)
        await self._peer.setLocalDescription(await self._peer.createOffer())
        answer = await self._post(self._peer.localDescription.sdp)
        try:
            await self._peer.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        except (ValueError, LookupError, AssertionError, OperationError) as error:  # what aiortc has for bad SDP
            raise CommandFailed(
                f"{self.url} takes the offer and gives no WebRTC answer to it: {str(error) or 'it is no SDP'}",
                hint="Is it the stream's `whip_url`?",
            ) from None
        waiting = [asyncio.ensure_future(event.wait()) for event in (self._connected, self._ended)]
        await asyncio.wait(waiting, timeout=CONNECT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        for waiter in waiting:
            waiter.cancel()
        if not self._connected.is_set():
            raise CommandFailed(
                "the server answered, but no packet passed between it and this machine",
                hint="UDP between the two must be open, or the server offer TURN (it offered "
                f"{', '.join(str(server.urls) for server in servers) or 'none'}); "
                "`sdstream doctor` on the server says how WebRTC gets in.",
            )

    async def wait_ended(self) -> None:
        """Return when the other side ended the connection or it was lost."""
        await self._ended.wait()

    async def sent(self) -> Sent:
        """What was sent so far."""
        reports = {entry.type: entry for entry in (await self._peer.getStats()).values()} if self._peer else {}
        outbound, remote = reports.get("outbound-rtp"), reports.get("remote-inbound-rtp")
        return Sent(
            outbound.bytesSent if outbound else 0,
            outbound.packetsSent if outbound else 0,
            remote.packetsLost if remote else 0,
            remote.roundTripTime if remote else None,
        )

    async def close(self) -> None:
        """Tell the server that the session is over, then close the connection."""
        try:
            if self._location is not None:
                with contextlib.suppress(httpx.HTTPError):
                    await self._http.delete(self._location, timeout=GOODBYE_SECONDS)
        finally:
            await self._http.aclose()
            if self._peer is not None:
                await self._peer.close()

    async def _post(self, offer: str) -> str:
        answer = await self._ask("POST", offer)
        if answer.status_code not in (200, 201):
            raise CommandFailed(f"the server refused the stream: {answer.status_code}, {describe_refusal(answer)}")
        if location := answer.headers.get("location"):
            self._location = urljoin(self.url, location)
        self.playback_url = answer.headers.get("livepeer-playback-url")
        return answer.text

    async def _ask(self, method: str, offer: str | None = None) -> httpx.Response:
        headers = {} if offer is None else {"Content-Type": "application/sdp"}
        try:
            return await self._http.request(method, self.url, content=offer, headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise CommandFailed(
                f"no answer from {self.url}: {error or type(error).__name__}", hint="Is `sdstream serve` running there?"
            ) from None

    def _on_state(self) -> None:
        state = self._peer.connectionState
        if state == "connected":
            self._connected.set()
        elif state in ("failed", "closed"):
            self._ended.set()


def read_ice_servers(headers: Iterable[str]) -> list[RTCIceServer]:
    """The STUN and TURN servers of `Link` headers (RFC 9725, section 4.6), one a link; other links are passed over."""
    servers: list[RTCIceServer] = []
    for link in (match for header in headers for match in _LINK.finditer(header)):
        members = {
            name.lower(): re.sub(r"\\(.)", r"\1", quoted) or plain
            for name, quoted, plain in _PARAMETER.findall(link["parameters"])
        }
        if members.get("rel") == "ice-server" and link["url"].startswith(("stun:", "turn:", "turns:")):
            servers.append(RTCIceServer(link["url"], members.get("username"), members.get("credential")))
    return servers


def describe_refusal(answer: httpx.Response) -> str:
    """The words of an error answer: its JSON message, or the beginning of its text."""
    return refusal_in(answer.content) or " ".join(answer.text.split())[:200] or answer.reason_phrase


def refusal_in(body: bytes) -> str:
    """The message of an error answer's JSON; empty where there is none."""
    with contextlib.suppress(ValueError):
        found = json.loads(body)
        members = cast("dict[str, object]", found) if isinstance(found, dict) else {}
        for name in ("message", "error", "detail"):
            words = members.get(name)
            if isinstance(words, str):
                return words
    return ""


__all__ = ["Sent", "WhipSession", "describe_refusal", "read_ice_servers", "refusal_in"]
