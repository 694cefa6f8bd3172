"""A real Chromium in front of a pod that lets no UDP in: it finds the TURN server by itself."""

from pathlib import Path

import pytest

from tests.playground.browser import PlaygroundPage, launched
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
    with launched() as browser:
        context = browser.new_context(viewport={"width": 1440, "height": 900})
        context.add_init_script(REMEMBER_PEERS)
        playground = PlaygroundPage(context, pod_server).open()
        playground.element("connection").select_option("webrtc")  # however long it takes
        playground.choose_source("test")
        playground.start()
        begun = playground.output_time()
        playground.until(lambda: playground.output_time() > begun + 1.0, what="the output to go on playing")
        relays = playground.page.evaluate(CONNECTIONS)
        playground.page.screenshot(path=artifacts / "pod.png")
        playground.stop()
        assert playground.complaints == []
        context.close()
    assert set(relays) == {"tcp"}, "the publisher's and the player's TURN connections"
    assert len(relays) >= 2
