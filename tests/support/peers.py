"""WHIP publishers and WHEP viewers over real UDP: aiortc peers that send and read test cards."""

import asyncio
import contextlib
import fractions
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Literal

import aioice.ice
import av
import httpx
from aiortc import MediaStreamTrack, RTCConfiguration, RTCIceServer, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError
from aiortc.rtcrtpsender import RTCRtpSender
from av.video.frame import PictureType

from tests.support.offers import Edit, unchanged, without_candidates
from tests.support.pictures import Kind, Picture, TestCard, looks_like
from tests.support.plain_http import NO_TLS

CLOCK = fractions.Fraction(1, 90_000)
Codec = Literal["H264", "VP8"]
Draw = Callable[[int], av.VideoFrame]


def _loopback_only(use_ipv4: bool, use_ipv6: bool) -> list[str]:
    return ["127.0.0.1"]


# aioice leaves 127.0.0.1 out of its own candidates; these peers live on loopback and touch nothing else.
aioice.ice.get_host_addresses = _loopback_only


class CardTrack(MediaStreamTrack):
    """A camera that sees test cards: encodes them itself, so that slices and garbage are ours to choose.

    `draw` makes picture number N; a different size from one picture to the next starts a new encoder.
    `damage` may change the bytes of an encoded picture.
    """

    kind = "video"

    def __init__(
        self,
        draw: Draw,
        *,
        fps: float = 20.0,
        codec: Codec = "H264",
        slices: int = 1,
        keyframe_every: int = 20,
        limit: int | None = None,
    ) -> None:
        super().__init__()
        self.draw = draw
        self.fps = fps
        self.codec = codec
        self.slices = slices
        self.keyframe_every = keyframe_every
        self.limit = limit
        self.sent = 0
        self.damage: Callable[[bytes], bytes] = lambda data: data
        self.paused = False
        self._encoder: Any = None
        self._started: float | None = None
        self._ticks = 0
        self._sender: RTCRtpSender | None = None
        self._wants_keyframe = False

    def obey(self, sender: RTCRtpSender) -> None:
        """Make a keyframe when the server asks `sender` for one."""

        def wanted() -> None:
            self._wants_keyframe = True

        sender._send_keyframe = wanted  # pyright: ignore[reportAttributeAccessIssue]

    async def recv(self) -> av.Packet:
        while True:
            if self._started is None:
                self._started = time.monotonic()
            await asyncio.sleep(max(0.0, self._started + self._ticks / self.fps - time.monotonic()))
            self._ticks += 1
            if self.readyState != "live":
                raise MediaStreamError
            if self.paused or (self.limit is not None and self.sent >= self.limit):
                continue
            data = self._encode(self.draw(self.sent))
            self.sent += 1
            packet = av.Packet(self.damage(data))
            packet.pts = round(self._ticks / self.fps / CLOCK)
            packet.time_base = CLOCK
            return packet

    def _encode(self, frame: av.VideoFrame) -> bytes:
        if self._encoder is None or (self._encoder.width, self._encoder.height) != (frame.width, frame.height):
            self._encoder = self._make_encoder(frame.width, frame.height)
        key = self._wants_keyframe or self.sent % self.keyframe_every == 0
        self._wants_keyframe = False
        frame.pts = self.sent
        frame.pict_type = PictureType.I if key else PictureType.NONE
        return b"".join(bytes(packet) for packet in self._encoder.encode(frame))

    def _make_encoder(self, width: int, height: int) -> Any:
        if self.codec == "H264":
            encoder = av.CodecContext.create("libx264", "w")
            options = {"preset": "ultrafast", "tune": "zerolatency", "forced-idr": "1"}
            if self.slices > 1:
                # As OBS does: sliced threads cut each picture into this many NAL units.
                options["x264-params"] = f"sliced-threads=1:threads={self.slices}:slices={self.slices}"
            encoder.options = options
            encoder.profile = "Baseline"
        else:
            encoder = av.CodecContext.create("libvpx", "w")
            encoder.thread_count = (
                1  # several wait for each other by spinning: on a busy machine, for seconds a picture
            )
            # Below 0, for above it libvpx spares effort, and so colours, when the machine is busy.
            encoder.options = {"deadline": "realtime", "cpu-used": "-8", "lag-in-frames": "0", "error-resilient": "1"}
        encoder.width, encoder.height = width, height
        encoder.pix_fmt = "yuv420p"
        encoder.bit_rate = 2_000_000
        encoder.framerate = fractions.Fraction(round(self.fps))
        encoder.time_base = fractions.Fraction(1, round(self.fps))
        return encoder


class Peer:
    """What publishers and viewers share: one offer, one answer, one session URL."""

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        edit: Edit = without_candidates,
        ice_servers: Sequence[RTCIceServer] = (),
    ) -> None:
        self.url = url
        self.edit = edit
        self.headers = {"Content-Type": "application/sdp"} | ({"Authorization": f"Bearer {key}"} if key else {})
        self.connection = RTCPeerConnection(RTCConfiguration(iceServers=list(ice_servers)))
        self.offer = ""
        self.response: httpx.Response | None = None
        self.tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Any:
        try:
            await self.open()
        except BaseException:
            await self.close(delete=False)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def prepare(self) -> str:
        """Make the offer; the same one can be posted again and again."""
        if not self.offer:
            self.arrange()
            await self.connection.setLocalDescription(await self.connection.createOffer())
            self.offer = self.edit(self.connection.localDescription.sdp)
        return self.offer

    def arrange(self) -> None:
        """Add the sections of the offer."""
        raise NotImplementedError

    async def post(self) -> httpx.Response:
        """Post the offer, whatever the answer."""
        offer = await self.prepare()
        async with httpx.AsyncClient(timeout=15, follow_redirects=False, verify=NO_TLS) as http:
            return await http.post(self.url, content=offer, headers=self.headers)

    async def open(self) -> None:
        """Post the offer and insist on a 201."""
        await self.accept(await self.post())

    async def accept(self, response: httpx.Response) -> None:
        """Take the answer and start."""
        assert response.status_code == 201, f"{self.url}: {response.status_code} {response.text[:500]}"
        self.response = response
        await self.connection.setRemoteDescription(RTCSessionDescription(response.text, "answer"))
        self.started()

    def started(self) -> None:
        """Called once the answer is in force."""

    @property
    def answer(self) -> str:
        assert self.response is not None
        return self.response.text

    @property
    def session_url(self) -> str:
        """The absolute `Location` of the session."""
        assert self.response is not None
        return str(httpx.URL(self.url).join(self.response.headers["location"]))

    @property
    def state(self) -> str:
        return self.connection.connectionState

    async def delete(self) -> httpx.Response:
        """End the session by its URL."""
        async with httpx.AsyncClient(timeout=15, verify=NO_TLS) as http:
            return await http.delete(self.session_url)

    async def close(self, *, delete: bool = True) -> None:
        """Go; with `delete` also end the session by its URL, as the browser client does."""
        if delete and self.response is not None and "location" in self.response.headers:
            with contextlib.suppress(httpx.TransportError):
                await self.delete()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.connection.close()

    def vanish(self) -> None:
        """Stop answering from one moment to the next, as a machine that lost its power does."""
        for transceiver in self.connection.getTransceivers():
            ice = transceiver.sender.transport.transport
            for protocol in ice._connection._protocols:
                protocol.transport.abort()

    async def wait_connected(self, seconds: float = 30.0) -> None:
        """Wait until ICE and DTLS are done."""
        deadline = time.monotonic() + seconds
        while self.state != "connected":
            assert time.monotonic() < deadline, f"still {self.state} after {seconds} s"
            await asyncio.sleep(0.02)


class Publisher(Peer):
    """Sends test cards to a WHIP URL. `audio` adds an audio section that never carries a packet.

    `offered` are the codecs of the offer in order, by default only the one that is sent.
    """

    def __init__(
        self,
        url: str,
        *,
        width: int = 384,
        height: int = 384,
        fps: float = 20.0,
        codec: Codec = "H264",
        slices: int = 1,
        offered: tuple[str, ...] = (),
        audio: bool = False,
        track: CardTrack | None = None,
        key: str | None = None,
        edit: Edit = without_candidates,
        ice_servers: Sequence[RTCIceServer] = (),
    ) -> None:
        super().__init__(url, key=key, edit=edit, ice_servers=ice_servers)
        self.audio = audio
        self.track = track or CardTrack(TestCard(width, height).draw, fps=fps, codec=codec, slices=slices)
        self.offered = offered or (self.track.codec,)

    def arrange(self) -> None:
        transceiver = self.connection.addTransceiver(self.track, direction="sendonly")
        self.track.obey(transceiver.sender)
        transceiver.setCodecPreferences(_codecs(self.offered))
        if self.audio:
            self.connection.addTransceiver("audio", direction="sendonly")

    @property
    def whep_url(self) -> str:
        """The playback URL of the answer, which every Daydream client reads from this header."""
        assert self.response is not None
        return self.response.headers["livepeer-playback-url"]


class Viewer(Peer):
    """Reads the pictures of a WHEP URL; `newest` is the last one, `arrivals` the moments of all."""

    def __init__(
        self,
        url: str,
        *,
        audio: bool = True,
        codecs: tuple[str, ...] = (),
        key: str | None = None,
        edit: Edit = without_candidates,
        ice_servers: Sequence[RTCIceServer] = (),
    ) -> None:
        super().__init__(url, key=key, edit=edit, ice_servers=ice_servers)
        self.audio = audio
        self.codecs = codecs
        self.newest: Picture | None = None
        self.count = 0
        self.arrivals: deque[float] = deque(maxlen=10_000)
        self.on_picture: Callable[[Picture], None] = lambda picture: None
        self._arrived = asyncio.Event()

    def arrange(self) -> None:
        transceiver = self.connection.addTransceiver("video", direction="recvonly")
        if self.codecs:
            transceiver.setCodecPreferences(_codecs(self.codecs))
        if self.audio:
            self.connection.addTransceiver("audio", direction="recvonly")

    def started(self) -> None:
        receiver = next(item.receiver for item in self.connection.getTransceivers() if item.kind == "video")
        self.tasks.append(asyncio.get_running_loop().create_task(self._read(receiver.track)))

    async def _read(self, track: MediaStreamTrack) -> None:
        while True:
            try:
                frame = await track.recv()
            except MediaStreamError:
                return
            assert isinstance(frame, av.VideoFrame)
            self.newest = Picture(frame, time.monotonic())
            self.count += 1
            self.arrivals.append(self.newest.at)
            self.on_picture(self.newest)
            self._arrived.set()

    async def wait(self, wanted: Callable[[Picture], bool], *, seconds: float = 15.0, what: str = "") -> Picture:
        """The first picture from now on that is `wanted`."""
        deadline = time.monotonic() + seconds
        seen = 0
        while True:
            self._arrived.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._arrived.wait(), max(0.001, deadline - time.monotonic()))
            if self._arrived.is_set() and self.newest is not None:
                seen += 1
                if wanted(self.newest):
                    return self.newest
            if time.monotonic() >= deadline:
                raise AssertionError(
                    f"no picture of the wanted kind ({what}) among {seen} in {seconds} s; {self.describe()}"
                )

    async def wait_kind(self, kind: Kind, *, seconds: float = 15.0) -> Picture:
        """The first picture from now on that looks like `kind`."""
        return await self.wait(lambda picture: looks_like(kind, picture), seconds=seconds, what=kind)

    def describe(self) -> str:
        """What the newest picture looks like, for a failure's message."""
        if self.newest is None:
            return f"none ever came, the connection is {self.state}"
        picture = self.newest
        return (
            f"the newest is {picture.size}, corners off by {picture.corner_error():.0f}, number {picture.number()}, "
            f"edge step {picture.edge_step():.0f}, {time.monotonic() - picture.at:.1f} s old, connection {self.state}"
        )

    def longest_gap(self, since: float, until: float | None = None) -> float:
        """Longest time without a picture between the moments `since` and `until` (now).

        Of the worker it tells nothing: the encoder repeats what it made last (`outputs.py` looks at that). And it is
        for pictures of ordinary bitrates: aiortc asks for 128 lost packets at most, and one more leaves it waiting for
        two keyframes.
        """
        end = time.monotonic() if until is None else until
        moments = [since, *(moment for moment in self.arrivals if since <= moment <= end), end]
        return max(later - earlier for earlier, later in itertools.pairwise(moments))


def _codecs(names: tuple[str, ...]) -> list[Any]:
    known = RTCRtpSender.getCapabilities("video").codecs
    return [codec for name in names for codec in known if codec.mimeType == f"video/{name}"]


async def bare_offer(*, audio: bool = False) -> str:
    """A publisher's offer with nobody behind it."""
    peer = Publisher("http://unused", audio=audio)
    try:
        return await peer.prepare()
    finally:
        await peer.close(delete=False)


@contextlib.contextmanager
def preserved(*peers: Peer) -> Iterator[None]:
    """Insist that these peers stay connected meanwhile."""
    for peer in peers:
        assert peer.state == "connected"
    yield
    for peer in peers:
        assert peer.state == "connected", f"{type(peer).__name__} is {peer.state}"


__all__ = ["CardTrack", "Peer", "Publisher", "Viewer", "bare_offer", "preserved", "unchanged"]
