"""Lips in headless Chromium: its jitter buffers do not grow by what a pipeline takes longer."""

import pytest

from bench.lips import measure
from tests.support.browser import NO_CHROMIUM, chromium

LEAST = 80
"""Milliseconds. With RTP clocks of captured time it is twice as much at best from the fourth second on."""


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.skipif(chromium() is None, reason=NO_CHROMIUM)
async def test_a_slower_pipeline_leads_no_browser_astray() -> None:
    before, after = await measure(7, (0.02, 0.4), begin_seconds=1)
    assert any(apart is not None for apart in before["apart_ms"]), before
    # The best of four seconds: where this machine itself stands still, Chromium takes that for a bad network.
    settled = [abs(apart) for apart in after["apart_ms"][3:] if apart is not None]
    assert min(settled) < LEAST, after
