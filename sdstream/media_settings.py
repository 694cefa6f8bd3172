"""The settings of encoders, outputs and recordings."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from sdstream.urls import check_bucket_endpoint, split_bucket


class MediaSettings(BaseModel):
    """A part of `Settings`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    media_backend: Literal["embedded", "mediamtx"] = Field(
        default="embedded",
        description="What takes and serves media: this process itself, or MediaMTX as its child, which adds publishing "
        "by RTMP, RTSP and SRT, watching by RTSP and SRT, and WebRTC over TCP.",
    )
    mediamtx_program: str | None = Field(
        default=None,
        description="MediaMTX's program, by name or path, 1.20.1 or later. Unset: MEDIAMTX_BIN, else mediamtx in PATH, "
        "else the one that `sdstream install-mediamtx` put into the data directory.",
    )
    mediamtx_rtmp_port: int | None = Field(
        default=None, ge=1, le=65535, description="TCP port on which MediaMTX takes RTMP. Unset: it takes none."
    )
    mediamtx_rtsp_port: int | None = Field(
        default=None,
        ge=1,
        le=65535,
        description="TCP port on which MediaMTX takes and serves RTSP. Unset: for this machine only.",
    )
    mediamtx_srt_port: int | None = Field(
        default=None, ge=1, le=65535, description="UDP port on which MediaMTX takes and serves SRT. Unset: none."
    )
    mediamtx_webrtc_udp_port: int = Field(
        default=8189, ge=0, le=65535, description="UDP port of WebRTC under MediaMTX; 0 for none."
    )
    mediamtx_webrtc_tcp_port: int | None = Field(
        default=None,
        ge=1,
        le=65535,
        description="TCP port of WebRTC under MediaMTX, for clients and hosts without UDP; it must have the same "
        "number outside. Unset: none, on RunPod the first symmetric port that it maps.",
    )

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
    video_bitrate_follows: bool = Field(
        default=True,
        description="Make pictures coarser while the networks of most WebRTC viewers carry less than the bitrate. They "
        "stay as they are where HLS, a recording or a push has them, too.",
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
        description="Bytes that all recordings together may hold; beyond that the oldest is removed.",
    )
    recording_max_days: float = Field(default=14.0, gt=0, description="Days after which a recording is removed.")
    recording_least_free: int = Field(
        default=500_000_000,
        ge=0,
        description="Bytes of disk that a recording leaves free; it stops before it takes them.",
    )
    recording_bucket: str | None = Field(
        default=None,
        description="Bucket to which finished recordings are moved, as s3://BUCKET/PREFIX; access keys come from where "
        "the AWS tools look for them. Unset: they stay in the data directory.",
    )
    recording_bucket_endpoint: str | None = Field(
        default=None, description="URL of the S3 service of recording_bucket, where it is not Amazon's."
    )
    recording_bucket_region: str | None = Field(default=None, description="Region of recording_bucket.")

    @field_validator("recording_bucket")
    @classmethod
    def _check_bucket(cls, value: str | None) -> str | None:
        if value is not None:
            split_bucket(value)
        return value

    @field_validator("recording_bucket_endpoint")
    @classmethod
    def _check_bucket_endpoint(cls, value: str | None) -> str | None:
        return None if value is None else check_bucket_endpoint(value)

    @model_validator(mode="after")
    def _check_bitrates(self) -> "MediaSettings":
        if self.video_bitrate_least > self.video_bitrate_most:
            raise ValueError("video_bitrate_least must not be above video_bitrate_most")
        taken = [self.mediamtx_rtmp_port, self.mediamtx_rtsp_port, self.mediamtx_webrtc_tcp_port]
        ports = [port for port in taken if port is not None]
        if len(ports) != len(set(ports)):
            raise ValueError("the TCP ports of MediaMTX must differ")
        if self.mediamtx_srt_port is not None and self.mediamtx_srt_port == self.mediamtx_webrtc_udp_port:
            raise ValueError("mediamtx_srt_port and mediamtx_webrtc_udp_port must differ")
        return self


__all__ = ["MediaSettings"]
