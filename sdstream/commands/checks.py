"""The checks of `sdstream doctor`: each looks at one thing, changes nothing and says what it found."""

import asyncio
import json
import secrets
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from enum import StrEnum

import httpx

from sdstream.commands.machine import MachineFacts, probe_encoder
from sdstream.commands.models import find_place
from sdstream.directories import LEAST_FREE_BYTES, choose_data_directory, looks_writable, prove_writable
from sdstream.errors import ConfigurationError, SdstreamError
from sdstream.media.embedded.addresses import bind as bind_udp
from sdstream.params import ModelTable
from sdstream.serve import bind as bind_tcp
from sdstream.settings import Settings, is_loopback
from sdstream.streams.holding import is_held

COMFORTABLE_FREE_BYTES = 10 * 2**30
"""Models and engines take gigabytes; less is a warning."""
LEAST_FOR_EIGHT_BIT, FOR_EIGHT_BIT_CONVOLUTIONS = 89, 90
"""Compute capability, 89 for 8.9; the worker, which has torch, looks again."""
TORCH_SECONDS = 120.0
ECHO_SECONDS = 1.0

TORCH_PROGRAM = """
import json, time
started = time.perf_counter()
import torch
facts = {"version": torch.__version__, "seconds": time.perf_counter() - started, "threads": torch.get_num_threads(),
         "cuda": torch.version.cuda, "cuda_available": torch.cuda.is_available(),
         "mps_available": torch.backends.mps.is_available()}
if facts["cuda_available"]:
    facts["device"] = torch.cuda.get_device_name(0)
    try:
        torch.ones(8, device="cuda").sum().item()
    except RuntimeError as error:
        facts["problem"] = str(error).partition("\\n")[0]
print(json.dumps(facts))
"""


class Verdict(StrEnum):
    """GOOD and NOTE let `serve` do its work; BAD does not."""

    GOOD = "good"
    NOTE = "note"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Check:
    """What was found out about one subject; `remedy` says what to do unless all is well."""

    subject: str
    verdict: Verdict
    finding: str
    remedy: str = ""


def check_port(settings: Settings) -> Check:
    """Whether the HTTP port can be had, or sdstream has it already."""
    place = f"{settings.host} port {settings.port}"
    try:
        bind_tcp(settings.host, settings.port).close()
    except ConfigurationError as error:
        if answers_as_sdstream(settings):
            return Check(
                "port",
                Verdict.NOTE,
                f"{place} is in use: sdstream already answers there",
                "A second one does not start there: stop the first, or use another --port.",
            )
        return Check("port", Verdict.BAD, error.message, "Choose another --port; 0 takes a free one.")
    return Check("port", Verdict.GOOD, f"{place} is free")


def check_access(settings: Settings, base: str | None = None) -> Check:
    """Who can reach the server, and whether a key is asked for; `base` is the public URL that RunPod gives, if any."""
    if not settings.authentication:
        return Check("access", Verdict.NOTE, "no key is asked for; only this machine can connect", "")
    if is_loopback(settings.host):
        return Check("access", Verdict.GOOD, f"bearer key; {settings.host} can be reached from this machine only")
    public = settings.public_url or (base if base is not None and base.startswith("https:") else None)
    if public is None:
        return Check(
            "access",
            Verdict.NOTE,
            f"bearer key; {settings.host} can be reached from the network",
            "Keys and video cross it unencrypted unless a proxy adds TLS; then set SDSTREAM_PUBLIC_URL.",
        )
    return Check("access", Verdict.GOOD, f"bearer key; clients use {public}")


async def check_address(address: str, settings: Settings) -> Check:
    """Whether a UDP packet sent to `address` comes back to a socket opened as WebRTC opens its own."""
    subject = f"UDP {address}"
    token = secrets.token_bytes(16)
    received = asyncio.Event()

    class Echo(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, addr: tuple[str | int, ...]) -> None:
            if data == token:
                received.set()

    try:
        opened = await bind_udp(address, settings.webrtc_ports, Echo)
    except (OSError, SdstreamError) as error:
        return Check(subject, Verdict.BAD, f"no socket can be opened: {error}", "Change SDSTREAM_WEBRTC_PORTS.")
    if opened is None:
        return Check(subject, Verdict.NOTE, "this kind of address is not available here", "")
    transport, _ = opened
    try:
        port = transport.get_extra_info("sockname")[1]
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.sendto(token, (address, port))
            async with asyncio.timeout(ECHO_SECONDS):
                await received.wait()
    except (OSError, TimeoutError) as error:
        remedy = "Open UDP in the firewall, or name reachable addresses in SDSTREAM_WEBRTC_ADDRESSES."
        if address in settings.webrtc_addresses and isinstance(error, TimeoutError):
            finding = "no packet comes back; a router may not turn its own address around, so this proves nothing"
            return Check(subject, Verdict.NOTE, finding, "Try it from outside.")
        return Check(subject, Verdict.BAD, f"a packet sent to it does not arrive ({error or 'no answer'})", remedy)
    finally:
        transport.close()
    return Check(subject, Verdict.GOOD, f"a packet sent to port {port} arrives")


def check_gpu(facts: MachineFacts) -> Check:
    """Which NVIDIA cards the driver shows; a server uses one."""
    if not facts.gpus:
        remedy = "Everything runs on the CPU; diffusion is slow there."
        return Check("GPU", Verdict.NOTE, facts.gpu_problem, remedy)
    cards = ", ".join(f"{gpu.name} {gpu.memory / 2**30:.0f} GiB" for gpu in facts.gpus)
    finding = f"{cards}; driver {facts.gpus[0].driver}"
    if len(facts.gpus) > 1:
        remedy = (
            "One server uses one of them. Start one for each, with CUDA_VISIBLE_DEVICES, a port and data of its own."
        )
        return Check("GPU", Verdict.NOTE, finding, remedy)
    return Check("GPU", Verdict.GOOD, finding)


def check_eight_bit(capability: int | None, *, convolutions: bool = False) -> Check:
    """Whether the card, of this compute capability (89 for 8.9, None without one), has what `eight_bit` asks for."""
    if capability is not None and capability >= LEAST_FOR_EIGHT_BIT:
        finding = "the card has them; a trial at loading finds out which layers are faster so"
        if convolutions and capability != FOR_EIGHT_BIT_CONVOLUTIONS:
            finding += "; but convolutions in eight bits are for Hopper (9.0) alone"
            return Check("products in eight bits", Verdict.NOTE, finding, "Convolutions stay in half precision.")
        return Check("products in eight bits", Verdict.GOOD, finding)
    has = "there is no NVIDIA card" if capability is None else f"the card has compute capability {capability / 10:.1f}"
    remedy = "Layers stay in half precision, and status says so."
    return Check("products in eight bits", Verdict.NOTE, f"{has}, and they need 8.9 or later", remedy)


def check_torch(settings: Settings, facts: MachineFacts) -> Check:
    """Import torch in a process of its own, as the worker does, and use the device once."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", TORCH_PROGRAM], capture_output=True, text=True, timeout=TORCH_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return Check("torch", Verdict.BAD, f"not imported within {TORCH_SECONDS:.0f} s", "Look at the disk's speed.")
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]
        return Check("torch", Verdict.BAD, f"cannot be used: {last}", "`make clean run` installs it anew.")
    found = json.loads(done.stdout.splitlines()[-1])
    finding = f"{found['version']}, imported in {found['seconds']:.1f} s"
    if settings.worker_device == "cpu":
        return Check("torch", Verdict.GOOD, f"{finding}, computes on the CPU")
    if found["cuda_available"] and "problem" not in found:
        return Check("torch", Verdict.GOOD, f"{finding}, computes on {found['device']}")
    if facts.obstacle is not None:
        finding = f"{finding}, cannot use the GPU: {facts.obstacle.reason}"
        return Check("torch", Verdict.BAD, finding, facts.obstacle.remedy)
    if "problem" in found:
        finding = f"{finding}, cannot compute on {found['device']}: {found['problem']}"
        return Check(
            "torch", Verdict.BAD, finding, "Look at the card with nvidia-smi, or set SDSTREAM_WORKER_DEVICE=cpu."
        )
    if settings.worker_device.startswith("cuda"):
        return Check("torch", Verdict.BAD, f"{finding}, sees no CUDA device", "Set SDSTREAM_WORKER_DEVICE=auto.")
    if facts.gpus:
        remedy = "Install a CUDA build of torch, or a newer driver."
        return Check("torch", Verdict.BAD, f"{finding}, does not see the GPU (CUDA {found['cuda']})", remedy)
    return Check("torch", Verdict.GOOD, f"{finding}, computes on the {'GPU' if found['mps_available'] else 'CPU'}")


def check_encoder(settings: Settings, facts: MachineFacts) -> Check:
    """Whether H.264 can be made as the settings ask."""
    problem = probe_encoder("libx264")
    if problem:
        return Check("encoder", Verdict.BAD, f"x264 does not work: {problem}", "Install PyAV's own wheel.")
    if settings.video_encoder == "nvenc" and facts.nvenc_problem:
        remedy = "Set SDSTREAM_VIDEO_ENCODER=auto. A100, H100, H200 and B200 have no video encoder."
        return Check("encoder", Verdict.BAD, f"NVENC does not work: {facts.nvenc_problem}", remedy)
    if settings.video_encoder == "x264" or facts.nvenc_problem:
        return Check("encoder", Verdict.GOOD, "x264 made a picture")
    return Check("encoder", Verdict.GOOD, "NVENC made a picture")


def check_data_directory(settings: Settings) -> Check:
    """Whether the data directory can be written, or be made, and its free space. Makes nothing."""
    path = choose_data_directory(settings).absolute_path
    remedy = "Set SDSTREAM_DATA_DIR to a directory that can be written."
    try:
        existing = next(place for place in (path, *path.parents) if place.exists())
    except OSError as error:  # in a directory that this user may not enter, or of a name that is too long
        return Check("data", Verdict.BAD, f"{path} cannot be used: {error.strerror or error}", remedy)
    if existing == path:
        try:
            prove_writable(path)
        except OSError as error:
            return Check("data", Verdict.BAD, f"{path} cannot be written: {error.strerror or error}", remedy)
    elif not looks_writable(existing):
        return Check("data", Verdict.BAD, f"{path} cannot be made: {existing} is not writable", remedy)
    if existing == path and is_held(path):
        if answers_as_sdstream(settings):
            remedy = "Stop it before another is started there."
            return Check("data", Verdict.NOTE, f"{path} is in use by the sdstream that answers here", remedy)
        remedy = "One data directory serves one server: stop that one, or set SDSTREAM_DATA_DIR to another directory."
        return Check("data", Verdict.BAD, f"{path} is in use by another sdstream server", remedy)
    free = shutil.disk_usage(existing).free
    finding = f"{path} {'is writable' if existing == path else 'will be made'}, {free / 2**30:.1f} GiB free"
    if free < LEAST_FREE_BYTES:
        return Check("data", Verdict.BAD, finding, "Free some space.")
    if free < COMFORTABLE_FREE_BYTES:
        return Check("data", Verdict.NOTE, finding, "Models and engines need more; streams do not.")
    return Check("data", Verdict.GOOD, finding)


def check_models(settings: Settings) -> Check:
    """Which models' files are on this machine."""
    try:
        table = ModelTable.from_settings(settings)
    except ConfigurationError as error:
        return Check("models", Verdict.BAD, error.message, "Correct SDSTREAM_MODELS or SDSTREAM_DEFAULT_MODEL.")
    places = [find_place(entry, table.places) for entry in table.entries()]
    for place in places:
        if place.entry.id in settings.models and place.path is None and not place.fetched:
            return Check("models", Verdict.BAD, f"{place.entry.id}: {place.problem}", "Correct SDSTREAM_MODELS.")
    present = [place.entry.id for place in places if place.path is not None]
    absent = [place.entry.id for place in places if place.path is None]
    finding = f"present: {', '.join(present) or 'none'}; known: {', '.join(absent) or 'no more'}"
    remedy = (
        "" if present else "Without one only image processors run (skip_diffusion); `sdstream models pull` fetches."
    )
    return Check("models", Verdict.GOOD if present else Verdict.NOTE, finding, remedy)


def answers_as_sdstream(settings: Settings) -> bool:
    """Whether a server of ours already runs with these settings' host and port."""
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "localhost") else settings.host
    place = f"[{host}]" if ":" in host else host
    try:
        answer = httpx.get(f"http://{place}:{settings.port}/health", timeout=1.0, trust_env=False).json()
        return isinstance(answer, dict) and "worker" in answer
    except (httpx.HTTPError, httpx.InvalidURL, ValueError):
        return False


__all__ = [
    "Check",
    "Verdict",
    "answers_as_sdstream",
    "check_access",
    "check_address",
    "check_data_directory",
    "check_eight_bit",
    "check_encoder",
    "check_gpu",
    "check_models",
    "check_port",
    "check_torch",
]
