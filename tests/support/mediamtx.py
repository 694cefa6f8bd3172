"""MediaMTX where it is here, and tests that are run against a server of each media back end."""

import os
import shutil
from typing import Any

import pytest

from tests.support.ports import free_port

PROGRAM = os.environ.get("MEDIAMTX_BIN") or shutil.which("mediamtx")
needs_mediamtx = pytest.mark.skipif(PROGRAM is None, reason="mediamtx is neither in PATH nor named by MEDIAMTX_BIN")
_MARKS = (needs_mediamtx, pytest.mark.slow)
on_both = pytest.mark.parametrize(
    "rest",
    [pytest.param("server", id="embedded"), pytest.param("mediamtx_server", id="mediamtx", marks=_MARKS)],
    indirect=True,
)
"""For tests that use `rest`: once with the server that most tests share, and once with one that has MediaMTX."""


def media_settings() -> dict[str, Any]:
    """Settings for the MediaMTX back end on ports that are free; RTMP, RTSP and SRT are open."""
    ports = ("rtmp", "rtsp", "srt", "webrtc_udp")
    return {"media_backend": "mediamtx"} | {f"mediamtx_{name}_port": free_port() for name in ports}


__all__ = ["PROGRAM", "media_settings", "needs_mediamtx", "on_both"]
