"""The checks of `sdstream doctor` for the MediaMTX back end."""

import os
import socket
import subprocess

from sdstream.commands.checks import Check, Verdict, answers_as_sdstream
from sdstream.errors import ConfigurationError
from sdstream.media.mediamtx.process import RELEASES, VERB, ask_version, find_program, version_problem
from sdstream.media.mediamtx.reach import choose_reach
from sdstream.media.mediamtx.release import VERSION
from sdstream.reachability import find_place
from sdstream.serve import bind
from sdstream.settings import Settings

SUBJECT = "MediaMTX"
PORTS = "MediaMTX's ports"
REMEDY = (
    f"`{VERB}` fetches MediaMTX {VERSION}, a single program from {RELEASES} that sdstream's image has in it. Or name "
    "one of your own in SDSTREAM_MEDIAMTX_PROGRAM."
)


def check_mediamtx(settings: Settings) -> Check:
    """Whether the program is here and of a version that is used."""
    try:
        program = find_program(settings)
        said = ask_version(program.path)
    except ConfigurationError as error:
        return Check(SUBJECT, Verdict.BAD, error.message, REMEDY)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check(SUBJECT, Verdict.BAD, f"it cannot be run: {error}", REMEDY)
    problem = version_problem(said)
    if problem is not None:
        return Check(SUBJECT, Verdict.BAD, f"{program.path} ({program.source}): {problem}", REMEDY)
    return Check(SUBJECT, Verdict.GOOD, f"{program.path} is {said.split()[0]}; {program.source}")


def check_mediamtx_ports(settings: Settings) -> Check:
    """Whether the ports that MediaMTX is told to listen on can be had: with one that is taken it ends at once."""
    reach = choose_reach(settings, find_place(os.environ))
    tcp = {
        "mediamtx_rtmp_port": settings.mediamtx_rtmp_port,
        "mediamtx_rtsp_port": settings.mediamtx_rtsp_port,
        "mediamtx_webrtc_tcp_port": reach.tcp,
    }
    udp = {"mediamtx_srt_port": settings.mediamtx_srt_port, "mediamtx_webrtc_udp_port": reach.udp}
    asked = [f"TCP {port}" for port in tcp.values() if port] + [f"UDP {port}" for port in udp.values() if port]
    try:
        for name, port in tcp.items():
            if port is not None:
                bind("0.0.0.0", port, name).close()
        for name, port in udp.items():
            if port is not None:
                _bind_udp(port, name)
    except ConfigurationError as error:
        if answers_as_sdstream(settings):
            return Check(PORTS, Verdict.NOTE, "the server that runs already uses them", "A second one needs others.")
        return Check(PORTS, Verdict.BAD, error.message, "Stop the other program, or set another port.")
    return Check(PORTS, Verdict.GOOD, f"{', '.join(asked)} can be had" if asked else "none is asked for")


def _bind_udp(port: int, name: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
        try:
            opened.bind(("0.0.0.0", port))
        except OSError as error:
            raise ConfigurationError(f"{name}: UDP {port} cannot be had ({error.strerror})") from None


__all__ = ["check_mediamtx", "check_mediamtx_ports"]
