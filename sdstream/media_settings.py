"""The settings of encoders, outputs and recordings."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class MediaSettings(BaseModel):
    """A part of `Settings`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    video_bitrate: int = Field(
        default=1_500_000,
        ge=100_000,
        le=50_000_000,
        description="Bits a second of a 512x512 output at 30 frames a second. Other sizes scale with the pixel count, "
        "other rates with the square root of the rate.",
    )
    video_bitrate_least: int = Field(
        default=100_000,
        ge=50_000,
        le=50_000_000,
        description="Bits a second that an output has at least, whatever its size and frame rate.",
    )
    video_bitrate_most: int = Field(
        default=50_000_000,
        ge=50_000,
        le=200_000_000,
        description="Bits a second that an output has at most, whatever its size and frame rate.",
    )
    video_encoder: Literal["auto", "x264", "nvenc"] = Field(
        default="auto", description="H.264 encoder; auto takes NVENC where a probe succeeds, else x264."
    )
    output_allow_private: bool = Field(
        default=False,
        description="Let streams push to RTMP servers in private networks, this machine included. Leave it off where "
        "callers are not the owners of the network.",
    )

    recording_max_bytes: int = Field(
        default=20_000_000_000,
        ge=0,
        description="Bytes that all recordings together may hold; behind that the oldest goes.",
    )
    recording_max_days: float = Field(default=14.0, gt=0, description="Days after which a recording is removed.")
    recording_least_free: int = Field(
        default=500_000_000,
        ge=0,
        description="Bytes of disk that a recording leaves free; it stops before it takes them.",
    )
    recording_bucket: str | None = Field(
        default=None,
        pattern=r"^s3://[^/?#@]+(/[^?#]*)?$",
        description="Bucket to which finished recordings are moved, as s3://BUCKET/PREFIX; access keys come from where "
        "the AWS tools look for them. Unset: they stay in the data directory.",
    )
    recording_bucket_endpoint: str | None = Field(
        default=None, description="URL of the S3 service of recording_bucket, where it is not Amazon's."
    )
    recording_bucket_region: str | None = Field(default=None, description="Region of recording_bucket.")

    @model_validator(mode="after")
    def _check_bitrates(self) -> "MediaSettings":
        if self.video_bitrate_least > self.video_bitrate_most:
            raise ValueError("video_bitrate_least must not be above video_bitrate_most")
        return self


__all__ = ["MediaSettings"]
