"""A real Chromium in front of a pod that lets no UDP in: it finds the TURN server by itself."""

from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from tests.playground.browser import PlaygroundPage
from tests.support.browser import FLAGS, NO_CHROMIUM, chromium
from tests.support.pod import Pod
from tests.support.server import LiveServer

pytestmark = [pytest.mark.browser, pytest.mark.slow]

CONNECTIONS = """async () => {
  const found = [];
  for (const peer of window.peers) {
    for (const entry of (await peer.getStats()).values()) {
      if (entry.type === "local-candidate" && entry.candidateType === "relay") found.push(entry.relayProtocol);
    }
  }
  return found;
}"""
REMEMBER_PEERS = """
window.peers = [];
window.RTCPeerConnection = class extends RTCPeerConnection {
  constructor(...given) { super(...given); window.peers.push(this); }
};
"""


def test_the_playground_works_through_one_tcp_port(pod: Pod, pod_server: LiveServer, artifacts: Path) -> None:
    path = chromium()
    if path is None:
        pytest.skip(NO_CHROMIUM)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, headless=True, args=list(FLAGS))
        context = browser.new_context(viewport={"width": 1440, "height": 900})
        context.add_init_script(REMEMBER_PEERS)
        playground = PlaygroundPage(context, pod_server).open()
        playground.choose_source("test")
        playground.start()
        begun = playground.output_time()
        playground.until(lambda: playground.output_time() > begun + 1.0, what="the output to go on playing")
        relays = playground.page.evaluate(CONNECTIONS)
        playground.page.screenshot(path=artifacts / "pod.png")
        playground.stop()
        assert playground.complaints == []
        context.close()
        browser.close()
    assert set(relays) == {"tcp"}, "the publisher's and the player's TURN connections"
    assert len(relays) >= 2
