"""The settings of serverless workers and of the gateway; `sdstream.settings` reads them with the others."""

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from sdstream.urls import split_url


class JobSettings(BaseModel):
    """Placement, sessions, the directory in Redis, and the limits of jobs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    placement: Literal["local", "runpod"] = Field(
        default="local",
        description="Where streams run: in this server, or in the workers of a RunPod serverless endpoint, for which "
        "this server is the gateway.",
    )
    endpoint: str | None = Field(default=None, description="Id of the RunPod endpoint, for placement runpod.")
    runpod_api_key: SecretStr | None = Field(
        default=None, description="RunPod's API key, for placement runpod. Unset: the variable RUNPOD_API_KEY."
    )
    runpod_api_url: str = Field(
        default="https://api.runpod.ai/v2", description="Base URL of the endpoint API, without the endpoint's id."
    )
    endpoint_start_timeout: float = Field(
        default=90.0,
        gt=0,
        description="Seconds that the gateway waits for a worker to take a new stream; then 503, and the job is "
        "cancelled.",
    )
    redis_url: SecretStr | None = Field(
        default=None,
        description="Redis in which serverless workers and gateways find each other's sessions, such as "
        "rediss://:password@host:6379/0. Unset: each knows its own only.",
    )
    session_lease: float = Field(
        default=10.0, ge=1, description="Seconds after which the sessions of a worker that is gone are forgotten."
    )
    worker_sessions: int = Field(
        default=1, ge=1, description="Sessions that one serverless worker takes at a time; then STREAMS/CAPACITY."
    )
    control_slots: int = Field(
        default=8, ge=1, description="Further jobs that a serverless worker takes beside its sessions."
    )
    session_max_seconds: float = Field(
        default=3600.0, gt=0, description="Longest life of a serverless session; a job may ask for less."
    )
    session_idle_timeout: float = Field(
        default=300.0,
        gt=0,
        description="Seconds without publisher, viewer, control job or call of its control URL before a serverless "
        "session ends.",
    )
    session_status_interval: float = Field(
        default=5.0, ge=0.1, description="Seconds between the status events of a serverless session, at first."
    )
    platform_timeout: float = Field(
        default=300.0,
        ge=0,
        description="Seconds after which a serverless worker that runs no job ends, with exit code 1, because nothing "
        "connects to RunPod's queue; 0: never.",
    )
    max_download_bytes: int = Field(
        default=2_000_000_000, ge=1000, description="Largest file that a render job reads from a URL or a bucket."
    )
    download_timeout: float = Field(
        default=600.0, gt=0, description="Seconds that a render job may take to read its source from a URL."
    )
    private_downloads: bool = Field(
        default=False, description="Let render jobs read from private addresses, such as a store in the same network."
    )

    @field_validator("endpoint")
    @classmethod
    def _check_endpoint(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Za-z0-9_-]{1,80}", value):
            raise ValueError("must be an endpoint's id: letters, digits, - and _")
        return value

    @field_validator("runpod_api_key")
    @classmethod
    def _check_key(cls, value: SecretStr | None) -> SecretStr | None:
        return None if value is None else SecretStr(read_key(value.get_secret_value()))

    @field_validator("runpod_api_url")
    @classmethod
    def _check_api_url(cls, value: str) -> str:
        _check_address(value, ("http", "https"))
        return value

    @field_validator("redis_url")
    @classmethod
    def _check_redis_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            _check_address(value.get_secret_value(), ("redis", "rediss", "unix"))
        return value

    @model_validator(mode="after")
    def _check_placement(self) -> "JobSettings":
        if self.placement == "runpod" and not self.endpoint:
            raise ValueError("placement runpod needs the id of the endpoint: --endpoint ID")
        return self


def read_key(text: str) -> str:
    """A key of RunPod's, without the line break of the file that it comes from. Raises `ValueError`, not showing it."""
    key = text.strip()
    if not re.fullmatch(r"[!-~]+", key):  # a header can carry no more
        raise ValueError("must be a key, which has no spaces and nothing but ASCII")
    return key


def _check_address(url: str, schemes: tuple[str, ...]) -> None:
    """Raises `ValueError` with words that do not repeat the address: it may hold a password."""
    written = " or ".join(f"{scheme}://" for scheme in schemes)
    is_socket = "unix" in schemes and url.startswith("unix:") and "/" in url.removeprefix("unix://")
    if not is_socket and split_url(url, schemes) is None:
        raise ValueError(f"must be an address that begins with {written}")


__all__ = ["JobSettings", "read_key"]
