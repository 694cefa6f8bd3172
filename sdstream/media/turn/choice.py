"""How WebRTC media travels: a pure decision over settings, RunPod's variables and what is installed.

| mode          | a client sends its packets                            | this server's own ICE agent         |
|---------------|-------------------------------------------------------|-------------------------------------|
| udp           | to this server's addresses; TURN servers are offered  | host addresses, STUN                |
| turn-local    | by TCP to coturn beside this server, which passes them on inside the machine | one host address |
| turn-external | to a TURN service                                     | host addresses, a relay of its own  |
| tcp           | to MediaMTX, by ICE over TCP (`mediamtx/reach.py` decides for that back end) | MediaMTX's own |
| off           | not at all                                            |                                     |

With `turn-local` the server needs no relay: the client's relayed address is this machine's own. With `turn-external` it
needs one, because a service could not send to an address that only NAT knows.
"""

import os
import shutil
from dataclasses import dataclass
from typing import Literal

from sdstream.reachability import Place, find_place, join_address
from sdstream.settings import Settings, is_loopback

Mode = Literal["udp", "tcp", "turn-local", "turn-external", "off"]


@dataclass(frozen=True, slots=True)
class WebRtcChoice:
    """The mode, the reason, and in `problem` what keeps it from working; empty when nothing does.

    `turn_address` is the `host:port` of our coturn for clients; None means: the host that a client calls.
    """

    mode: Mode
    because: str
    turn_address: str | None = None
    problem: str = ""


def choose_webrtc(settings: Settings, place: Place | None, *, coturn_found: bool) -> WebRtcChoice:
    """Decide the mode; `coturn_found` says whether the setting `turn_program` can be started."""
    address = settings.turn_address or _mapped_address(settings, place)
    missing = f"{settings.turn_program} (coturn) is not installed; SDSTREAM_TURN_PROGRAM names it"
    if settings.webrtc_mode != "auto":
        problem = ""
        if settings.webrtc_mode == "turn-local" and not coturn_found:
            problem = missing
        elif settings.webrtc_mode == "turn-local" and address is None and place is not None:
            problem = f"RunPod maps no TCP port {settings.turn_port}; expose {settings.turn_port}/tcp"
        elif settings.webrtc_mode == "turn-external" and not has_external_turn(settings):
            problem = "no TURN server is set: webrtc_ice_servers, cloudflare_turn_key_id, twilio_account_sid"
        return WebRtcChoice(settings.webrtc_mode, "webrtc_mode asks for it", address, problem)
    if place is None:
        return WebRtcChoice("udp", "nothing says that UDP is blocked")
    if is_loopback(settings.host):
        return WebRtcChoice("udp", f"{settings.host} can be reached from this machine only")
    if has_external_turn(settings):
        return WebRtcChoice("turn-external", "RunPod lets no UDP in, and a TURN server is set")
    if coturn_found and address is not None:
        return WebRtcChoice("turn-local", f"RunPod lets no UDP in, and TCP {address} leads to coturn", address)
    if any(server.startswith("stun:") for server in settings.webrtc_ice_servers):
        return WebRtcChoice("udp", "RunPod lets no UDP in and there is no TURN; only punching holes by STUN may work")
    lacking = missing if address is not None else f"expose {settings.turn_port}/tcp, or set a TURN server"
    return WebRtcChoice("off", f"RunPod lets no UDP in and there is no TURN: {lacking}")


def choose_webrtc_here(settings: Settings) -> WebRtcChoice:
    """`choose_webrtc` for this machine and process."""
    return choose_webrtc(settings, find_place(os.environ), coturn_found=shutil.which(settings.turn_program) is not None)


def has_external_turn(settings: Settings) -> bool:
    """Whether the settings name a TURN server or service elsewhere."""
    static = any(server.startswith(("turn:", "turns:")) for server in settings.webrtc_ice_servers)
    return static or settings.cloudflare_turn_key_id is not None or settings.twilio_account_sid is not None


def _mapped_address(settings: Settings, place: Place | None) -> str | None:
    found = place.tcp_address(settings.turn_port) if place is not None else None
    return join_address(*found) if found is not None else None


__all__ = ["Mode", "WebRtcChoice", "choose_webrtc", "choose_webrtc_here", "has_external_turn"]
