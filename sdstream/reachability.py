"""How this process can be reached from outside when RunPod runs it: a pure reading of the environment.

RunPod gives a container three kinds of ways in, and tells of two of them by variables:

    8080/http   https://PODID-8080.proxy.runpod.net      always there for a pod, no variable says so
    3478/tcp    RUNPOD_PUBLIC_IP:RUNPOD_TCP_PORT_3478    another number outside than inside
    70000/tcp   RUNPOD_PUBLIC_IP:RUNPOD_TCP_PORT_70000   the variable's value inside and outside (symmetric)

UDP is offered nowhere. The numbers change with every start, so nothing here is kept beyond the process.
"""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

LEAST_SYMMETRIC = 70000
"""Asking RunPod for a TCP port from here on means: any number, but the same inside and outside."""
PORT_VARIABLES = {"port": "PORT", "health_port": "PORT_HEALTH"}
"""Settings and the variables by which RunPod's load balancer says where it will ask; read on RunPod only."""

_ID = re.compile(r"[A-Za-z0-9-]{1,63}")
_TCP_PORT = re.compile(r"RUNPOD_TCP_PORT_([0-9]{1,6})")


class Role(StrEnum):
    """What kind of RunPod container this is."""

    POD = "pod"
    QUEUE_WORKER = "queue worker"
    LOAD_BALANCER_WORKER = "load balancer worker"


@dataclass(frozen=True, slots=True)
class Place:
    """What the environment says about the way in. `tcp_ports` maps the port asked for to the one outside."""

    role: Role
    pod_id: str | None = None
    endpoint_id: str | None = None
    public_ip: str | None = None
    tcp_ports: Mapping[int, int] = field(default_factory=dict[int, int])
    problems: tuple[str, ...] = ()
    """Variables that could not be understood, one line each."""

    @property
    def symmetric_ports(self) -> tuple[int, ...]:
        """Ports that are the same inside and outside, in ascending order."""
        return tuple(sorted(outside for asked, outside in self.tcp_ports.items() if asked >= LEAST_SYMMETRIC))

    def tcp_address(self, port: int) -> tuple[str, int] | None:
        """The address and port outside that lead to `port` inside, None where RunPod maps none."""
        outside = self.tcp_ports.get(port)
        if outside is None and port in self.symmetric_ports:
            outside = port
        if outside is None or self.public_ip is None:
            return None
        return self.public_ip, outside

    def bases(self, port: int) -> dict[str, str]:
        """The `Host` header of each way in to the HTTP server on `port`, and the base URL that belongs to it.

        The first is the one for clients that did not come by any of them.
        """
        found: dict[str, str] = {}
        if self.role is Role.LOAD_BALANCER_WORKER and self.endpoint_id:
            host = f"{self.endpoint_id}.api.runpod.ai"
            found[host] = f"https://{host}"
        address = self.tcp_address(port)
        if address is not None:
            host = join_address(*address)
            found[host] = f"http://{host}"
        if self.role is Role.POD and self.pod_id:
            host = f"{self.pod_id}-{port}.proxy.runpod.net"
            found[host] = f"https://{host}"
        return found

    def public_base(self, port: int) -> str | None:
        """The base URL at which clients outside reach the HTTP server on `port`; None where there is no way in."""
        return next(iter(self.bases(port).values()), None)

    def is_private_name(self, host: str) -> bool:
        """Whether `host`, of a `Host` header, is this pod's name on RunPod's private network."""
        return self.pod_id is not None and host.partition(":")[0].lower() == f"{self.pod_id}.runpod.internal".lower()


def find_place(environment: Mapping[str, str]) -> Place | None:
    """What RunPod's variables say; None when they say that this is not RunPod.

    They are there for the first process of the container only: a shell of SSH does not see them.
    """
    pod_id, endpoint_id = environment.get("RUNPOD_POD_ID", ""), environment.get("RUNPOD_ENDPOINT_ID", "")
    if not pod_id and not endpoint_id:
        return None
    problems: list[str] = []
    for name, value in (("RUNPOD_POD_ID", pod_id), ("RUNPOD_ENDPOINT_ID", endpoint_id)):
        if value and not _ID.fullmatch(value):
            problems.append(f"{name} is no id")
    return Place(
        role=_role(environment),
        pod_id=pod_id if _ID.fullmatch(pod_id) else None,
        endpoint_id=endpoint_id if _ID.fullmatch(endpoint_id) else None,
        public_ip=_public_ip(environment, problems),
        tcp_ports=_tcp_ports(environment, problems),
        problems=tuple(problems),
    )


def platform_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Settings that RunPod gives by variables of its own, for where none of ours says otherwise."""
    if find_place(environment) is None:
        return {}
    return {name: environment[variable] for name, variable in PORT_VARIABLES.items() if environment.get(variable)}


def join_address(host: str, port: int) -> str:
    """`host:port`, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _role(environment: Mapping[str, str]) -> Role:
    if environment.get("RUNPOD_WEBHOOK_GET_JOB"):  # the SDK's own test for a queue
        return Role.QUEUE_WORKER
    if environment.get("RUNPOD_ENDPOINT_ID") or environment.get("PORT_HEALTH"):
        return Role.LOAD_BALANCER_WORKER
    return Role.POD


def _public_ip(environment: Mapping[str, str], problems: list[str]) -> str | None:
    given = environment.get("RUNPOD_PUBLIC_IP", "").strip()
    if not given:
        return None
    try:
        return str(ipaddress.ip_address(given))
    except ValueError:
        problems.append("RUNPOD_PUBLIC_IP is no IP address")
        return None


def _tcp_ports(environment: Mapping[str, str], problems: list[str]) -> dict[int, int]:
    found: dict[int, int] = {}
    for name, value in environment.items():
        match = _TCP_PORT.fullmatch(name)
        if match is None:
            if name.startswith("RUNPOD_TCP_PORT_"):
                problems.append(f"{name[:60]} names no port")
            continue
        if not (value.isascii() and value.isdigit() and 0 < int(value) < 65536):
            problems.append(f"{name} is no port number")
            continue
        found[int(match[1])] = int(value)
    return dict(sorted(found.items()))


__all__ = [
    "LEAST_SYMMETRIC",
    "PORT_VARIABLES",
    "Place",
    "Role",
    "find_place",
    "join_address",
    "platform_settings",
]
