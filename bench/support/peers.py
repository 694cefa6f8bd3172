"""Lean WHIP cameras and WHEP viewers, so that the server is measured and not its clients.

They are built from the media room's own sender and receiver. One viewer reads every server: it completes a picture at
the RTP marker bit, where a stock aiortc viewer would add a frame interval.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace

import httpx
import structlog

from bench.support.clip import LENGTH, TICKS, Clip, read_stamp
from sdstream.clock import SystemClock
from sdstream.frames import I420Frame
from sdstream.logs import FoldedReporter
from sdstream.media.embedded.addresses import Addressing
from sdstream.media.embedded.counters import StreamCounters
from sdstream.media.embedded.negotiation import Negotiation, VideoChoice, VideoCodec
from sdstream.media.embedded.peer import Peer
from sdstream.media.embedded.publisher import PublisherSession
from sdstream.media.embedded.rtp import read_header
from sdstream.media.embedded.sdp import MediaSection, Transport, parse_offer
from sdstream.media.embedded.viewer import ViewerSession

_FEEDBACK = ("nack", "nack pli", "ccm fir")
VIDEO = VideoChoice("H264", 96, 97, _FEEDBACK)
VIDEOS = {"H264": VIDEO, "VP8": VideoChoice("VP8", 98, 99, _FEEDBACK)}
LOOPBACK = Addressing(addresses=("127.0.0.1",))
CONNECT_SECONDS = 15.0
clock = SystemClock()
Route = Callable[[str], Awaitable[str]]
"""Changes an SDP answer so that packets take another way than straight to the server."""


class Camera:
    """Publishes a clip at its rate; `sent[n]` is when picture n of the endless film was handed over."""

    def __init__(self, clip: Clip, http: httpx.AsyncClient, route: Route | None = None) -> None:
        self._clip = clip
        self._route = route
        self._http = http
        self._connected = asyncio.Event()
        self._sources = (random.getrandbits(32), random.getrandbits(32), random.getrandbits(32))
        self._session = ViewerSession(
            "camera",
            VIDEOS[clip.codec],
            self._sources,
            "bench",
            LOOPBACK,
            StreamCounters(),
            clock,
            on_connected=lambda session: self._connected.set(),
            on_closed=lambda session, reason: None,
            on_keyframe_request=lambda session: None,
            fast=True,
        )
        self._sending: asyncio.Task[None] | None = None
        self.flows = asyncio.Event()
        """Cleared, the camera pauses."""
        self.flows.set()
        self.sent: dict[int, float] = {}
        self.late = 0
        """Pictures that this program itself sent more than half an interval after their time."""

    @property
    def codec(self) -> VideoCodec:
        return self._clip.codec

    async def open(self, url: str) -> httpx.Headers:
        """Connect and start to send; the headers of the answer."""
        headers = await exchange(
            self._http, url, self._session.peer, "sendonly", self._sources[:2], self._clip.codec, self._route
        )
        async with asyncio.timeout(CONNECT_SECONDS):
            await self._connected.wait()
        self._sending = asyncio.create_task(self._send())
        return headers

    async def close(self) -> None:
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.gather(self._sending, return_exceptions=True)
        await self._session.close()

    async def _send(self) -> None:
        start = clock.monotonic() + random.random() / self._clip.rate
        index = 0
        while True:
            if not self.flows.is_set():
                paused = clock.monotonic()
                await self.flows.wait()
                index += round((clock.monotonic() - paused) * self._clip.rate)  # a camera's clock runs on
                start = clock.monotonic() + random.random() / self._clip.rate - index / self._clip.rate
            due = start + index / self._clip.rate
            await asyncio.sleep(max(0.0, due - clock.monotonic()))
            now = clock.monotonic()
            self.late += now - due > 0.5 / self._clip.rate
            self.sent[index] = now
            self._session.deliver(self._clip.picture(index))
            self.sent.pop(index - 10 * LENGTH, None)
            index += 1


class PictureViewer:
    """Decodes every picture and takes its age by the number in it."""

    def __init__(self, camera: Camera, http: httpx.AsyncClient, route: Route | None = None) -> None:
        self._camera = camera
        self._route = route
        self._http = http
        self._connected = asyncio.Event()
        self.ages: list[tuple[float, float]] = []
        """Moment and age of each picture, in seconds."""
        self.unreadable = 0
        negotiation = Negotiation(VIDEOS[camera.codec], {}, _NOWHERE)
        self._session = PublisherSession(
            "viewer",
            negotiation,
            LOOPBACK,
            StreamCounters(),
            clock,
            deliver=self._on_picture,
            on_connected=lambda session: self._connected.set(),
            on_closed=lambda session, reason: None,
            faults=FoldedReporter(structlog.get_logger(__name__), clock),
            fast=True,
        )

    async def open(self, url: str) -> None:
        await exchange(self._http, url, self._session.peer, "recvonly", None, self._camera.codec, self._route)
        async with asyncio.timeout(CONNECT_SECONDS):
            await self._connected.wait()

    async def close(self) -> None:
        await self._session.close()

    def _on_picture(self, session: PublisherSession, frame: I420Frame) -> None:
        now = clock.monotonic()
        number = read_stamp(frame.y)
        if number is None:
            self.unreadable += 1
            return
        newest = len(self._camera.sent) and max(self._camera.sent)
        index = newest - (newest - number) % LENGTH
        if index in self._camera.sent:
            self.ages.append((now, now - self._camera.sent[index]))


class MarkerViewer:
    """Counts pictures by their last packet and decodes none; `arrivals` are moments by RTP time in pictures, of which
    one takes `ticks`."""

    def __init__(self, http: httpx.AsyncClient, ticks: int = TICKS) -> None:
        self._http = http
        self._ticks = ticks
        self._connected = asyncio.Event()
        self._first: int | None = None
        self.arrivals: dict[int, float] = {}
        self.peer = Peer(LOOPBACK, self, fast=True)

    async def open(self, url: str) -> None:
        await exchange(self._http, url, self.peer, "recvonly", None)
        async with asyncio.timeout(CONNECT_SECONDS):
            await self._connected.wait()

    async def close(self) -> None:
        await self.peer.close()

    def on_connected(self) -> None:
        self._connected.set()

    def on_closed(self, reason: str) -> None:
        """Seen by the missing pictures."""

    def on_rtcp(self, packet: bytes) -> None:
        """Nothing to answer."""

    def on_rtp(self, packet: bytes) -> None:
        header = read_header(packet)
        if header is None or not header.marker or header.payload_type != VIDEO.payload_type:
            return
        if self._first is None:
            self._first = header.timestamp
        ticks = (header.timestamp - self._first + 2**31) % 2**32 - 2**31
        self.arrivals[round(ticks / self._ticks)] = clock.monotonic()


async def exchange(
    http: httpx.AsyncClient,
    url: str,
    peer: Peer,
    direction: str,
    sources: tuple[int, int] | None,
    codec: VideoCodec = "H264",
    route: Route | None = None,
) -> httpx.Headers:
    """Post an offer of one video, start to connect, return the headers of the answer.

    With a `route` the server is not told our own addresses, and we are told others than its own.
    """
    transport = await peer.gather("actpass")
    if route is not None:
        transport = replace(transport, candidates=())
    reply = await http.post(
        url, content=_offer(transport, direction, sources, codec), headers={"Content-Type": "application/sdp"}
    )
    if reply.status_code not in (200, 201):
        raise RuntimeError(f"{url} answered {reply.status_code}: {reply.text[:300]}")
    answer = reply.text if route is None else await route(reply.text)
    peer.connect(parse_offer(answer).sections[0])
    return reply.headers


async def until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait for `condition`; `RuntimeError` after `seconds`."""
    deadline = clock.monotonic() + seconds
    while not condition():
        if clock.monotonic() > deadline:
            raise RuntimeError(f"{what} did not happen within {seconds} s")
        await asyncio.sleep(0.02)


def _offer(transport: Transport, direction: str, sources: tuple[int, int] | None, codec: VideoCodec) -> str:
    video = VIDEOS[codec]
    number, repairs = video.payload_type, video.retransmission_type
    lines = [
        "v=0",
        "o=- 1 1 IN IP4 127.0.0.1",
        "s=-",
        "t=0 0",
        "a=group:BUNDLE 0",
        f"m=video 9 UDP/TLS/RTP/SAVPF {number} {repairs}",
        "c=IN IP4 0.0.0.0",
        "a=mid:0",
        f"a={direction}",
        "a=rtcp-mux",
        f"a=rtpmap:{number} {codec}/90000",
        f"a=rtcp-fb:{number} nack",
        f"a=rtcp-fb:{number} nack pli",
        f"a=rtpmap:{repairs} rtx/90000",
        f"a=fmtp:{repairs} apt={number}",
        f"a=ice-ufrag:{transport.ice_username}",
        f"a=ice-pwd:{transport.ice_password}",
        *(f"a=fingerprint:{algorithm} {digest}" for algorithm, digest in transport.fingerprints),
        "a=setup:actpass",
        *(f"a=candidate:{candidate}" for candidate in transport.candidates),
        # Without the line the other side goes on waiting for candidates, and learns ours from its checks.
        *(["a=end-of-candidates"] if transport.candidates else []),
    ]
    if codec == "H264":
        lines.append(f"a=fmtp:{number} level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f")
    if sources is not None:
        lines.append(f"a=ssrc-group:FID {sources[0]} {sources[1]}")
        lines += [f"a=ssrc:{source} cname:bench" for source in sources]
    return "\r\n".join(lines) + "\r\n"


_NOWHERE = MediaSection("video", 9, "", (), None, "sendonly", (), "", "", (), "actpass", (), {})

__all__ = ["Camera", "MarkerViewer", "PictureViewer", "clock", "until"]
