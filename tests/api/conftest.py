"""An application over fake streams, called in the same process."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from sdstream.api import KeyRing, create_app
from sdstream.clock import ManualClock
from sdstream.settings import Settings
from tests.api.fakes import FakeStreams

KEY = "a-key-of-the-settings-that-is-long-enough"
CREATE = {"pipeline": "streamdiffusion", "params": {"model_id": "stabilityai/sdxl-turbo"}}
OFFER = "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\n"


@dataclass
class Site:
    """One application with its fake streams, keys and clock; `client` carries the operator's key."""

    app: FastAPI
    streams: FakeStreams
    keys: KeyRing
    clock: ManualClock
    settings: Settings
    clients: list[httpx.AsyncClient] = field(default_factory=list)

    def client_with(self, key: str | None, base_url: str = "http://media.example") -> httpx.AsyncClient:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        client = httpx.AsyncClient(transport=transport, base_url=base_url, headers=headers)
        self.clients.append(client)
        return client

    @property
    def client(self) -> httpx.AsyncClient:
        return self.client_with(KEY)

    async def create(self, **params: Any) -> dict[str, Any]:
        body = {"params": {**CREATE["params"], **params}}
        answer = await self.client.post("/v1/streams", json=body)
        assert answer.status_code == 201, answer.text
        return answer.json()

    async def publish(self, stream: dict[str, Any]) -> httpx.Response:
        return await self.client_with(None).post(
            stream["whip_url"], content=OFFER, headers={"Content-Type": "application/sdp"}
        )


@pytest.fixture
async def make_site(tmp_path: Path) -> AsyncIterator[Callable[..., Site]]:
    """`make_site(max_body_bytes=...)`: a site with these settings."""
    sites: list[Site] = []

    def make(**values: Any) -> Site:
        settings = Settings.model_validate({"api_keys": [KEY], **values})
        clock = ManualClock()
        streams = FakeStreams(settings, clock, tmp_path)
        keys = KeyRing.open(tmp_path, settings, clock)
        site = Site(create_app(streams, settings, keys, clock), streams, keys, clock, settings)
        sites.append(site)
        return site

    yield make
    for site in sites:
        for client in site.clients:
            await client.aclose()


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    return make_site()
