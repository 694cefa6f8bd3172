"""The doctor's checks of the ways in: how WebRTC travels, what RunPod maps, and what outlives the container."""

import shutil
from collections.abc import Callable
from pathlib import Path

from sdstream.api.ingest import direct_ways
from sdstream.clock import SystemClock
from sdstream.commands.checks import Check, Verdict, answers_as_sdstream
from sdstream.commands.machine import MachineFacts
from sdstream.directories import NETWORK_VOLUMES, choose_data_directory
from sdstream.errors import ConfigurationError, SdstreamError
from sdstream.media.embedded.addresses import LOOPBACK, Addressing
from sdstream.media.embedded.ice import AddressedGatherer
from sdstream.media.turn.choice import WebRtcChoice
from sdstream.media.turn.desk import IceDesk
from sdstream.reachability import LEAST_SYMMETRIC, Place, Role, join_address
from sdstream.serve import bind
from sdstream.settings import Settings, is_loopback

LEAST_FREE_SHARE = 0.10
"""Of the container's disk; with less the SDK of RunPod ends a serverless worker at its start."""


async def check_webrtc(settings: Settings, facts: MachineFacts) -> Check:
    """Whether the chosen mode of WebRTC can work; a TURN service elsewhere is asked for a relay."""
    choice = facts.webrtc
    if choice.problem:
        setting = "SDSTREAM_MEDIAMTX_WEBRTC_TCP_PORT" if choice.mode == "tcp" else "SDSTREAM_WEBRTC_MODE"
        return Check("WebRTC", Verdict.BAD, f"{choice.mode}: {choice.problem}", f"Or leave {setting} unset.")
    if choice.mode == "off":
        return Check("WebRTC", Verdict.NOTE, f"off: {choice.because}", "WHIP and WHEP are answered with 503.")
    if choice.mode == "turn-local":
        place = choice.turn_address or f"port {settings.turn_port} of the host that a client calls"
        try:
            bind("0.0.0.0", settings.turn_port, "turn_port").close()
        except ConfigurationError as error:
            if answers_as_sdstream(settings):
                finding = f"turn-local: the server that runs already uses TCP {settings.turn_port} for it"
                return Check("WebRTC", Verdict.NOTE, finding, f"Clients use TCP {place}.")
            return Check("WebRTC", Verdict.BAD, error.message, "Stop the other program, or set SDSTREAM_TURN_PORT.")
        return Check("WebRTC", Verdict.GOOD, f"turn-local: coturn is installed, clients use TCP {place}")
    if choice.mode == "turn-external":
        return await _check_relay(settings, choice)
    return Check("WebRTC", Verdict.GOOD, f"{choice.mode}: {choice.because}")


async def _check_relay(settings: Settings, choice: WebRtcChoice) -> Check:
    """Ask the settings' TURN server for a relay, as each session does, and give it back."""
    remedy = "Check the TURN settings, and whether this machine reaches the server."
    try:
        desk = IceDesk(settings, SystemClock(), choice)
    except ConfigurationError as error:
        return Check("WebRTC", Verdict.BAD, error.message, remedy)
    try:
        relay = await desk.for_us()
        if relay is None:
            return Check("WebRTC", Verdict.BAD, "turn-external: no TURN URL of the settings can be used", remedy)
        gatherer = AddressedGatherer(Addressing(addresses=(LOOPBACK,), relay=relay))
        try:
            await gatherer.gather()
            found = [each.host for each in gatherer.connection.local_candidates if each.type == "relay"]
        finally:
            await gatherer.connection.close()
    except SdstreamError as error:
        return Check("WebRTC", Verdict.BAD, f"turn-external: {error.message}", remedy)
    finally:
        await desk.close()
    return Check("WebRTC", Verdict.GOOD, f"turn-external: {relay.urls[0]} gave a relay at {', '.join(found)}")


def check_runpod(settings: Settings, place: Place) -> Check:
    """Which ways in RunPod's variables tell of."""
    if place.problems:
        return Check("RunPod", Verdict.NOTE, "; ".join(place.problems), "What they say is not used.")
    if is_loopback(settings.host):
        finding = f"{settings.host} cannot be reached from outside the container"
        return Check("RunPod", Verdict.BAD, finding, "Set SDSTREAM_HOST=0.0.0.0, as the image does.")
    ports = ", ".join(
        f"TCP {port} as {join_address(*address)}"
        for port in place.tcp_ports
        if (address := place.tcp_address(port)) is not None
    )
    base = place.public_base(settings.port)
    way = f"at {base}" if base else "not from outside"
    finding = f"{place.role.value}; HTTP {way}; {ports or 'no TCP port mapped'}"
    if base is None:
        return Check("RunPod", Verdict.NOTE, finding, f"Expose {settings.port}/tcp to call this worker directly.")
    if place.role is Role.POD and not place.tcp_ports:
        port = LEAST_SYMMETRIC if settings.media_backend == "mediamtx" else settings.turn_port
        return Check("RunPod", Verdict.NOTE, finding, f"Expose {port}/tcp for WebRTC.")
    return Check("RunPod", Verdict.GOOD, finding)


def check_ingest(settings: Settings, place: Place) -> list[Check]:
    """On RunPod: whether its mapping leads to the ports on which MediaMTX takes RTMP, RTSP and SRT."""
    checks: list[Check] = []
    for way in direct_ways(settings, settings.host, place):
        name = way.protocol.upper()
        if way.address is not None:
            checks.append(Check(name, Verdict.GOOD, f"clients use {join_address(*way.address)}"))
        elif way.protocol == "srt":
            checks.append(Check(name, Verdict.NOTE, "it is UDP, and RunPod lets no UDP in", "Publish by RTMP or RTSP."))
        else:
            finding = f"nothing outside leads to TCP {way.port}"
            checks.append(Check(name, Verdict.NOTE, finding, f"Expose {way.port}/tcp; the pod starts anew."))
    return checks


def check_volume(settings: Settings, is_mounted: Callable[[Path], bool] = Path.is_mount) -> Check:
    """On RunPod: whether the data outlives the container."""
    path = choose_data_directory(settings).absolute_path
    volume = next((volume for volume in NETWORK_VOLUMES if volume in (path, *path.parents)), None)
    if volume is not None and is_mounted(volume):
        return Check("volume", Verdict.GOOD, f"{path} is on the volume {volume}")
    remedy = "Attach a network volume, at /workspace on a pod; it must be there when the pod is made."
    return Check("volume", Verdict.NOTE, f"{path} is on the container's disk and goes with the container", remedy)


def check_container_disk(root: Path = Path("/")) -> Check:
    """On RunPod: whether the SDK would find the container's disk full."""
    usage = shutil.disk_usage(root)
    finding = f"{usage.free / 2**30:.1f} GiB free of {usage.total / 2**30:.1f}"
    if usage.free < usage.total * LEAST_FREE_SHARE:
        remedy = "RunPod's SDK ends a serverless worker that has less than a tenth free; give it a larger disk."
        return Check("container disk", Verdict.NOTE, finding, remedy)
    return Check("container disk", Verdict.GOOD, finding)


__all__ = ["LEAST_FREE_SHARE", "check_container_disk", "check_ingest", "check_runpod", "check_volume", "check_webrtc"]
