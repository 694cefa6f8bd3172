"""The settings of WebRTC's way in: which mode, our own coturn, TURN servers and services elsewhere."""

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

WebRtcMode = Literal["auto", "udp", "turn-local", "turn-external", "off"]

_ADDRESS = re.compile(r"(?:[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):[0-9]{1,5}")


class TurnSettings(BaseModel):
    """A part of `Settings`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    webrtc_mode: WebRtcMode = Field(
        default="auto",
        description="How WebRTC media travels: udp straight; turn-local through a coturn child on one TCP port; "
        "turn-external through a TURN server elsewhere; off. auto is udp, on RunPod whichever TURN there is.",
    )
    turn_username: str | None = Field(default=None, description="User name at the TURN servers of webrtc_ice_servers.")
    turn_credential: SecretStr | None = Field(
        default=None, description="Password at the TURN servers of webrtc_ice_servers."
    )
    turn_port: int = Field(default=3478, ge=1, le=65535, description="TCP port that the coturn child listens on.")
    turn_address: str | None = Field(
        default=None,
        description="HOST:PORT at which clients reach turn_port. Unset: RunPod's mapping, else the host that the "
        "client calls.",
    )
    turn_lifetime: int = Field(
        default=3600, ge=30, le=86400, description="Seconds in which a client must begin with the TURN password it got."
    )
    turn_program: str = Field(default="turnserver", description="coturn's program, by name or path.")
    cloudflare_turn_key_id: str | None = Field(
        default=None, description="Id of a Cloudflare TURN key: credentials are fetched as sessions begin."
    )
    cloudflare_turn_api_token: SecretStr | None = Field(default=None, description="API token of that Cloudflare key.")
    twilio_account_sid: str | None = Field(
        default=None,
        description="Twilio account for TURN: credentials are fetched as sessions begin.",
    )
    twilio_auth_token: SecretStr | None = Field(default=None, description="Auth token of that Twilio account.")

    @field_validator("turn_address")
    @classmethod
    def _check_turn_address(cls, value: str | None) -> str | None:
        if value is not None and not _ADDRESS.fullmatch(value):
            raise ValueError("an address is written HOST:PORT, an IPv6 one [HOST]:PORT")
        return value

    @model_validator(mode="after")
    def _check_turn(self) -> "TurnSettings":
        for one, other in (
            ("turn_username", "turn_credential"),
            ("cloudflare_turn_key_id", "cloudflare_turn_api_token"),
            ("twilio_account_sid", "twilio_auth_token"),
        ):
            if (getattr(self, one) is None) != (getattr(self, other) is None):
                raise ValueError(f"{one} and {other} are set together or not at all")
        return self


__all__ = ["TurnSettings", "WebRtcMode"]
