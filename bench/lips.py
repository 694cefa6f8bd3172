"""Lips in a browser: how far sound and picture of a WHEP viewer lie apart while the latency of the pictures jumps.

    python -m bench.lips [--seconds 15] [--json FILE]

A camera that flashes and beeps each 1.2 seconds, a pipeline that holds each picture for 20, 400 and 20 ms, and headless
Chromium. Two numbers, both in milliseconds by which the picture is ahead of the sound (behind it: below zero): once a
second by Chromium's own statistics (`estimatedPlayoutTimestamp`, which follow the sender reports), and for each flash
that the page sees, when it hears the beep. The page hears by Web Audio, a few milliseconds after it plays.
Exits with 1 when the statistics find more than 40 ms apart later than three seconds after a jump: before, it is being
found out.
"""

import argparse
import asyncio
import json
import tempfile
from collections.abc import Sequence
from typing import Any

from playwright.async_api import Page, async_playwright

from bench.support.targets import conditions
from sdstream.clock import SystemClock
from sdstream.media.embedded import EmbeddedMedia
from tests.media.clients import make_settings
from tests.media.flash import SIZE, DelayedEcho, FlashingCamera
from tests.support.browser import FLAGS, NO_CHROMIUM, chromium

DELAYS = (0.02, 0.4, 0.02)
PERIOD = 1.2
"""Seconds from flash to flash: what is apart by less than half of it can be told."""
MOST_APART = 40
SETTLED_SECONDS = 3
BEGIN_SECONDS = 12
"""Chromium's buffers have found their lengths: before, the first delay says nothing of jumps."""
PAGE = """
<video id="video" muted autoplay playsinline></video>
<script>
  let connection;
  async function makeOffer() {
    connection = new RTCPeerConnection();
    for (const kind of ["video", "audio"]) connection.addTransceiver(kind, { direction: "recvonly" });
    const stream = new MediaStream();
    connection.ontrack = ({ track }) => {
      stream.addTrack(track);
      document.getElementById("video").srcObject = stream;
      if (track.kind === "audio") listen(new MediaStream([track]));
    };
    await connection.setLocalDescription(await connection.createOffer());
    const lines = connection.localDescription.sdp.split("\\r\\n");
    return lines.filter((line) => !line.startsWith("a=candidate")).join("\\r\\n");
  }
  const flashes = [], beeps = [];
  const onset = (moments) => {
    let before = true;
    return (now, moment) => {
      if (now && !before) moments.push(moment);
      before = now;
    };
  };
  function look() {
    const video = document.getElementById("video"), flash = onset(flashes);
    const paper = new OffscreenCanvas(8, 8).getContext("2d", { willReadFrequently: true });
    const see = (_, { expectedDisplayTime }) => {
      paper.drawImage(video, 0, 0, 8, 8);
      flash(paper.getImageData(4, 4, 1, 1).data[0] > 120, expectedDisplayTime);
      video.requestVideoFrameCallback(see);
    };
    video.requestVideoFrameCallback(see);
  }
  function listen(stream) {
    const context = new AudioContext(), beep = onset(beeps);
    const ear = context.createScriptProcessor(256, 1, 1);
    ear.onaudioprocess = ({ inputBuffer }) => {
      beep(inputBuffer.getChannelData(0).some((value) => Math.abs(value) > 0.1), performance.now());
    };
    context.createMediaStreamSource(stream).connect(ear).connect(context.destination);
  }
  const take = (sdp) => connection.setRemoteDescription({ type: "answer", sdp });
  const noticed = () => ({ now: performance.now(), flashes: flashes.splice(0), beeps: beeps.splice(0) });
  async function apart() {
    const moments = {};
    for (const report of (await connection.getStats()).values())
      if (report.type === "inbound-rtp") moments[report.kind] = report.estimatedPlayoutTimestamp;
    return moments.video && moments.audio ? moments.video - moments.audio : null;
  }
</script>
"""


async def measure(
    seconds: int, delays: Sequence[float] = DELAYS, begin_seconds: float = BEGIN_SECONDS
) -> list[dict[str, Any]]:
    """A row for each delay: `delay_ms`, `apart_ms` with one value a second, and `seen`, the result of `pairs`."""
    path = chromium()
    if path is None:
        raise SystemExit(NO_CHROMIUM)
    media = EmbeddedMedia(make_settings(), SystemClock())
    await media.start()
    echo = DelayedEcho(delays[0])
    echo.stream = await media.open_stream("stream", SIZE, echo)
    try:
        with tempfile.TemporaryDirectory() as profile:
            async with FlashingCamera(echo.stream, period=PERIOD), async_playwright() as playwright:
                context = await playwright.chromium.launch_persistent_context(
                    profile, executable_path=path, headless=True, args=list(FLAGS)
                )
                page = context.pages[0]
                await page.set_content(PAGE)
                answer = await echo.stream.watch(await page.evaluate("makeOffer()"))
                await page.evaluate("sdp => { look(); return take(sdp); }", answer.sdp)
                await asyncio.sleep(begin_seconds)
                rows = [await step(page, echo, delay, seconds) for delay in delays]
                await context.close()
                return rows
    finally:
        await media.close()


async def step(page: Page, echo: DelayedEcho, delay: float, seconds: int) -> dict[str, Any]:
    began = (await page.evaluate("noticed()"))["now"]
    echo.delay = delay
    values: list[int | None] = []
    for _ in range(seconds):
        await asyncio.sleep(1)
        apart = await page.evaluate("apart()")
        values.append(None if apart is None else round(apart))
    seen = pairs(await page.evaluate("noticed()"), began)
    print(f"{1000 * delay:>4.0f} ms: {values}\n         {seen}", flush=True)
    return {"delay_ms": 1000 * delay, "apart_ms": values, "seen": seen}


def pairs(noticed: dict[str, Any], began: float) -> list[tuple[float, int | None]]:
    """For each flash the seconds after the jump, and the milliseconds until its beep; None where none was heard."""
    found: list[tuple[float, int | None]] = []
    for flash in noticed["flashes"]:
        apart = min((beep - flash for beep in noticed["beeps"]), key=abs, default=None)
        near = apart is not None and abs(apart) < 500 * PERIOD
        found.append((round((flash - began) / 1000, 1), round(apart) if near and apart is not None else None))
    return found


def judge(rows: list[dict[str, Any]]) -> list[str]:
    """Where sound and picture stayed apart."""
    return [
        f"{apart} ms apart {second} s after the jump to {row['delay_ms']:.0f} ms"
        for row in rows
        for second, apart in enumerate(row["apart_ms"], 1)
        if second > SETTLED_SECONDS and (apart is None or abs(apart) > MOST_APART)
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=15, help="for each delay")
    parser.add_argument("--json", help="write the figures to this file")
    options = parser.parse_args()
    rows = asyncio.run(measure(options.seconds))
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({**conditions(), "rows": rows}, file, indent=2)
    missed = judge(rows)
    print("in step" if not missed else "\n".join(missed))
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
