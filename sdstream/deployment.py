"""What RunPod's REST API v2 is told to make a pod or an endpoint: payloads as pure functions, and the one call.

Limits and names are those of RunPod's documentation; nothing here was tried with a real account.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import httpx

from sdstream.errors import CommandFailed, ConfigurationError
from sdstream.params.problems import did_you_mean
from sdstream.reachability import LEAST_SYMMETRIC
from sdstream.settings import PREFIX, Settings, load_settings

API = "https://api.runpod.io/v2"
REQUEST_SECONDS = 30.0
LEAST_CUDA = "13.0"
"""That of the image as it is usually built. A container on a host with an older driver never starts, and is paid for
all the same."""
POD_VOLUME = "/workspace"
MOST_VARIABLES = 50
MOST_WORKERS = 1000
"""More are a slip of the finger; RunPod's own quota is far below."""
LEAST_JOB_SECONDS, MOST_SECONDS = 5, 7 * 24 * 3600
"""What RunPod lets a job take."""
MOST_IDLE_SECONDS = 3600
"""What RunPod lets a worker wait for the next job."""
LARGEST_PORT = 65_535
QUEUE_SCALING = {"type": "QUEUE_DELAY", "queueDelay": 4}
BALANCER_SCALING = {"type": "REQUEST_COUNT", "requestCount": 4}
CONSOLE = "https://www.console.runpod.io"
NO_HOST_HINT = (
    "RunPod says this, too, of a card that the chosen data centres do not have at all: take another --gpu, or other "
    "places with --data-center."
)
JOB_SECONDS = 3900
"""What one job may take: five minutes more than a session lasts by default, so that its summary is posted."""
POOLS = (
    "AMPERE_16",
    "AMPERE_24",
    "ADA_24",
    "ADA_32_PRO",
    "AMPERE_48",
    "ADA_48_PRO",
    "AMPERE_80",
    "ADA_80_PRO",
    "HOPPER_141",
    "BLACKWELL_96",
    "BLACKWELL_180",
)
"""RunPod's groups of cards in 2026. It may have more by now, so another name is asked about and not refused."""

_IMAGE = re.compile(r"[^\s@]+(?:/[^\s@/:]+)*(?::[\w][\w.-]{0,127}(?:@sha256:[0-9a-f]{64})?|@sha256:[0-9a-f]{64})")
_ID = re.compile(r"[A-Za-z0-9_-]{1,80}")
_POOL = re.compile(r"[A-Z]+(_[A-Z0-9]+)+")
_CUDA = re.compile(r"[1-9][0-9]\.[0-9]{1,2}")


@dataclass(frozen=True, slots=True)
class Common:
    """What pods and endpoints share. `disk` is the container's, in GB; `volumes` are ids of network volumes.

    `min_cuda_version` is what a host's driver must know at least, such as `13.0`: the image's own.
    """

    name: str
    image: str
    gpu_count: int = 1
    disk: int = 50
    data_centers: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    registry: str | None = None
    variables: Mapping[str, str] = field(default_factory=dict[str, str])
    tcp_ports: tuple[int, ...] = ()
    min_cuda_version: str = LEAST_CUDA


@dataclass(frozen=True, slots=True)
class PodPlan:
    """A pod: one card of exactly the type `gpu`, such as `NVIDIA GeForce RTX 4090`."""

    common: Common
    gpu: str
    cloud: Literal["SECURE", "COMMUNITY"] = "SECURE"
    volume_path: str = POD_VOLUME

    def payload(self, settings: Settings) -> dict[str, Any]:
        """The body of `POST /v2/pods`. Raises `ConfigurationError`."""
        common = self.common
        _check(common)
        if not self.gpu.strip():
            raise ConfigurationError("gpu: is given and empty")
        if _POOL.fullmatch(self.gpu):
            raise ConfigurationError(f"gpu: {self.gpu} is a pool; a pod has a card, such as NVIDIA GeForce RTX 4090")
        if len(common.volumes) > 1:
            raise ConfigurationError("volume: a pod has one network volume at most")
        if common.volumes and self.cloud != "SECURE":
            raise ConfigurationError("volume: only the secure cloud has network volumes")
        if common.volumes and len(common.data_centers) > 1:
            raise ConfigurationError("data_center: a volume lies in one data centre; name that one")
        variables = {"MODE": "pod", **common.variables}
        port, media = _port(variables, "PORT", settings.port), _media_ports(variables, settings)
        body: dict[str, Any] = {
            "name": common.name,
            "image": common.image,
            "gpu": {"id": self.gpu, "count": common.gpu_count, "minCudaVersion": common.min_cuda_version},
            "cloud": self.cloud,
            "disk": common.disk,
            "ports": [f"{port}/http", *(f"{each}/tcp" for each in dict.fromkeys((*media, *common.tcp_ports)))],
            "env": variables,
        }
        if common.data_centers:
            body["dataCenterIds"] = list(common.data_centers)
        if common.volumes:
            body["mounts"] = {"network": [{"volumeId": common.volumes[0], "path": self.volume_path}]}
        if common.registry:
            body["registry"] = common.registry
        return body


@dataclass(frozen=True, slots=True)
class EndpointPlan:
    """A serverless endpoint: of the kind that gives jobs to `handler.py`, or one that balances HTTP over workers.

    `pools` are groups of cards such as `ADA_24`; `idle_timeout` and `timeout` are seconds, the latter for one job.
    """

    common: Common
    pools: tuple[str, ...]
    kind: Literal["QUEUE", "LOAD_BALANCER"] = "QUEUE"
    excluded: tuple[str, ...] = ()
    workers_min: int = 0
    workers_max: int = 3
    idle_timeout: int = 60
    timeout: int = JOB_SECONDS
    flashboot: bool = True

    def payload(self, settings: Settings) -> dict[str, Any]:
        """The body of `POST /v2/serverless`. Raises `ConfigurationError`."""
        common = self.common
        _check(common)
        for name, value, least, most in (
            ("workers_min", self.workers_min, 0, MOST_WORKERS),
            ("workers_max", self.workers_max, 0, MOST_WORKERS),
            ("idle_timeout", self.idle_timeout, 1, MOST_IDLE_SECONDS),
            ("timeout", self.timeout, LEAST_JOB_SECONDS, MOST_SECONDS),
        ):
            if not least <= value <= most:
                raise ConfigurationError(f"{name}: {least} to {most}")
        if self.workers_min > self.workers_max:
            raise ConfigurationError("workers_min is above workers_max")
        if not all(card.strip() for card in self.excluded):
            raise ConfigurationError("exclude: is given and empty")
        if not self.pools:
            raise ConfigurationError("pool: name at least one pool of cards, such as ADA_24")
        for pool in self.pools:
            if not _POOL.fullmatch(pool):
                raise ConfigurationError(f"gpu: {pool!r} is no pool; an endpoint has pools of cards, such as ADA_24")
        queue = self.kind == "QUEUE"
        # RunPod is known to ask a load-balancing worker for its health on port 80, whatever it was told.
        variables = {"MODE": "serverless"} if queue else {"MODE": "pod", "PORT": "80", "PORT_HEALTH": "80"}
        variables |= common.variables
        # Always said, because the documented defaults differ from each other.
        body: dict[str, Any] = {
            "name": common.name,
            "type": self.kind,
            "image": common.image,
            "gpu": {
                "pools": list(self.pools),
                "excludedTypes": list(self.excluded),
                "count": common.gpu_count,
                "minCudaVersion": common.min_cuda_version,
            },
            "workers": {"min": self.workers_min, "max": self.workers_max, "idleTimeout": self.idle_timeout},
            "scaling": dict(QUEUE_SCALING if queue else BALANCER_SCALING),
            "timeout": self.timeout * 1000,
            "flashboot": "FLASHBOOT" if self.flashboot else "OFF",
            "disk": common.disk,
            "env": variables,
        }
        # A session's client comes straight to the worker that has it, by HTTP and for media.
        media = _media_ports(variables, settings)
        direct = (_port(variables, "PORT", settings.port), *media) if queue else media
        body["ports"] = [f"{each}/tcp" for each in dict.fromkeys((*direct, *common.tcp_ports))]
        if not queue:
            body["ports"].insert(0, f"{_port(variables, 'PORT', _number('PORT', variables['PORT']))}/http")
        if common.data_centers:
            body["dataCenterIds"] = list(common.data_centers)
        if common.volumes:
            body["networkVolumes"] = list(common.volumes)
        if common.registry:
            body["registry"] = common.registry
        return body


@dataclass(frozen=True, slots=True)
class Deployed:
    """What RunPod made: its id, and what else the answer said."""

    id: str
    answer: Mapping[str, Any]


def doubts_of_count(gpu_count: int) -> list[str]:
    """What is odd about a number of cards: a server uses one, and each is paid for."""
    return [f"a server uses one card, and {gpu_count} are paid for"] if gpu_count > 1 else []


def doubts_of_cloud(cloud: str) -> list[str]:
    """RunPod promises a public address to pods of its secure cloud alone, and its API v2 takes no wish for one."""
    words = "a host of the community cloud may have no public IP; without one neither WebRTC nor RTMP gets in"
    return [words] if cloud == "community" else []


def doubts(pools: Sequence[str]) -> list[str]:
    """A line for each pool that is not known here, with the one that may be meant."""
    return [
        f"{pool} is no pool that sdstream knows; {did_you_mean(pool, POOLS) or 'it knows ' + ', '.join(POOLS)}"
        for pool in pools
        if pool not in POOLS
    ]


def read_variables(given: Sequence[str]) -> dict[str, str]:
    """`NAME=VALUE` texts as variables; `SDSTREAM_*` ones must be good settings.

    A value such as `{{ RUNPOD_SECRET_name }}`, which RunPod fills in, is taken as it is. Raises `ConfigurationError`.
    """
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.replace("_", "").isalnum() or name[0].isdigit():
            raise ConfigurationError(f"env: {text[:60]!r} is not written NAME=VALUE")
        found[name] = value
    return found


async def deploy(
    kind: Literal["pods", "serverless"], body: Mapping[str, Any], key: str, http: httpx.AsyncClient
) -> Deployed:
    """Post a payload; RunPod's API v2 keeps endpoints under `serverless`.

    Raises `CommandFailed` with RunPod's own words and never the key.
    """
    try:
        response = await http.post(f"{API}/{kind}", json=body, headers={"Authorization": f"Bearer {key}"})
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise CommandFailed(f"RunPod's API cannot be reached ({type(error).__name__})") from None
    except httpx.HTTPError as error:  # what was asked for is on its way, or there
        raise CommandFailed(
            f"RunPod's API was asked and gave no answer ({type(error).__name__})",
            hint=f"It may have been made all the same, and cost money: look at {CONSOLE} before you try again.",
        ) from None
    if response.status_code in (401, 403):
        raise CommandFailed(
            f"RunPod refuses the key (status {response.status_code})",
            hint="RUNPOD_API_KEY needs the right to make pods and endpoints; keys are made in RunPod's console.",
        )
    if not response.is_success:
        words = " ".join(response.text.replace(key, "[redacted]").split())[:500]
        raise CommandFailed(
            f"RunPod answered with status {response.status_code}: {words or 'nothing'}",
            hint=NO_HOST_HINT if "no longer any instances" in words else None,
        )
    try:
        answer = response.json()
    except ValueError:
        raise CommandFailed("RunPod answered with what is no JSON; look at its console") from None
    identifier = cast("dict[str, Any]", answer).get("id") if isinstance(answer, dict) else None
    if not isinstance(identifier, str) or not _ID.fullmatch(identifier):
        raise CommandFailed("RunPod's answer has no id; look at its console")
    return Deployed(identifier, cast("dict[str, Any]", answer))


def _port(variables: Mapping[str, str], name: str, default: int) -> int:
    return _number(PREFIX + name, variables.get(PREFIX + name) or str(default))


def _number(name: str, given: str) -> int:
    # The settings have been looked at, but for what RunPod fills in; variables of other names have not.
    if not re.fullmatch(r"[0-9]{1,5}", given) or not 1 <= int(given) <= LARGEST_PORT:
        raise ConfigurationError(f"env: {name} must be written as a port's number, because that port is mapped")
    return int(given)


def _media_ports(variables: Mapping[str, str], settings: Settings) -> tuple[int, ...]:
    """The TCP ports by which media gets in: coturn's, or those of MediaMTX, whose WebRTC needs a symmetric one."""
    if variables.get(f"{PREFIX}MEDIA_BACKEND", settings.media_backend) != "mediamtx":
        return (_port(variables, "TURN_PORT", settings.turn_port),)
    names = ("MEDIAMTX_RTMP_PORT", "MEDIAMTX_RTSP_PORT")
    off = ("", "0")
    return (
        LEAST_SYMMETRIC,
        *(_port(variables, name, 0) for name in names if variables.get(PREFIX + name, "") not in off),
    )


def _check(common: Common) -> None:
    if not common.name.strip():
        raise ConfigurationError("name: a pod or an endpoint has a name")
    if not _IMAGE.fullmatch(common.image):
        raise ConfigurationError("image: name a tag or a digest; hosts keep what they fetched under a moving name")
    if common.image.endswith(":latest"):
        raise ConfigurationError("image: latest moves, and hosts keep what they fetched under it; name a version")
    if not 1 <= common.gpu_count <= 8:
        raise ConfigurationError("gpu_count: 1 to 8")
    if not _CUDA.fullmatch(common.min_cuda_version):
        raise ConfigurationError("min_cuda_version: a version of CUDA, such as 13.0")
    if common.disk < 20:
        raise ConfigurationError("disk: the unpacked image alone needs 20 GB")
    if len(common.variables) > MOST_VARIABLES:
        raise ConfigurationError(f"env: RunPod takes {MOST_VARIABLES} variables at most")
    for name, values in (
        ("volume", common.volumes),
        ("data_center", common.data_centers),
        ("registry", () if common.registry is None else (common.registry,)),
    ):
        if not all(value.strip() for value in values):  # a variable of the shell that is not set
            raise ConfigurationError(f"{name}: is given and empty")
    if any(not (1 <= port <= LARGEST_PORT or LEAST_SYMMETRIC <= port <= 79_999) for port in common.tcp_ports):
        raise ConfigurationError("tcp: a port lies in 1-65535; 70000 and above ask for a symmetric one")
    _check_settings(common.variables)


def _check_settings(variables: Mapping[str, str]) -> None:
    open_host = {f"{PREFIX}HOST": "0.0.0.0"}  # the image's own
    filled_in = {name: value for name, value in variables.items() if "{{" not in value}
    load_settings(environment=open_host | filled_in)


__all__ = [
    "API",
    "CONSOLE",
    "JOB_SECONDS",
    "LEAST_CUDA",
    "POD_VOLUME",
    "POOLS",
    "REQUEST_SECONDS",
    "Common",
    "Deployed",
    "EndpointPlan",
    "PodPlan",
    "deploy",
    "doubts",
    "doubts_of_cloud",
    "doubts_of_count",
    "read_variables",
]
