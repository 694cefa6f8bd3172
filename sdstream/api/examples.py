"""The examples of the OpenAPI document; tests parse them through the same code as real requests and answers."""

from typing import Any

from sdstream.params import SdTurboParams, wire_params

CREATE_EXAMPLE: dict[str, Any] = {
    "pipeline": "streamdiffusion",
    "params": {"model_id": "stabilityai/sd-turbo", "prompt": "paper collage city", "seed": 42},
    "name": "my camera",
}

UPDATE_EXAMPLE: dict[str, Any] = {"pipeline": "streamdiffusion", "params": {"prompt": "neon rain"}}

STREAM_EXAMPLE: dict[str, Any] = {
    "id": "str_9vT2kQ4mZ7",
    "stream_key": "stk_p3Xw81LbRe",
    "created_at": "2026-02-03T10:20:30.000Z",
    "pipeline": "streamdiffusion",
    "params": wire_params(SdTurboParams(model_id="stabilityai/sd-turbo", prompt="paper collage city", seed=42)),
    "name": "my camera",
    "author": "usr_5d1f0c3a9b27",
    "from_playground": False,
    "gateway_host": "video.example.org",
    "is_smoke_test": False,
    "output_playback_id": "pb_7Yc0dN",
    "output_stream_url": "https://video.example.org/playback/pb_7Yc0dN/whep",
    "whip_url": "https://video.example.org/live/video-to-video/stk_p3Xw81LbRe/whip",
    "whep_url": "https://video.example.org/playback/pb_7Yc0dN/whep",
    "hls_url": "https://video.example.org/hls/pb_7Yc0dN/index.m3u8",
    "outputs": [],
    "recording": {"enabled": False, "format": "mp4"},
    "status": "OFFLINE",
    "revision": 1,
    "warnings": [],
}

ERROR_EXAMPLE: dict[str, Any] = {
    "success": False,
    "error": "what happened",
    "code": "INVALID_REQUEST",
    "status": 400,
    "details": None,
    "requestId": "req_4be1f0a2c6d98375",
    "traceId": None,
}

OFFER_EXAMPLE = (
    "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\n"
    "c=IN IP4 0.0.0.0\r\na=mid:0\r\na=sendonly\r\na=rtcp-mux\r\na=rtpmap:96 H264/90000\r\na=setup:actpass\r\n"
    "a=ice-ufrag:F7gI\r\na=ice-pwd:x9cmlYzichV2IlhPkg1yzAbC\r\na=fingerprint:sha-256 (the hash of the certificate)\r\n"
)

__all__ = ["CREATE_EXAMPLE", "ERROR_EXAMPLE", "OFFER_EXAMPLE", "STREAM_EXAMPLE", "UPDATE_EXAMPLE"]
