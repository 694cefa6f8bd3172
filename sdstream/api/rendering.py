"""Streams as the wire shows them: strict and complete, every member always present (contract 1.4, 1.7, 4.1)."""

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from sdstream.api.addresses import PublicAddress
from sdstream.clock import epoch_milliseconds
from sdstream.media.ports import MediaStatistics, OutputStatistics, TrackStatistics
from sdstream.params import wire_params
from sdstream.streams.recordings import Recording
from sdstream.streams.views import StreamEvent, StreamRecord, StreamState, StreamStatus
from sdstream.worker.ports import LaneStatus

PIPELINE = "streamdiffusion"
LONGEST_LISTED_URI = 200
"""Characters of a data URI that a list or a status shows; a style image can have megabytes."""
NAMES_OF_ITS_OWN = (
    "id",
    "stream_key",
    "created_at",
    "output_playback_id",
    "output_stream_url",
    "whip_url",
    "whep_url",
    "hls_url",
)
"""What a stream has from the moment on in which it is made."""
BAD_LOSS_PERCENT = 5.0
"""From here on the connection of a publisher is called bad."""


def stream_object(
    record: StreamRecord,
    address: PublicAddress,
    state: StreamState,
    params: Mapping[str, Any] | msgspec.Raw,
    warnings: tuple[str, ...] = (),
) -> dict[str, Any]:
    """The stream object: Daydream's 13 members, `id` first for OBS's text search, then the extensions."""
    whep_url = address.whep_url(record)
    return {
        "id": record.id,
        "stream_key": record.stream_key,
        "created_at": iso_milliseconds(record.created_at),
        "pipeline": PIPELINE,
        "params": params,
        "name": record.name,
        "author": record.author,
        "from_playground": record.from_playground,
        "gateway_host": address.host,
        "is_smoke_test": record.is_smoke_test,
        "output_playback_id": record.output_playback_id,
        "output_stream_url": whep_url,
        "whip_url": address.whip_url(record),
        "whep_url": whep_url,
        "hls_url": address.hls_url(record),
        "outputs": record.delivery.wire_outputs,
        "recording": record.delivery.wire_recording,
        "status": state.value,
        "revision": record.revision,
        "warnings": list(warnings),
    }


def planned_object(record: StreamRecord, address: PublicAddress, warnings: tuple[str, ...] = ()) -> dict[str, Any]:
    """The stream object of a dry run: as a create would answer, with null for the names that no stream has yet."""
    made = stream_object(record, address, StreamState.OFFLINE, wire_params(record.params), warnings)
    return made | dict.fromkeys(NAMES_OF_ITS_OWN) | {"dry_run": True}


def status_object(record: StreamRecord, status: StreamStatus, address: PublicAddress) -> dict[str, Any]:
    """`data` of the status envelope: the names of the runner and those of the documentation, moments in integer ms."""
    params = shorten_data_uris(status.last_params) if status.last_params is not None else None
    started = epoch_milliseconds(status.started_at)
    last_input = _milliseconds(status.last_input_at)
    last_error = _milliseconds(status.last_error_at)
    gateway: dict[str, Any] = {
        "error": {"error_message": status.last_error, "error_time": last_error} if status.last_error else None,
        "ingest_metrics": {"stats": ingest_statistics(status.media, record.id)},
    }
    if status.publisher_accepted:  # clients take its presence for "you may watch now"
        gateway = {"whep_url": address.whep_url(record), **gateway}
    input_fps = round(status.input_fps, 2)
    output_fps = round(status.output_fps, 2)
    return {
        "state": status.state.value,
        "type": "status",
        "stream_id": record.id,
        "request_id": record.id,
        "pipeline": PIPELINE,
        "pipeline_id": PIPELINE,
        "start_time": started,
        "last_state_update_time": _milliseconds(status.state_changed_at),
        "orchestrator_info": {"address": address.host, "url": address.base},
        "input_status": {"fps": input_fps, "last_input_time": last_input},
        "inference_status": {
            "fps": output_fps,
            "input_fps": input_fps,
            "output_fps": output_fps,
            "stream_id": record.id,
            "pipeline": PIPELINE,
            "start_time": started,
            "last_input_time": last_input,
            "last_output_time": _milliseconds(status.last_output_at),
            "last_params_update_time": _milliseconds(status.last_params_update_at),
            "last_params": params,
            "last_params_hash": params_hash(status.last_params),
            "last_error": status.last_error,
            "last_error_time": last_error,
            "last_restart_time": _milliseconds(status.last_restart_at),
            "last_restart_logs": list(status.last_restart_logs) or None,
            "restart_count": status.restart_count,
        },
        "gateway_status": gateway,
        "reason": status.reason,
        "revision": status.revision,
        "lane": lane_object(status.lane, status.next_tries, status.load_seconds_left),
        "viewers": status.media.viewers,
        "publisher": status.media.publisher.value,
        "pictures_late": status.pictures_late,
        "latency_ms": {
            hop: {"p50": round(1000 * summary.p50, 2), "p95": round(1000 * summary.p95, 2)}
            for hop, summary in status.latencies.items()
        },
        "drops": dict(status.drops),
        "replaced": dict(status.replaced),
        "media": media_object(status.media),
        "outputs": [output_object(output) for output in status.media.outputs],
        "recording": recording_state(status.media),
    }


def ingest_statistics(media: MediaStatistics, stream_id: str) -> dict[str, Any]:
    """`gateway_status.ingest_metrics.stats` in the shape of Livepeer's gateway."""
    tracks = [track_object(track) for track in media.tracks]
    worst = max((track["packet_loss_pct"] for track in tracks), default=0.0)
    return {
        "conn_quality": "bad" if worst >= BAD_LOSS_PERCENT else "good",
        "peer_conn_stats": {
            "ID": stream_id,
            "BytesReceived": media.bytes_received,
            "BytesSent": media.bytes_sent,
        },
        "track_stats": tracks,
    }


def track_object(track: TrackStatistics) -> dict[str, Any]:
    """One entry of `track_stats`; jitter and round trip in milliseconds."""
    total = track.packets_received + max(0, track.packets_lost)
    loss = 100.0 * max(0, track.packets_lost) / total if total else 0.0
    return {
        "type": track.kind,
        "codec": track.codec,
        "jitter": round(1000 * track.jitter, 3),
        "packets_lost": track.packets_lost,
        "packets_received": track.packets_received,
        "packet_loss_pct": round(loss, 3),
        "rtt": None if track.round_trip is None else round(1000 * track.round_trip, 3),
        "warnings": [f"{loss:.0f} % of the packets are lost"] if loss >= BAD_LOSS_PERCENT else [],
    }


def media_object(media: MediaStatistics) -> dict[str, Any]:
    """The counters of the media plane (extension)."""
    return {
        "frames_decoded": media.frames_decoded,
        "decode_errors": media.decode_errors,
        "frames_encoded": media.frames_encoded,
        "keyframes": media.keyframes,
        "input_size": str(media.input_size) if media.input_size else None,
        "output_size": str(media.output_size) if media.output_size else None,
        "encode_ms": round(1000 * media.encode_seconds, 2),
        "video_bitrate": media.video_bitrate,
        "drops": dict(media.drops),
        "warnings": list(media.warnings),
        "hls_active": media.hls_active,
        "sound": {
            "packets": media.sound.packets,
            "gaps": media.sound.gaps,
            "corrections": media.sound.corrections,
            "dropped": dict(media.sound.dropped),
            "delay_ms": round(1000 * media.sound.delay, 1),
        },
    }


def output_object(output: OutputStatistics) -> dict[str, Any]:
    """A push to an RTMP server (extension); its key is never shown."""
    return {
        "target": output.target,
        "state": output.state.value,
        "last_error": output.last_error,
        "connections": output.connections,
        "pictures": output.pictures,
        "bytes_sent": output.bytes_sent,
        "dropped": output.dropped,
    }


def recording_state(media: MediaStatistics) -> dict[str, Any] | None:
    """The recording under way (extension); null when there is none."""
    if media.recording is None:
        return None
    return {
        "name": media.recording.name,
        "seconds": round(media.recording.seconds, 1),
        "bytes_written": media.recording.bytes_written,
    }


def recording_object(recording: Recording, base: str) -> dict[str, Any]:
    """One file in the list of recordings; `base` is the URL of this server."""
    return {
        "name": recording.name,
        "url": f"{base}/v1/streams/{recording.stream_id}/recordings/{recording.name}",
        "started_at": iso_milliseconds(recording.started_at),
        "bytes": recording.byte_count,
        "finished": recording.finished,
    }


def lane_object(
    lane: LaneStatus | None, next_tries: tuple[datetime | None, ...] = (), seconds_left: float | None = None
) -> dict[str, Any] | None:
    """What the worker says of this stream (extension), with the next try of each part that is missing and the
    `seconds_left` of what its percents count; null before it has one."""
    if lane is None:
        return None
    return {
        "phase": lane.phase.value,
        "detail": lane.detail,
        "percent": lane.percent,
        "seconds_left": None if seconds_left is None else round(seconds_left),
        "revision": lane.revision,
        "effective_frame": lane.effective_sequence,
        "loras": [{"name": name, "weight": weight} for name, weight in lane.loras],
        "error_code": lane.error_code,
        "error_message": lane.error_message,
        "acceleration_in_force": lane.acceleration or None,
        "missing": [
            {
                "place": part.place,
                "name": part.name,
                "code": part.code,
                "message": part.message,
                "tries": part.tries,
                "tries_again": part.tries_again,
                "next_try_time": _milliseconds(moment),
            }
            for part, moment in zip(lane.missing, next_tries, strict=True)
        ],
        "remarks": [remark._asdict() for remark in lane.remarks],
        "processors": [state._asdict() for state in lane.processors],
    }


def event_object(event: StreamEvent) -> dict[str, Any]:
    """The `data` line of a server-sent event: when, of which stream, and the members that its name promises."""
    return {"at": iso_milliseconds(event.at), "stream_id": event.stream_id, **event.data}


def iso_milliseconds(moment: datetime) -> str:
    """`2026-02-03T10:20:30.000Z`."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def params_hash(params: Mapping[str, Any] | None) -> str | None:
    """MD5 of the JSON with sorted members, as Livepeer's runner computes it; not a security measure."""
    if params is None:
        return None
    text = json.dumps(params, sort_keys=True)
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def shorten_data_uris(params: Mapping[str, Any]) -> dict[str, Any]:
    """A copy in which a long data URI (or bare base64) of the style image is only begun."""
    shortened = dict(params)
    image = shortened.get("ip_adapter_style_image_url")
    if isinstance(image, str) and len(image) > LONGEST_LISTED_URI and not image.startswith(("http://", "https://")):
        shortened["ip_adapter_style_image_url"] = f"{image[:48]}... ({len(image)} characters)"
    return shortened


def _milliseconds(moment: datetime | None) -> int | None:
    return None if moment is None else epoch_milliseconds(moment)


__all__ = [
    "PIPELINE",
    "event_object",
    "iso_milliseconds",
    "lane_object",
    "output_object",
    "params_hash",
    "planned_object",
    "recording_object",
    "shorten_data_uris",
    "status_object",
    "stream_object",
]
