"""A plain HTTP client of a live server, for what the SDKs cannot send or would hide."""

import json
from types import TracebackType
from typing import Any

import httpx

from tests.support.plain_http import NO_TLS
from tests.support.server import LiveServer
from tests.support.waiting import eventually

MODELS = ("stabilityai/sd-turbo", "stabilityai/sdxl-turbo", "Lykon/dreamshaper-8", "prompthero/openjourney-v4")
STREAM_MEMBERS = (
    "id",
    "stream_key",
    "created_at",
    "pipeline",
    "params",
    "name",
    "author",
    "from_playground",
    "gateway_host",
    "is_smoke_test",
    "output_playback_id",
    "output_stream_url",
    "whip_url",
)
SHARED_PARAMS = (
    "model_id",
    "prompt",
    "prompt_interpolation_method",
    "normalize_prompt_weights",
    "negative_prompt",
    "guidance_scale",
    "delta",
    "num_inference_steps",
    "t_index_list",
    "seed",
    "seed_interpolation_method",
    "normalize_seed_weights",
    "width",
    "height",
    "use_safety_checker",
    "lora_dict",
    "use_lcm_lora",
    "lcm_lora_id",
    "acceleration",
    "use_denoising_batch",
    "do_add_noise",
    "enable_similar_image_filter",
    "similar_image_filter_threshold",
    "similar_image_filter_max_skip_frame",
    "skip_diffusion",
    "image_preprocessing",
    "image_postprocessing",
    "latent_preprocessing",
    "latent_postprocessing",
    "controlnets",
)
ADAPTER_PARAMS = ("ip_adapter", "ip_adapter_style_image_url", "cached_attention")
ERROR_MEMBERS = {"success", "error", "code", "status", "details", "requestId", "traceId"}
SMALL = {"model_id": "stabilityai/sd-turbo", "skip_diffusion": True, "width": 384, "height": 384}
"""The params of the streams that carry pictures in these tests: no weights, few pixels."""


def block(*processors: str | dict[str, Any]) -> dict[str, Any]:
    """A processing block: `block("canny")`, or with full entries."""
    return {
        "processors": [{"type": processor} if isinstance(processor, str) else processor for processor in processors]
    }


class Rest:
    """Calls the API with the server's key; deletes on exit every stream it has created."""

    def __init__(self, server: LiveServer, key: str | None = None) -> None:
        self.server = server
        self.key = server.key if key is None else key
        common: Any = {"base_url": server.url, "timeout": 30, "follow_redirects": False, "verify": NO_TLS}
        self.http = httpx.AsyncClient(headers={"Authorization": f"Bearer {self.key}"}, **common)
        self.anonymous = httpx.AsyncClient(**common)
        self.created: list[str] = []

    async def __aenter__(self) -> "Rest":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for stream_id in self.created:
            try:
                await self.http.delete("/v1/streams", params={"id": stream_id})
            except httpx.TransportError:
                break  # the test has ended the server
        await self.http.aclose()
        await self.anonymous.aclose()

    def remember(self, body: Any) -> None:
        """Delete this stream at the end, should `body` be one."""
        if isinstance(body, dict) and isinstance(body.get("id"), str):
            self.created.append(body["id"])

    async def post_stream(self, body: Any) -> httpx.Response:
        """Send any create body."""
        response = await self.http.post("/v1/streams", json=body)
        if response.status_code == 201:
            self.remember(response.json())
        return response

    async def create(self, params: dict[str, Any] | None = None, **members: Any) -> dict[str, Any]:
        """Create a stream that must succeed; `members` go beside `params`."""
        body = {"pipeline": "streamdiffusion", "params": params or SMALL} | members
        response = await self.post_stream(body)
        assert response.status_code == 201, response.text
        return response.json()

    async def get(self, stream_id: str) -> dict[str, Any]:
        response = await self.http.get(f"/v1/streams/{stream_id}")
        assert response.status_code == 200, response.text
        return response.json()

    async def patch(self, stream_id: str, params: dict[str, Any], **members: Any) -> httpx.Response:
        return await self.http.patch(f"/v1/streams/{stream_id}", json={"params": params} | members)

    async def change(self, stream_id: str, params: dict[str, Any]) -> dict[str, Any]:
        """A PATCH that must succeed."""
        response = await self.patch(stream_id, params)
        assert response.status_code == 200, response.text
        return response.json()

    async def status(self, stream_id: str) -> dict[str, Any]:
        """The `data` of the stream's status."""
        response = await self.http.get(f"/v1/streams/{stream_id}/status")
        assert response.status_code == 200, response.text
        return response.json()["data"]

    async def wait_state(self, stream_id: str, *states: str, seconds: float = 30.0) -> dict[str, Any]:
        """Wait until the stream is in one of `states`; returns the status data."""
        last: dict[str, Any] = {}

        async def probe() -> bool:
            last.update(await self.status(stream_id))
            return last["state"] in states

        await eventually(
            probe,
            seconds=seconds,
            what=lambda: f"state {'/'.join(states)}; it is {last.get('state')}: {last.get('reason')}",
        )
        return last


def whep_of(rest: Rest, stream: dict[str, Any]) -> str:
    """The stream's playback URL, which is good before anybody publishes."""
    return f"{rest.server.url}/playback/{stream['output_playback_id']}/whep"


def check_error(response: httpx.Response, status: int, code: str | None = None) -> dict[str, Any]:
    """Insist on the seven-key envelope of an error; returns it."""
    assert response.status_code == status, f"{response.status_code}: {response.text[:500]}"
    assert response.headers["content-type"].split(";")[0] == "application/json"
    body = response.json()
    assert set(body) == ERROR_MEMBERS
    assert body["success"] is False
    assert body["status"] == status
    assert isinstance(body["error"], str)
    assert body["error"]
    assert isinstance(body["code"], str)
    assert body["requestId"] is None or isinstance(body["requestId"], str)
    assert body["traceId"] is None or isinstance(body["traceId"], str)
    if code is not None:
        assert body["code"] == code
    return body


def fields_of(error: dict[str, Any]) -> list[str]:
    """The names of the fields that an error's `details` complain of."""
    assert isinstance(error["details"], list), json.dumps(error)
    return [entry["field"] for entry in error["details"]]
