"""Clients on WebRTC stacks that are neither aiortc nor a browser's: libdatachannel, as OBS has it, and FFmpeg's own."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import av
import numpy
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.certificates import write_certificate
from tests.support.datachannel import datachannel, film
from tests.support.peers import Publisher, Viewer
from tests.support.pictures import TestCard
from tests.support.rest import Rest
from tests.support.sdks import missing_clients
from tests.support.waiting import alongside, eventually

RATE = 20
"""Pictures a second."""
SOUND_RATE = 48_000
libdatachannel = pytest.mark.skipif(missing_clients() is not None, reason=str(missing_clients()))
ffmpeg = pytest.mark.skipif("whip" not in av.formats_available, reason="PyAV's FFmpeg has no WHIP muxer")


@pytest.mark.node
@libdatachannel
async def test_obs_is_seen_although_it_makes_no_second_key_frame(rest: Rest) -> None:
    stream = await rest.create()
    units = film(TestCard().draw, 1200, rate=RATE)

    async def send() -> None:
        for number, unit in enumerate(units):
            await obs.send(unit, number / RATE)
            await asyncio.sleep(1 / RATE)

    async with datachannel("publish", stream["whip_url"]) as obs, Viewer(stream["whep_url"]) as viewer:
        assert obs.answer["answer"] == 201
        async with alongside(send()):
            seen = await viewer.wait(lambda picture: picture.number() is not None, what="a numbered card")
            assert seen.is_card()

            async def not_warned_of() -> bool:
                media = (await rest.status(stream["id"]))["media"]
                assert media["decode_errors"] == 0
                return media["warnings"] == []

            # That pictures are late on a busy machine is a warning too, but one that goes.
            await eventually(not_warned_of, what="a status without warnings")
    assert obs.deleted == 200
    await rest.wait_state(stream["id"], "OFFLINE")


@pytest.mark.node
@libdatachannel
async def test_libdatachannel_sees_the_pictures(rest: Rest) -> None:
    stream = await rest.create()
    async with Publisher(stream["whip_url"]), datachannel("view", stream["whep_url"]) as viewer:
        assert viewer.answer["answer"] == 201
        await viewer.wait("connected")
        seen = await eventually(
            lambda: next((picture for picture in viewer.pictures if picture.number() is not None), None),
            what=lambda: f"a numbered card among {len(viewer.pictures)} pictures",
        )
        assert seen.is_card()
        # Past the first reports of the server, which libdatachannel reads more strictly than others.
        before = len(viewer.pictures)
        await eventually(lambda: len(viewer.pictures) > before + 3 * RATE, what="three more seconds")
    assert viewer.deleted == 200


class FfmpegPublisher:
    """FFmpeg's WHIP muxer in a thread of its own: numbered cards and a tone, until the end of the context."""

    def __init__(self, url: str, certificate: dict[str, str]) -> None:
        self.error: Exception | None = None
        self._url = url
        self._certificate = certificate
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "FfmpegPublisher":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(20)

    def _run(self) -> None:
        try:
            with av.open(self._url, "w", format="whip", options=self._certificate) as output:
                self._publish(output)
        except OSError as error:
            self.error = error

    def _publish(self, output: Any) -> None:
        card = TestCard()
        video: Any = output.add_stream("libx264", rate=RATE)
        video.width, video.height, video.pix_fmt, video.profile = card.width, card.height, "yuv420p", "Baseline"
        video.options = {"preset": "ultrafast", "tune": "zerolatency", "g": "100000"}
        audio: Any = output.add_stream("libopus", rate=SOUND_RATE, layout="stereo")
        length = SOUND_RATE // RATE
        tone = numpy.sin(numpy.arange(length) * (440 * 2 * numpy.pi / SOUND_RATE)) * 8000
        for number in range(100 * RATE):
            if self._over.wait(1 / RATE):
                return
            picture = card.draw(number)
            picture.pts = number
            samples = numpy.repeat(tone.astype(numpy.int16), 2).reshape(1, -1)
            sound = av.AudioFrame.from_ndarray(samples, format="s16", layout="stereo")
            sound.sample_rate, sound.pts = SOUND_RATE, number * length
            output.mux([*video.encode(picture), *audio.encode(sound)])


def certificate(folder: Path, curve: ec.EllipticCurve) -> dict[str, str]:
    """The muxer's options for a certificate of its own signature."""
    files = write_certificate(folder, curve)
    return {"cert_file": str(files.certificate), "key_file": str(files.key)}


@ffmpeg
async def test_ffmpeg_publishes_pictures_and_sound_and_ends_its_session(rest: Rest, tmp_path: Path) -> None:
    stream = await rest.create()
    with FfmpegPublisher(stream["whip_url"], certificate(tmp_path, ec.SECP256R1())) as publisher:
        await rest.wait_state(stream["id"], "ONLINE")
        async with Viewer(stream["whep_url"]) as viewer:
            seen = await viewer.wait(lambda picture: picture.number() is not None, what="a numbered card")
            assert seen.is_card()

            async def heard() -> bool:
                return (await rest.status(stream["id"]))["media"]["sound"]["packets"] > RATE

            await eventually(heard, what="the tone")
    assert publisher.error is None
    await rest.wait_state(stream["id"], "OFFLINE")


@ffmpeg
async def test_a_certificate_that_openssl_refuses_is_named_in_the_status(rest: Rest, tmp_path: Path) -> None:
    """FFmpeg 8.1 with GnuTLS makes one of P-224 for itself where it is given none."""
    stream = await rest.create()
    with FfmpegPublisher(stream["whip_url"], certificate(tmp_path, ec.SECP224R1())) as publisher:
        await eventually(lambda: publisher.error, what="FFmpeg's error")
    reason = (await rest.status(stream["id"]))["reason"]
    assert "OpenSSL takes no certificate of the curve secp224r1, but one of P-256" in reason
