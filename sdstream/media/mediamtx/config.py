"""MediaMTX's configuration as a pure function of ours, and the names of its paths.

Paths are three regular expressions, which it opens as somebody publishes and forgets with the last one: it holds no
state of ours, so nothing has to be set again when it was restarted. Who may use a path is asked of us (`doors.py`).
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sdstream.media.embedded.negotiation import VideoCodec

INPUT, OUTPUT = "in", "out"
"""The first part of a path's name; the second is the stream key, or the playback id."""
VP8_OUTPUT = "vp8"
"""The first part of the path that has the same pictures for WebRTC viewers without H.264; nobody else may read it."""
PATH = re.compile(r"(in|out)/([A-Za-z0-9_-]{1,128})")
WRITE_QUEUE = 512
"""Packets that may wait for one reader, about three seconds; a power of two."""
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Ports:
    """Where MediaMTX listens. `api`, `whip` and, unless `rtsp_is_public`, `rtsp` are for this machine only.

    None: not at all.
    """

    api: int
    whip: int
    rtsp: int
    rtsp_is_public: bool = False
    rtmp: int | None = None
    srt: int | None = None
    webrtc_udp: int | None = None
    webrtc_tcp: int | None = None


def input_path(stream_key: str) -> str:
    return f"{INPUT}/{stream_key}"


def output_path(playback_id: str, codec: VideoCodec = "H264") -> str:
    return f"{OUTPUT if codec == 'H264' else VP8_OUTPUT}/{playback_id}"


def configuration(ports: Ports, auth_url: str, hosts: Sequence[str], ice_servers: Sequence[Any] = ()) -> str:
    """The file, as JSON, which YAML includes. `hosts` are the addresses in WebRTC candidates.

    `auth_url` has a secret in it: the file must be readable by its owner only.
    """
    values: dict[str, Any] = {
        "logLevel": "info",
        "logDestinations": ["stdout"],
        "writeQueueSize": WRITE_QUEUE,
        "authMethod": "http",
        "authHTTPAddress": auth_url,
        # Nothing is open without asking, not even what this machine alone can reach.
        "authHTTPExclude": [],
        "api": True,
        "apiAddress": f"{LOOPBACK}:{ports.api}",
        "metrics": False,
        "pprof": False,
        "playback": False,
        "hls": False,
        "moq": False,
        "rtsp": True,
        "rtspTransports": ["tcp"],
        "rtspAddress": f"{'' if ports.rtsp_is_public else LOOPBACK}:{ports.rtsp}",
        "rtmp": ports.rtmp is not None,
        "srt": ports.srt is not None,
        # It refuses to start with WebRTC that nobody could reach.
        "webrtc": ports.webrtc_udp is not None or ports.webrtc_tcp is not None or bool(ice_servers),
        "webrtcAddress": f"{LOOPBACK}:{ports.whip}",
        "webrtcLocalUDPAddress": "" if ports.webrtc_udp is None else f":{ports.webrtc_udp}",
        "webrtcLocalTCPAddress": "" if ports.webrtc_tcp is None else f":{ports.webrtc_tcp}",
        "webrtcIPsFromInterfaces": False,
        "webrtcAdditionalHosts": list(hosts),
        "webrtcICEServers2": list(ice_servers),
        "pathDefaults": {"overridePublisher": True},
        "paths": {f"~^{name}/[A-Za-z0-9_-]+$": {} for name in (INPUT, OUTPUT, VP8_OUTPUT)},
    }
    if ports.rtmp is not None:
        values["rtmpAddress"] = f":{ports.rtmp}"
    if ports.srt is not None:
        values["srtAddress"] = f":{ports.srt}"
    return json.dumps(values, indent=1)


__all__ = ["INPUT", "LOOPBACK", "OUTPUT", "PATH", "VP8_OUTPUT", "Ports", "configuration", "input_path", "output_path"]
