"""`sdstream deploy pod|endpoint`: make a pod or a serverless endpoint on RunPod, or show what would be asked for."""

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import httpx
from cyclopts import Parameter

from sdstream.deployment import (
    CONSOLE,
    JOB_SECONDS,
    LEAST_CUDA,
    POD_VOLUME,
    REQUEST_SECONDS,
    Common,
    Deployed,
    EndpointPlan,
    PodPlan,
    doubts,
    doubts_of_cloud,
    doubts_of_count,
    read_variables,
)
from sdstream.deployment import deploy as post
from sdstream.errors import ConfigurationError
from sdstream.http_clients import obeying_variables
from sdstream.job_settings import read_key
from sdstream.reachability import Place, Role
from sdstream.settings import Settings

KEY_VARIABLE = "RUNPOD_API_KEY"

Name = Annotated[str, Parameter(help="What RunPod calls it.")]
Image = Annotated[str, Parameter(help="The image with its tag or digest, such as REGISTRY/sdstream:0.1.0.")]
Count = Annotated[int, Parameter(name="--gpu-count", help="Cards; a server uses one.")]
MinCudaVersion = Annotated[
    str, Parameter(help="The oldest CUDA that a host's driver may know: the image's own, 12.6 for the target cuda12.")
]
Disk = Annotated[int, Parameter(help="The container's disk in GB; it must hold the unpacked image.")]
DataCenters = Annotated[list[str] | None, Parameter(name="--data-center", help="Data centre id; repeatable.")]
Volumes = Annotated[list[str] | None, Parameter(name="--volume", help="Id of a network volume.")]
Registry = Annotated[str | None, Parameter(help="Id of RunPod's credential for a private registry.")]
Variables = Annotated[
    list[str] | None,
    Parameter(name="--env", help="NAME=VALUE for the container; repeatable. RunPod fills in {{ RUNPOD_SECRET_name }}."),
]
TcpPorts = Annotated[list[int] | None, Parameter(name="--tcp", help="A further TCP port to map; repeatable.")]
DryRun = Annotated[bool, Parameter(name="--dry-run", help="Print the payload and ask RunPod for nothing.", negative=())]


def deploy(
    what: Annotated[Literal["pod", "endpoint"], Parameter(help="A pod, or a serverless endpoint.")],
    *,
    image: Image,
    name: Name = "sdstream",
    gpu: Annotated[
        list[str] | None,
        Parameter(help="pod: a card's id (NVIDIA GeForce RTX 4090). endpoint: a pool (ADA_24), repeatable."),
    ] = None,
    gpu_count: Count = 1,
    min_cuda_version: MinCudaVersion = LEAST_CUDA,
    disk: Disk = 50,
    data_center: DataCenters = None,
    volume: Volumes = None,
    registry: Registry = None,
    env: Variables = None,
    tcp: TcpPorts = None,
    cloud: Annotated[Literal["secure", "community"], Parameter(help="pod: which cloud.")] = "secure",
    volume_path: Annotated[str, Parameter(help="pod: where the volume appears.")] = POD_VOLUME,
    load_balancer: Annotated[
        bool, Parameter(help="endpoint: balance HTTP over workers instead of queueing jobs.", negative=())
    ] = False,
    exclude: Annotated[list[str] | None, Parameter(help="endpoint: a card of the pools that is not wanted.")] = None,
    workers_min: Annotated[int, Parameter(help="endpoint: workers that are always there, and paid for.")] = 0,
    workers_max: Annotated[int, Parameter(help="endpoint: workers at most.")] = 3,
    idle_timeout: Annotated[int, Parameter(help="endpoint: seconds a worker waits for the next job.")] = 60,
    timeout: Annotated[
        int, Parameter(help="endpoint: seconds that one job, which is one session, may take.")
    ] = JOB_SECONDS,
    flashboot: Annotated[bool, Parameter(help="endpoint: keep the state of workers that are stopped.")] = True,
    dry_run: DryRun = False,
) -> int:
    """Make a pod or an endpoint on RunPod by its REST API, with the key in RUNPOD_API_KEY.

    With --dry-run nothing is asked for: the exact payload is printed. A pod costs money from its start until it is
    stopped in RunPod's console.
    """
    common = Common(
        name=name,
        image=image,
        gpu_count=gpu_count,
        disk=disk,
        data_centers=tuple(data_center or ()),
        volumes=tuple(volume or ()),
        registry=registry,
        variables=read_variables(env or ()),
        tcp_ports=tuple(tcp or ()),
        min_cuda_version=min_cuda_version,
    )
    _refuse_flags_of_the_other(
        what,
        pod={"cloud": cloud != "secure", "volume-path": volume_path != POD_VOLUME},
        endpoint={
            "load-balancer": load_balancer,
            "exclude": bool(exclude),
            "workers-min": workers_min != 0,
            "workers-max": workers_max != 3,
            "idle-timeout": idle_timeout != 60,
            "timeout": timeout != JOB_SECONDS,
            "flashboot": not flashboot,
        },
    )
    if what == "pod":
        if len(gpu or ()) != 1:
            raise ConfigurationError("gpu: a pod has cards of one type; name it with --gpu")
        plan = PodPlan(common, (gpu or [""])[0], "SECURE" if cloud == "secure" else "COMMUNITY", volume_path)
        body = plan.payload(Settings())
        for doubt in doubts_of_cloud(cloud):
            print(f"sdstream: cloud: {doubt}", file=sys.stderr)
    else:
        body = EndpointPlan(
            common,
            tuple(gpu or ()),
            "LOAD_BALANCER" if load_balancer else "QUEUE",
            tuple(exclude or ()),
            workers_min,
            workers_max,
            idle_timeout,
            timeout,
            flashboot,
        ).payload(Settings())
        for doubt in doubts(gpu or ()):
            print(f"sdstream: gpu: {doubt}", file=sys.stderr)
    for doubt in doubts_of_count(gpu_count):
        print(f"sdstream: gpu_count: {doubt}", file=sys.stderr)
    if dry_run:
        print(json.dumps(body, indent=2))
        return 0
    given = os.environ.get(KEY_VARIABLE, "")
    if not given:
        raise ConfigurationError(f"{KEY_VARIABLE} is not set", hint="--dry-run needs no key.")
    try:
        key = read_key(given)
    except ValueError as error:
        raise ConfigurationError(f"{KEY_VARIABLE}: {error}") from None
    made = asyncio.run(_post("pods" if what == "pod" else "serverless", body, key))
    print(f"RunPod made the {what} {made.id}")
    for line in describe(what, made, body):
        print(f"  {line}")
    return 0


def describe(what: str, made: Deployed, body: dict[str, Any]) -> list[str]:
    """Where the new thing will be reached, and where it is stopped."""
    if what == "pod":
        port = int(body["ports"][0].partition("/")[0])
        base = Place(Role.POD, made.id).public_base(port)
        return [f"opens at {base} when it runs", f"stop it at {CONSOLE}/pods"]
    if body["type"] == "LOAD_BALANCER":
        return [
            f"answers at https://{made.id}.api.runpod.ai",
            "every request there needs RunPod's API key: Authorization: Bearer rpa_...",
            f"change it at {CONSOLE}/serverless",
        ]
    return [f"takes jobs at https://api.runpod.ai/v2/{made.id}/run", f"change it at {CONSOLE}/serverless"]


def _refuse_flags_of_the_other(what: str, *, pod: Mapping[str, bool], endpoint: Mapping[str, bool]) -> None:
    """Who gives one wants what this will not do, and would find out when it costs money."""
    for name, given in (endpoint if what == "pod" else pod).items():
        if given:
            other, own = ("endpoints", "a pod") if what == "pod" else ("pods", "an endpoint")
            raise ConfigurationError(f"--{name} is for {other}; this makes {own}")


async def _post(kind: Literal["pods", "serverless"], body: dict[str, Any], key: str) -> Deployed:
    with obeying_variables():
        client = httpx.AsyncClient(timeout=REQUEST_SECONDS)
    async with client as http:
        return await post(kind, body, key, http)


__all__ = ["KEY_VARIABLE", "deploy", "describe"]
