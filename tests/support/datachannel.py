"""WHIP publishers and WHEP viewers on libdatachannel, which OBS has its WebRTC from: tests/clients/datachannel.mjs."""

import asyncio
import base64
import contextlib
import json
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import av
from aiortc.codecs.h264 import h264_depayload
from aiortc.rtp import RtpPacket
from av.error import InvalidDataError

from tests.support.pictures import Picture
from tests.support.sdks import CLIENTS
from tests.support.waiting import eventually

CLOCK = 90_000


@dataclass
class DataChannelPeer:
    """A process with one session. What it told: `answer`, its `states`, received `pictures`, kinds of RTCP packets."""

    process: asyncio.subprocess.Process
    answer: dict[str, Any] = field(default_factory=dict[str, Any])
    states: list[str] = field(default_factory=list[str])
    controls: list[int] = field(default_factory=list[int])
    pictures: list[Picture] = field(default_factory=list[Picture])
    deleted: int | None = None
    _decoder: Any = field(default_factory=lambda: av.CodecContext.create("h264", "r"))
    _unit: bytes = b""

    async def send(self, unit: bytes, seconds: float) -> None:
        """Send one access unit of H.264 with start codes; before the connection is up it waits there."""
        assert self.process.stdin is not None
        self.process.stdin.write(struct.pack(">II", len(unit), round(seconds * CLOCK)) + unit)
        await self.process.stdin.drain()

    async def wait(self, state: str) -> None:
        await eventually(lambda: state in self.states, what=lambda: f"{state} after {self.states}")

    async def leave(self) -> None:
        """End the session by its URL, and the process."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        await self.process.wait()

    async def listen(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            event = json.loads(line)
            if "packet" in event:
                self._take(RtpPacket.parse(base64.b64decode(event["packet"])))
            elif "state" in event:
                self.states.append(event["state"])
            elif "control" in event:
                self.controls.append(event["control"])
            elif "answer" in event:
                self.answer = event
            else:
                self.deleted = event["deleted"]

    def _take(self, packet: RtpPacket) -> None:
        self._unit += h264_depayload(packet.payload)
        if not packet.marker:
            return
        unit, self._unit = self._unit, b""
        with contextlib.suppress(InvalidDataError):  # before the first key frame
            self.pictures += [Picture(frame) for frame in self._decoder.decode(av.Packet(unit))]


@contextlib.asynccontextmanager
async def datachannel(task: Literal["publish", "view"], url: str) -> AsyncIterator[DataChannelPeer]:
    """A peer that has posted its offer; its session is ended with the context."""
    process = await asyncio.create_subprocess_exec(
        "node",
        "datachannel.mjs",
        task,
        url,
        cwd=CLIENTS,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 20,
    )
    peer = DataChannelPeer(process)
    listener = asyncio.create_task(peer.listen())
    try:
        await eventually(lambda: peer.answer, what="an answer")
        yield peer
    finally:
        await peer.leave()
        await listener


def film(draw: Callable[[int], av.VideoFrame], count: int, *, rate: int = 20) -> list[bytes]:
    """`count` pictures as access units of H.264, of which the first alone is a key frame."""
    first = draw(0)
    encoder: Any = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = first.width, first.height, "yuv420p"
    encoder.framerate, encoder.bit_rate = rate, 2_000_000
    encoder.options = {"preset": "veryfast", "tune": "zerolatency", "g": "100000"}
    encoder.profile = "High"
    units: list[bytes] = []
    for number in range(count):
        frame = draw(number)
        frame.pts = number
        units += [bytes(packet) for packet in encoder.encode(frame)]
    return units + [bytes(packet) for packet in encoder.encode(None)]


__all__ = ["DataChannelPeer", "datachannel", "film"]
