"""`sdstream publish`: a test camera that sends a file or a generated picture to a WHIP URL."""

import asyncio
import contextlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from rich.console import Console

from sdstream.commands.camera import CameraTrack, Codec, FilePictures, PictureSource, TestCard
from sdstream.commands.picture_session import PictureSession
from sdstream.commands.running import cancel_on_termination
from sdstream.commands.stamp import takes_stamp
from sdstream.commands.whip import WhipSession
from sdstream.errors import CommandFailed, ConfigurationError
from sdstream.frames import PictureSize
from sdstream.media.files.reader import VideoFacts, VideoReader
from sdstream.urls import split_url

LINGER_SECONDS = 0.5
"""How long the last packets may travel before the session is ended."""
TEST_CARD_SIZE = PictureSize(512, 512)
RANGES = {"fps": (0.1, 240), "width": (2, 8192), "height": (2, 8192), "bitrate": (1000, 1_000_000_000)}
"""What a camera can be asked for; at a million pictures a second it would make nothing but late ones."""

AnySession = WhipSession | PictureSession


@dataclass(frozen=True, slots=True)
class PublishReport:
    """What was sent. `round_trip` is seconds, None before the first RTCP report."""

    frames: int
    keyframes: int
    late: int
    dropped: int
    bytes: int
    packets: int
    packets_lost: int
    round_trip: float | None
    seconds: float
    codec: str
    width: int
    height: int
    playback_url: str | None


def publish(
    source: Annotated[str, Parameter(name="FILE", help="A video file, or `testsrc` for colour bars.")],
    /,
    *,
    url: Annotated[str, Parameter(help="The stream's WHIP URL, `whip_url` in the answer to a create.")],
    key: Annotated[str | None, Parameter(help="Bearer key, for servers that ask for one on WHIP.")] = None,
    loop: Annotated[bool, Parameter(help="Start the file again at its end.", negative=())] = False,
    fps: Annotated[float | None, Parameter(help="Pictures a second; default: the file's own, or 30.")] = None,
    duration: Annotated[
        float | None, Parameter(help="Seconds to send; default: the file's length, or for ever.")
    ] = None,
    width: Annotated[int | None, Parameter(help="Width in pixels; default: the file's, or 512.")] = None,
    height: Annotated[int | None, Parameter(help="Height in pixels; default: the file's, or 512.")] = None,
    codec: Annotated[
        Codec, Parameter(help="Video codec to offer; `jpeg` sends whole pictures over a WebSocket, without WebRTC.")
    ] = "h264",
    bitrate: Annotated[int, Parameter(help="Bits a second.")] = 2_500_000,
    numbered: Annotated[
        bool, Parameter(help="Draw each picture's number into it as black and white cells.", negative=())
    ] = False,
    report: Annotated[Literal["text", "json"], Parameter(help="How to print what was sent.")] = "text",
) -> int:
    """Send a video file or a test picture to a WHIP URL, as a camera does.

    Sends pictures only, no sound; leaves out those that are late by more than a second. Ends the session at the end of
    the file, after --duration, or on Ctrl-C.
    """
    check_numbers({"fps": fps, "duration": duration, "width": width, "height": height, "bitrate": bitrate})
    check_url(url)
    if key is not None and not (key.isascii() and key.isprintable()):
        raise ConfigurationError("--key has a character that no key has", hint="")
    with contextlib.ExitStack() as stack:
        if source == "testsrc":
            size = choose_size(None, width, height)
            pictures: PictureSource = TestCard(size, fps or 30.0)
        else:
            reader = stack.enter_context(VideoReader(Path(source)))
            size = choose_size(reader.facts(), width, height)
            pictures = FilePictures(reader, size, fps, loop=loop)
        if numbered and not takes_stamp(size.width, size.height):
            raise ConfigurationError(f"--numbered: a picture of {size} is too small for a number", hint="")
        session = PictureSession(url, key) if codec == "jpeg" else WhipSession(url, key, codec)
        track_options = {"duration": duration, "numbered": numbered}
        sent = asyncio.run(_publish(session, pictures, size, bitrate, track_options))
    _print_report(sent, as_json=report == "json")
    return 0


async def _publish(
    session: WhipSession | PictureSession,
    pictures: PictureSource,
    size: PictureSize,
    bitrate: int,
    options: Mapping[str, Any],
) -> PublishReport:
    loop = asyncio.get_running_loop()
    cancel_on_termination()
    track = CameraTrack(pictures, session.codec, bitrate, **options)
    console = Console(stderr=True, highlight=False, markup=False)
    started, ended = loop.time(), 0.0
    interrupted = False
    try:
        try:
            await session.open(track)
            started = loop.time()
            console.print(f"Sending {size} at {pictures.rate:g} pictures a second. Ctrl-C ends.")
            if session.playback_url:
                console.print(f"Watch (WHEP): {session.playback_url}", soft_wrap=True)
            await _until_ended(session, track, console)
            ended = loop.time()
            await asyncio.sleep(LINGER_SECONDS)
        except asyncio.CancelledError:
            interrupted = True
        ended = ended or loop.time()
        sent = await session.sent()
    finally:
        await track.close()
        await session.close()
    if track.failure is not None:
        raise track.failure
    if interrupted and track.sent == 0:
        raise KeyboardInterrupt
    return PublishReport(
        frames=track.sent,
        keyframes=track.keyframes,
        late=track.late,
        dropped=track.dropped,
        bytes=sent.bytes,
        packets=sent.packets,
        packets_lost=sent.packets_lost,
        round_trip=sent.round_trip,
        seconds=round(ended - started, 3),
        codec=session.codec,
        width=size.width,
        height=size.height,
        playback_url=session.playback_url,
    )


async def _until_ended(session: AnySession, track: CameraTrack, console: Console) -> None:
    """Wait for the end of the track, showing a line of progress; raises `CommandFailed` when the server ends first."""
    loop = asyncio.get_running_loop()
    finished = asyncio.ensure_future(track.finished.wait())
    ended = asyncio.ensure_future(session.wait_ended())
    started, sent_before = loop.time(), 0
    try:
        with console.status("sending") as status:
            while True:
                await asyncio.wait({finished, ended}, timeout=1.0, return_when=asyncio.FIRST_COMPLETED)
                if finished.done():
                    return
                if ended.done():
                    words = f": {session.ending}" if session.ending else ""
                    raise CommandFailed(f"the server ended the session after {track.sent} pictures{words}")
                status.update(f"{loop.time() - started:.0f} s, {track.sent} pictures, {track.sent - sent_before}/s")
                sent_before = track.sent
    finally:
        finished.cancel()
        ended.cancel()


def choose_size(facts: VideoFacts | None, width: int | None, height: int | None) -> PictureSize:
    """The size to send: the file's or the test card's, or what was asked for; one side alone keeps the aspect."""
    source_width = facts.width if facts else TEST_CARD_SIZE.width
    source_height = facts.height if facts else TEST_CARD_SIZE.height
    if width and not height:
        height = round(width * source_height / source_width)
    elif height and not width:
        width = round(height * source_width / source_height)
    return PictureSize(max(2, (width or source_width) & ~1), max(2, (height or source_height) & ~1))


def check_numbers(numbers: Mapping[str, float | None]) -> None:
    """Raises `ConfigurationError` for a number that is given and lies outside its range, is not above zero or is
    infinite."""
    for name, value in numbers.items():
        least, most = RANGES.get(name, (0, math.inf))
        if value is None or (0 < value < math.inf and least <= value <= most):
            continue
        wanted = f"between {least} and {most}" if name in RANGES else "finite and above zero"
        raise ConfigurationError(f"--{name}: {value} is not {wanted}", hint="")


def check_url(url: str) -> None:
    """Raises `ConfigurationError` for what no http or https request can be sent to."""
    if split_url(url, ("http", "https")) is None:
        raise ConfigurationError(f"--url: {url} is not an http or https URL", hint="Copy `whip_url` of the stream.")


def _print_report(report: PublishReport, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(report)))
        return
    rate = report.frames / report.seconds if report.seconds else 0.0
    trip = f", round trip {report.round_trip * 1000:.0f} ms" if report.round_trip is not None else ""
    print(
        f"sent {report.frames} pictures ({report.keyframes} keyframes, {report.late} late) in {report.seconds:.1f} s"
        f"{f' and left {report.dropped} out that were too late' if report.dropped else ''}, "
        f"{rate:.1f} a second, {report.bytes / 1e6:.2f} MB; "
        f"{report.packets_lost} of {report.packets} packets lost{trip}"
    )


__all__ = ["PublishReport", "check_numbers", "check_url", "choose_size", "publish"]
