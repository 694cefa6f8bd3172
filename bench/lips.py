"""Lips in a browser: how far sound and picture of a WHEP viewer lie apart while the latency of the pictures jumps.

    python -m bench.lips [--seconds 15] [--json FILE]

A camera that flashes and beeps, a pipeline that holds each picture for 20, 400 and 20 ms, and headless Chromium, which
says of each track when what it plays was captured (`estimatedPlayoutTimestamp` of its statistics). One row a second:
milliseconds by which the picture is ahead of the sound (behind it: below zero). Reports; there is no goal, because what
happens in the seconds after a step is Chromium's own jitter buffer's doing.
"""

import argparse
import asyncio
import json
import tempfile
from typing import Any

from playwright.async_api import Page, async_playwright

from bench.support.targets import machine
from sdstream.clock import SystemClock
from sdstream.media.embedded import EmbeddedMedia
from tests.media.clients import make_settings
from tests.media.flash import SIZE, DelayedEcho, FlashingCamera
from tests.support.browser import FLAGS, NO_CHROMIUM, chromium

DELAYS = (0.02, 0.4, 0.02)
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
    };
    await connection.setLocalDescription(await connection.createOffer());
    const lines = connection.localDescription.sdp.split("\\r\\n");
    return lines.filter((line) => !line.startsWith("a=candidate")).join("\\r\\n");
  }
  const take = (sdp) => connection.setRemoteDescription({ type: "answer", sdp });
  async function apart() {
    const moments = {};
    for (const report of (await connection.getStats()).values())
      if (report.type === "inbound-rtp") moments[report.kind] = report.estimatedPlayoutTimestamp;
    return moments.video && moments.audio ? moments.video - moments.audio : null;
  }
</script>
"""


async def measure(seconds: int) -> list[dict[str, Any]]:
    """Rows of `delay_ms` and `apart_ms`, one value a second."""
    path = chromium()
    if path is None:
        raise SystemExit(NO_CHROMIUM)
    media = EmbeddedMedia(make_settings(), SystemClock())
    await media.start()
    echo = DelayedEcho(DELAYS[0])
    echo.stream = await media.open_stream("stream", SIZE, echo)
    try:
        with tempfile.TemporaryDirectory() as profile:
            async with FlashingCamera(echo.stream), async_playwright() as playwright:
                context = await playwright.chromium.launch_persistent_context(
                    profile, executable_path=path, headless=True, args=list(FLAGS)
                )
                page = context.pages[0]
                await page.set_content(PAGE)
                answer = await echo.stream.watch(await page.evaluate("makeOffer()"))
                await page.evaluate("sdp => take(sdp)", answer.sdp)
                rows = [await step(page, echo, delay, seconds) for delay in DELAYS]
                await context.close()
                return rows
    finally:
        await media.close()


async def step(page: Page, echo: DelayedEcho, delay: float, seconds: int) -> dict[str, Any]:
    echo.delay = delay
    values: list[int | None] = []
    for _ in range(seconds):
        await asyncio.sleep(1)
        apart = await page.evaluate("apart()")
        values.append(None if apart is None else round(apart))
    print(f"{1000 * delay:>4.0f} ms: {values}", flush=True)
    return {"delay_ms": 1000 * delay, "apart_ms": values}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=15, help="for each delay")
    parser.add_argument("--json", help="write the figures to this file")
    options = parser.parse_args()
    rows = asyncio.run(measure(options.seconds))
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"machine": machine(), "rows": rows}, file, indent=2)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
