"""One pod and one server in it for all tests of this folder."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.pod import Pod, make_pod, why_not
from tests.support.server import LiveServer

HTTP, TURN = 8080, 3478


class PodServer(LiveServer):
    """`sdstream serve` inside a pod, called from outside."""

    def __init__(self, folder: Path, pod: Pod, http: int = HTTP, **settings: object) -> None:
        super().__init__(folder, prefix=pod.prefix, environment=pod.environment, host="0.0.0.0", **settings)
        self.port = http
        self._outside = f"http://{pod.address}:{pod.ports[http]}"

    def _understand_lines(self) -> None:
        super()._understand_lines()
        self.url = self._outside


@pytest.fixture(scope="package")
def pod() -> Iterator[Pod]:
    if reason := why_not():
        pytest.skip(reason)
    if shutil.which("turnserver") is None:
        pytest.skip("coturn is not installed")
    with make_pod({HTTP: 18080, HTTP + 1: 18081, TURN: 13478}) as made:
        yield made


@pytest.fixture(scope="package")
def pod_server(pod: Pod, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    server = PodServer(tmp_path_factory.mktemp("pod"), pod).start()
    yield server
    server.stop()
