"""How WebRTC reaches MediaMTX: a pure decision over settings and RunPod's variables.

RunPod lets no UDP in. MediaMTX takes ICE over TCP there, and puts the number that it listens on itself into its
candidates, so the port must have the same one outside: RunPod's symmetric kind, whose number is another at each start.
"""

from dataclasses import dataclass

from sdstream.media.turn.choice import WebRtcChoice
from sdstream.reachability import LEAST_SYMMETRIC, Place, join_address
from sdstream.settings import Settings, is_loopback

ASK_FOR_ONE = f"expose {LEAST_SYMMETRIC}/tcp, which RunPod gives the same number inside and outside"


@dataclass(frozen=True, slots=True)
class Reach:
    """What was chosen, the ports for it (None: not at all), and the addresses in candidates; none: this machine's."""

    choice: WebRtcChoice
    tcp: int | None = None
    udp: int | None = None
    hosts: tuple[str, ...] = ()


def choose_reach(settings: Settings, place: Place | None) -> Reach:
    """Decide how clients get to MediaMTX. `place` is None elsewhere than on RunPod."""
    if settings.webrtc_mode == "off":
        return _off("webrtc_mode asks for it")
    if settings.webrtc_mode == "udp":
        return _by_settings(settings, "webrtc_mode asks for it")
    if place is None:
        return _by_settings(settings, "nothing says that UDP is blocked")
    if is_loopback(settings.host):
        return _by_settings(settings, f"{settings.host} can be reached from this machine only")
    port = settings.mediamtx_webrtc_tcp_port or _symmetric_port(settings, place)
    hosts = settings.webrtc_addresses or (() if place.public_ip is None else (place.public_ip,))
    if port is not None and hosts:
        same = port in place.symmetric_ports or place.tcp_ports.get(port) == port
        problem = "" if same else f"TCP {port} has not that number outside; {ASK_FOR_ONE}"
        because = f"RunPod lets no UDP in, and TCP {join_address(hosts[0], port)} leads to MediaMTX"
        return Reach(WebRtcChoice("tcp", because, problem=problem), port, None, hosts)
    if any(server.startswith(("turn:", "turns:")) for server in settings.webrtc_ice_servers):
        return Reach(
            WebRtcChoice("turn-external", "RunPod lets no UDP in, and a TURN server is set"),
            udp=settings.mediamtx_webrtc_udp_port or None,
            hosts=settings.webrtc_addresses,
        )
    return _off(f"RunPod lets no UDP in: {ASK_FOR_ONE}")


def _by_settings(settings: Settings, because: str) -> Reach:
    tcp, udp = settings.mediamtx_webrtc_tcp_port, settings.mediamtx_webrtc_udp_port or None
    if tcp is None and udp is None and not settings.webrtc_ice_servers:
        return _off("mediamtx_webrtc_udp_port is 0, and there is no other way")
    return Reach(WebRtcChoice("udp" if udp is not None else "tcp", because), tcp, udp, settings.webrtc_addresses)


def _off(because: str) -> Reach:
    return Reach(WebRtcChoice("off", because))


def _symmetric_port(settings: Settings, place: Place) -> int | None:
    """The first one that no other setting has taken."""
    taken = {settings.port, settings.mediamtx_rtmp_port, settings.mediamtx_rtsp_port}
    return next((port for port in place.symmetric_ports if port not in taken), None)


__all__ = ["ASK_FOR_ONE", "Reach", "choose_reach"]
