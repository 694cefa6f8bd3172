"""Every setting of sdstream: from flags, from `SDSTREAM_*` variables, or from one YAML file, in that order.

The object is frozen. An unknown `SDSTREAM_*` variable or key stops the program with a line that names it and, where one
is near, the setting that was meant.
"""

import difflib
import ipaddress
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import yaml
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from sdstream.errors import ConfigurationError
from sdstream.job_settings import JobSettings
from sdstream.media_settings import MediaSettings
from sdstream.reachability import platform_settings
from sdstream.turn_settings import TurnSettings
from sdstream.worker_settings import WorkerSettings

PREFIX = "SDSTREAM_"
CONFIG_VARIABLE = "SDSTREAM_CONFIG"
"""The variable that names the YAML file; not a setting itself."""

Family = Literal["sd-turbo", "sdxl-turbo", "sd15"]


class ModelSource(BaseModel):
    """Where the weights of one public model id come from.

    `source` is a diffusers directory, a single `.safetensors` file, or a hub id, with `@REVISION` or without. `family`
    is for ids that Daydream does not have, and needed there.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    family: Family | None = None


class ControlNetSource(BaseModel):
    """Where the weights of one ControlNet come from: a diffusers directory, or a hub id with `@REVISION` or without.

    The rest is for ids that Daydream does not have: the `family` is needed for them, `conditioning_channels` are those
    of the control picture (6: two pictures), and `preprocessor` is the image processor that usually makes it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = Field(min_length=1)
    family: Family | None = None
    conditioning_channels: Literal[3, 6] | None = None
    preprocessor: str | None = None


class ServerSettings(BaseModel):
    """The settings of a server, wherever it runs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = Field(default="127.0.0.1", description="Address the HTTP server listens on; 0.0.0.0 for all.")
    port: int = Field(default=8080, ge=0, le=65535, description="Port of the HTTP server; 0 takes a free one.")
    health_port: int | None = Field(
        default=None,
        ge=1,
        le=65535,
        description="A second port, if another than port, that answers /ping, /health and /ready only. Unset: none, or "
        "RunPod's PORT_HEALTH.",
    )
    public_url: str | None = Field(
        default=None,
        description="Base URL that clients use, such as https://video.example.org/base. Unset: from each request, on "
        "RunPod from its variables.",
    )
    trust_proxy_headers: bool = Field(
        default=False, description="Believe X-Forwarded-Proto and X-Forwarded-Host of the proxy in front."
    )
    data_dir: Path | None = Field(
        default=None,
        description="Where streams, keys and models are kept. Unset: a writable /runpod-volume or /workspace, else the "
        "user's data directory.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least level logged."
    )
    log_format: Literal["auto", "console", "json"] = Field(
        default="auto", description="How log lines look; auto is console on a terminal, JSON elsewhere."
    )

    authentication: bool = Field(
        default=True, description="Ask for a bearer key on the REST API. Can be switched off only on a loopback host."
    )
    api_keys: tuple[SecretStr, ...] = Field(
        default=(), description="Bearer keys that are accepted besides those of keys.json, separated by commas."
    )
    anonymous_status: bool = Field(
        default=True,
        description="Answer GET /v1/streams/{id}/status without a key, as Daydream's Chrome extension needs.",
    )
    api_key_endpoint: bool = Field(
        default=False, description="Offer POST /v1/api-key, which gives a new key to the holder of a good one."
    )

    models: Mapping[str, ModelSource] = Field(
        default_factory=dict[str, ModelSource],
        description="Public model id to a diffusers directory, a single .safetensors file or a hub id (OWNER/NAME or "
        'OWNER/NAME@REVISION), as JSON; a value is the source or {"source": ..., "family": "sd-turbo" | "sdxl-turbo" '
        '| "sd15"}, the family needed for further ids.',
    )
    controlnets: Mapping[str, ControlNetSource] = Field(
        default_factory=dict[str, ControlNetSource],
        description="ControlNet id to a diffusers directory or a hub id, as JSON; further ids than Daydream's need "
        '{"source": ..., "family": ...}, and may say "conditioning_channels" (3, or 6 for two pictures) and '
        '"preprocessor".',
    )
    default_model: str = Field(
        default="stabilityai/sd-turbo", description="The model of a stream whose create request names none."
    )
    warm_start: bool = Field(
        default=False,
        description="Load the default model, and make a picture with it, before /ready and /ping say ready. Off: the "
        "first stream that needs a model loads it.",
    )
    offline: bool = Field(
        default=False,
        description="Fetch no models, LoRAs and programs: what is not on this machine is refused. HF_HUB_OFFLINE=1 "
        "does the same for models and LoRAs. Style images at URLs and engines of a bucket are fetched all the same.",
    )
    shipped_pins: bool = Field(
        default=True,
        description="Fetch published models at the commits, and with the SHA-256, that this version of sdstream knows "
        "them by; what models/pins.json in the data directory says of one counts more. Off: the newest of each.",
    )
    full_vae: bool = Field(
        default=False, description="Use each model's own VAE in place of the small TAESD: finer pictures, much slower."
    )
    size_policy: Literal["reject", "clamp"] = Field(
        default="reject",
        description="What happens to a width or height outside 384..1024 or off the 64 grid: 400, or the nearest good "
        "value (for TouchDesigner's size menu).",
    )

    max_streams: int = Field(
        default=16,
        ge=1,
        description="Streams that may be in use: with a publisher, or used within publisher_timeout; then 429.",
    )
    max_viewers: int = Field(default=20, ge=1, description="Viewers of one stream; then 429.")
    max_body_bytes: int = Field(
        default=12_000_000, ge=10_000, description="Largest REST body; larger ones are answered 413."
    )
    create_rate: float = Field(
        default=5.0, gt=0, description="Streams one key may create a second, with bursts of ten seconds' worth."
    )
    update_rate: float = Field(
        default=60.0, ge=30, description="PATCH requests one stream takes a second, with bursts of two seconds' worth."
    )
    publisher_timeout: float = Field(
        default=60.0,
        gt=0,
        description="Seconds without a picture from the publisher before its session is ended; and seconds for which "
        "all is kept for one that left.",
    )
    idle_stream_timeout: float = Field(
        default=3600.0, gt=0, description="Seconds without publisher, viewer or request before a stream is deleted."
    )
    max_frame_rate: float = Field(
        default=60.0,
        gt=0,
        le=240,
        description="Pictures a second that one stream may give the worker; more are dropped before it.",
    )

    webrtc_addresses: tuple[str, ...] = Field(
        default=(),
        description="IP addresses put into SDP answers, separated by commas. Unset: those of this machine's "
        "interfaces, loopback included when the HTTP server listens there, and the IP address that a client called.",
    )
    webrtc_ports: tuple[int, int] | None = Field(
        default=None, description="Range of UDP ports for WebRTC, such as 40000-40100. Unset: any free port."
    )
    webrtc_ice_servers: tuple[str, ...] = Field(
        default=(),
        description="STUN and TURN URLs such as stun:stun.example.org:3478 and turn:turn.example.org?transport=tcp, "
        "separated by commas; none by default. Clients are told all of them, and this server asks the first STUN "
        "server for its own address.",
    )

    @field_validator("api_keys", "webrtc_addresses", "webrtc_ice_servers", mode="before")
    @classmethod
    def _split_commas(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("webrtc_ports", mode="before")
    @classmethod
    def _split_range(cls, value: Any) -> Any:
        if isinstance(value, str):
            first, dash, last = value.partition("-")
            if not dash:
                raise ValueError("a range of ports is written FIRST-LAST")
            return first.strip(), last.strip()
        return value

    @field_validator("webrtc_ports")
    @classmethod
    def _check_range(cls, value: tuple[int, int] | None) -> tuple[int, int] | None:
        if value is not None and not 1 <= value[0] <= value[1] <= 65535:
            raise ValueError("the range must lie in 1-65535, lowest first")
        return value

    @field_validator("webrtc_addresses")
    @classmethod
    def _check_addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for address in value:
            ipaddress.ip_address(address)
        return value

    @field_validator("public_url")
    @classmethod
    def _check_url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if not value.startswith(("http://", "https://")):
            raise ValueError("must start with http:// or https://")
        return value.rstrip("/")

    @field_validator("models", "controlnets", mode="before")
    @classmethod
    def _read_models(cls, value: Any) -> Any:
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except json.JSONDecodeError as error:
                raise ValueError(f"must be a JSON object of id and source: {error}") from None
        if isinstance(value, Mapping):
            entries = cast("Mapping[Any, Any]", value)
            return {name: {"source": entry} if isinstance(entry, str) else entry for name, entry in entries.items()}
        return value

    @model_validator(mode="after")
    def _check_open_server(self) -> "ServerSettings":
        if not self.authentication and not is_loopback(self.host):
            raise ValueError("authentication can be switched off only when host is a loopback address")
        return self


class Settings(JobSettings, TurnSettings, WorkerSettings, MediaSettings, ServerSettings):
    """All settings, validated. `load_settings` reads them from their sources."""

    # No number may be infinite: times and sizes become whole milliseconds and bytes later, which infinity cannot.
    model_config = ConfigDict(allow_inf_nan=False)


def is_loopback(host: str) -> bool:
    """Whether `host` can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def load_settings(
    flags: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> Settings:
    """Read the settings; a flag beats a variable, a variable beats the file.

    `flags` holds only what was given. `file` defaults to the one that `SDSTREAM_CONFIG` names, if any.
    Raises `ConfigurationError` whose message has one line for each thing that is wrong.
    """
    environment = os.environ if environment is None else environment
    if file is None and environment.get(CONFIG_VARIABLE):
        file = Path(environment[CONFIG_VARIABLE])
    values = dict[str, Any](platform_settings(environment))
    from_file = _from_file(file) if file else {}
    written = {name: f"{name} in {file}" for name in from_file}
    from_environment = _from_environment(environment)
    written |= {name: PREFIX + name.upper() for name in from_environment}
    written |= {name: f"--{name.replace('_', '-')}" for name in flags or {}}
    try:
        return Settings.model_validate(values | from_file | from_environment | dict(flags or {}))
    except ValidationError as error:
        lines = dict.fromkeys(_describe(problem, written) for problem in error.errors(include_url=False))
        raise ConfigurationError("\n".join(lines)) from None


def _from_file(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text("utf-8"))
    except OSError as error:
        raise ConfigurationError(f"cannot read the settings file {file}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"the settings file {file} is not YAML: {error}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigurationError(f"the settings file {file} must hold `name: value` lines")
    values = {str(name): value for name, value in cast("dict[Any, Any]", content).items()}
    for name in values:
        _refuse_unknown(name, f"{name} in {file}")
    return values


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for variable, value in environment.items():
        if not variable.startswith(PREFIX) or variable == CONFIG_VARIABLE:
            continue
        name = variable.removeprefix(PREFIX).lower()
        _refuse_unknown(name, variable, prefix=PREFIX)
        if value != "":  # `SDSTREAM_PORT= command` means: not set
            values[name] = value
    return values


def _refuse_unknown(name: str, written: str, prefix: str = "") -> None:
    if name in Settings.model_fields:
        return
    near = difflib.get_close_matches(name, Settings.model_fields, n=1)
    meant = near[0] if near else None
    suggestion = f"; did you mean {prefix + (meant.upper() if prefix else meant)}?" if meant else ""
    raise ConfigurationError(f"{written} is not a setting of sdstream{suggestion}")


def _describe(problem: ErrorDetails, written: Mapping[str, str]) -> str:
    """One line on what is wrong, with the setting as its user wrote it; `written` has that by name."""
    name = str(problem["loc"][0]) if problem["loc"] else ""
    inside = [str(part) for part in problem["loc"][1:] if isinstance(part, str)]
    place = "".join(f"{part}: " for part in (written.get(name, name), *inside)) if name else ""
    kind, context = problem["type"], problem.get("ctx", {})
    # The value is repeated where it was to be a number or a choice, which no secret is.
    if kind in _WORDS:
        return f"{place}must be {_WORDS[kind]}, not {problem['input']!r}"
    if kind in _LIMITS:
        words, member = _LIMITS[kind]
        return f"{place}must be {words} {context[member]:g}, not {problem['input']}"
    if kind == "literal_error":
        return f"{place}must be {context['expected']}, not {problem['input']!r}"
    return place + (_FIXED.get(kind) or problem["msg"].removeprefix("Value error, "))


_FIXED = {"missing": "is missing", "extra_forbidden": "is not a member that is known here"}
_WORDS = {
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
}
_LIMITS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
}

__all__ = [
    "CONFIG_VARIABLE",
    "PREFIX",
    "ControlNetSource",
    "Family",
    "ModelSource",
    "ServerSettings",
    "Settings",
    "is_loopback",
    "load_settings",
]
