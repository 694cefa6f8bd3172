"""What `serve` will do and why, decided from the settings and facts about the machine; nothing is changed."""

from dataclasses import dataclass

from sdstream.api.ingest import direct_ways
from sdstream.commands.machine import MachineFacts, read_machine
from sdstream.commands.switches import switched_off
from sdstream.directories import choose_data_directory
from sdstream.media.mediamtx.reach import choose_reach
from sdstream.reachability import join_address
from sdstream.settings import Settings, is_loopback


@dataclass(frozen=True, slots=True)
class PlanLine:
    """One decision: `subject` is decided as `choice`, `because` of something."""

    subject: str
    choice: str
    because: str

    @property
    def text(self) -> str:
        return f"  {self.subject + ':':<11} {self.choice} ({self.because})"


def plan_serve(settings: Settings, facts: MachineFacts | None = None) -> tuple[PlanLine, ...]:
    """The decisions in the order in which an operator asks for them."""
    if settings.placement == "runpod":
        return plan_gateway(settings)
    facts = facts or read_machine(settings)
    data = choose_data_directory(settings)
    return (
        plan_device(settings, facts),
        *plan_speed(settings, facts),
        plan_encoder(settings, facts),
        plan_webrtc(facts),
        plan_addresses(settings, facts),
        *plan_ingest(settings, facts),
        plan_urls(settings, facts),
        plan_access(settings),
        PlanLine("data", str(data.absolute_path), data.reason),
    )


def plan_gateway(settings: Settings) -> tuple[PlanLine, ...]:
    """The decisions of a gateway, which runs no stream itself."""
    data = choose_data_directory(settings)
    if settings.redis_url is None:
        directory = PlanLine("directory", "this process", "redis_url is not set: only streams made here are known")
    else:
        directory = PlanLine("directory", "Redis", "redis_url names it")
    return (
        PlanLine("placement", f"RunPod endpoint {settings.endpoint}", "placement asks for it"),
        directory,
        plan_access(settings),
        PlanLine("data", str(data.absolute_path), data.reason),
    )


def plan_device(settings: Settings, facts: MachineFacts) -> PlanLine:
    """Where the worker computes."""
    if settings.worker_device != "auto":
        return PlanLine("device", settings.worker_device, "worker_device asks for it")
    if facts.obstacle is not None:
        reason = f"not {facts.gpus[0].name}: {facts.obstacle.reason}; `sdstream doctor` says what helps"
        return PlanLine("device", "cpu", reason)
    if (gpu := facts.gpu) is not None:
        of_several = f", one of {len(facts.gpus)} cards" if len(facts.gpus) > 1 else ""
        choice = f"cuda, {gpu.name} with {gpu.memory / 2**30:.0f} GiB{of_several}"
        return PlanLine("device", choice, f"driver {gpu.driver}")
    if facts.system == "Darwin" and facts.processor == "arm64":
        return PlanLine("device", "mps", "Apple GPU")
    return PlanLine("device", "cpu", facts.gpu_problem)


def plan_speed(settings: Settings, facts: MachineFacts) -> tuple[PlanLine, ...]:
    """What makes pictures with a model slower than they could be here; nothing where nothing does."""
    device = plan_device(settings, facts).choice
    if device == "cpu":
        return (PlanLine("speed", "slow with a model", "networks are made for a CUDA GPU"),)
    slow = switched_off(settings) if device.startswith("cuda") else ()
    if settings.full_vae:
        slow = (*slow, "the model's own VAE makes the pictures; SDSTREAM_FULL_VAE=false takes the small one")
    return tuple(PlanLine("speed", "slower than it could be", why) for why in slow)


def plan_encoder(settings: Settings, facts: MachineFacts) -> PlanLine:
    """Which H.264 encoder makes the output."""
    if settings.video_encoder == "x264":
        return PlanLine("encoder", "x264", "video_encoder asks for it")
    if not facts.nvenc_problem:
        return PlanLine("encoder", "nvenc", "a probe picture was encoded")
    if settings.video_encoder == "nvenc":
        return PlanLine("encoder", "nvenc", f"video_encoder asks for it, but the probe failed: {facts.nvenc_problem}")
    return PlanLine(
        "encoder", "x264", f"the NVENC probe failed: {facts.nvenc_problem}" if facts.gpus else "no GPU has NVENC here"
    )


def plan_webrtc(facts: MachineFacts) -> PlanLine:
    """How WebRTC media travels."""
    choice = facts.webrtc
    by = f" at TCP {choice.turn_address}" if choice.mode == "turn-local" and choice.turn_address else ""
    return PlanLine("WebRTC", f"{choice.mode}{by}", choice.problem or choice.because)


def plan_urls(settings: Settings, facts: MachineFacts) -> PlanLine:
    """Which base URL the answers carry."""
    if settings.public_url is not None:
        return PlanLine("URLs", settings.public_url, "public_url names it")
    if facts.place is not None:
        base = facts.place.public_base(settings.port)
        if base is not None:
            return PlanLine("URLs", base, f"RunPod's variables say so for this {facts.place.role.value}")
        return PlanLine("URLs", "the name that each request calls", "RunPod's variables tell no way in from outside")
    return PlanLine("URLs", "the name that each request calls", "public_url is not set")


def plan_addresses(settings: Settings, facts: MachineFacts) -> PlanLine:
    """Which addresses clients are told to send WebRTC packets to."""
    if facts.webrtc.mode == "turn-local":
        return PlanLine("addresses", facts.addresses[0] if facts.addresses else "none", "coturn relays there only")
    if facts.webrtc.mode == "off":
        return PlanLine("addresses", "none", "WebRTC is off")
    choice = ", ".join(facts.addresses) or "none"
    ports = f"UDP {settings.webrtc_ports[0]}-{settings.webrtc_ports[1]}" if settings.webrtc_ports else "any UDP port"
    source = "webrtc_addresses names them" if settings.webrtc_addresses else "this machine's interfaces"
    if settings.media_backend == "mediamtx":
        reach = choose_reach(settings, facts.place)
        pairs = (("UDP", reach.udp), ("TCP", reach.tcp))
        ports = " and ".join(f"{kind} {port}" for kind, port in pairs if port is not None) or "a relay's port"
        if reach.hosts and not settings.webrtc_addresses:
            source = "RunPod's variables say so"
    return PlanLine("addresses", f"{choice} on {ports}", source)


def plan_ingest(settings: Settings, facts: MachineFacts) -> tuple[PlanLine, ...]:
    """Where MediaMTX takes RTMP, RTSP and SRT; nothing where it takes none."""
    outside = facts.place is not None and not is_loopback(settings.host)
    told: list[str] = []
    for way in direct_ways(settings, settings.host, facts.place if outside else None):
        there = f"port {way.port}"
        if outside:
            there = f"at {join_address(*way.address)}" if way.address is not None else "cannot be reached from outside"
        told.append(f"{way.protocol.upper()} {there}")
    return (PlanLine("ingest", ", ".join(told), "GET /v1/streams/ID/ingest has the addresses"),) if told else ()


def plan_access(settings: Settings) -> PlanLine:
    """Who may call the REST API."""
    if not settings.authentication:
        return PlanLine("access", "anyone on this machine", "authentication is switched off")
    reach = "this machine only" if is_loopback(settings.host) else "every network of this machine"
    return PlanLine("access", f"bearer key, from {reach}", f"host is {settings.host}")


__all__ = [
    "PlanLine",
    "plan_access",
    "plan_addresses",
    "plan_device",
    "plan_encoder",
    "plan_gateway",
    "plan_ingest",
    "plan_serve",
    "plan_speed",
    "plan_urls",
    "plan_webrtc",
]
