"""The messages between the server and the worker process, typed, in msgpack.

Field order is the wire format (`array_like`), and both ends always come from the same source tree, so there is no
versioning. Pictures themselves never travel here: a message names the slot of a `FrameRing` that holds one.

`lane` is the number the server gave a lane, `ring` the number of one `FrameRing` of that lane and direction; both only
grow, so a late message about an old ring or lane is recognised and ignored.
"""

from typing import Any

import msgspec

from sdstream.errors import InternalError
from sdstream.worker.ports import ProcessorState, Remark

HEADER = 4
"""Bytes of the length before each message, little-endian."""
IN_PLACE = 0
"""The `PictureOut.ring` of a picture that stayed in its input slot; true rings count from 1."""
LARGEST_MESSAGE = 64 * 1024 * 1024
"""Bytes; a style image is far below this."""


class Message(msgspec.Struct, tag=True, array_like=True):
    """The root of all messages."""


class Configure(Message):
    """The first message to a worker: begin to work with these settings. A spare one waits until it comes."""

    device: str
    settings: str
    """The settings that the worker reads, as JSON: those of `WORKER_SETTINGS` in `server_end/configuration.py`."""
    memory_prefix: str
    """How names of shared memory begin, so that the server can sweep them."""


class Ping(Message):
    number: int


class Stop(Message):
    """End in good order."""


class OpenLane(Message):
    lane: int
    stream_id: str
    params: str
    """What `sdstream.params.dump_params` wrote."""
    revision: int
    image: str | None = None
    """The style image that `params` only name, a data URI; None when the worker was given it for this lane before."""
    alone: bool = False
    """The lane may have ended the worker before: until it has made a good picture, what it does for the first time is
    done while no other lane does something for the first time."""


class UpdateLane(Message):
    lane: int
    params: str
    revision: int
    image: str | None = None
    keeps_load: bool = False
    """Others follow at once, for which what is loaded now may be wanted still."""


class CloseLane(Message):
    lane: int


class UseRing(Message):
    """Either way: from now on pictures of this direction lie in this memory. The receiver maps it and unlinks it."""

    lane: int
    ring: int
    name: str
    slot_bytes: int
    slots: int


class PictureIn(Message):
    """A picture is in an input slot. `returned` are output slots of ring `returned_ring` that are free again."""

    lane: int
    ring: int
    slot: int
    width: int
    height: int
    sequence: int
    received_at: float
    sent_at: float
    full_range: bool
    bt709: bool
    keep: bool
    """Never to be dropped in favour of a newer one."""
    returned_ring: int
    returned: list[int]


class TapLane(Message):
    """What did this image processor of the lane make last? `TapOut` of the same number answers."""

    number: int
    lane: int
    processor: str


class TapOut(Message):
    """A small JPEG; None when the lane has no such processor, or it has made nothing yet."""

    number: int
    picture: bytes | None


class SlotsReturned(Message):
    """Either way: these slots may be filled again; from the worker, their pictures were superseded or given up."""

    lane: int
    ring: int
    slots: list[int]


class Warm(Message):
    """The process has imported torch; a spare one waits from here on."""


class Ready(Message):
    """The worker was configured and has its device."""

    device: str
    processor: str


class CallLoad(msgspec.Struct, array_like=True, frozen=True):
    """What one kind of calls takes: `seconds` is the mean by the number of streams in a call, `stream_bytes` what one
    stream holds of the device's memory. `model_id` is empty for image processors alone, which `processors` names."""

    model_id: str
    width: int
    height: int
    steps: int
    seconds: dict[int, float]
    stream_bytes: int
    processors: tuple[str, ...] = ()


class Pong(Message):
    number: int
    busy_seconds: float
    """How long the call under way has taken so far; 0 between them."""
    usual_seconds: float | None
    """What such calls take; None when it is the first."""
    loading_seconds: float
    """How long a load beside the calls has said nothing of its progress; 0 without one."""
    memory_used: int | None
    memory_total: int | None
    loads: list[CallLoad]
    """What calls take, by kind; the one that was called last comes last."""
    calls: dict[int, int]
    """Calls by their number of streams, since the process began."""
    call_seconds: dict[int, float]
    """The seconds that those took together."""
    engine_events: dict[str, int]
    """What happened to engines since the process began, by kind (`engines.events`)."""


class AtWork(Message):
    """The worker is about to do something for the first time: to prepare params of `revision`, or to make the first
    picture under them, perhaps together with other lanes. What becomes of that, a later report of the lane about that
    revision tells, or the end of the process."""

    lane: int
    revision: int


class PictureOut(Message):
    """The picture of input slot `source_slot` is done, and lies in an output slot, or, with `ring` `IN_PLACE`, in the
    input slot itself because nothing changed it."""

    lane: int
    source_ring: int
    source_slot: int
    ring: int
    slot: int
    width: int
    height: int
    revision: int
    worker_seconds: float
    queue_seconds: float
    skipped: bool = False
    """It is the last result again, for its source was like the one of that."""
    blocked: int = 0
    """Pictures that the safety checker replaced and that no message told of yet."""


class Ending(Message):
    """The process is about to end, and why; `code` is one of `sdstream.errors`."""

    code: str
    message: str


class LaneReport(Message):
    """`worker.ports.LaneStatus` of one lane."""

    lane: int
    phase: str
    revision: int
    effective_sequence: int | None
    detail: str
    percent: float | None
    error_code: str | None
    error_message: str | None
    refused_revision: int | None
    acceleration: str = ""
    loras: list[tuple[str, float]] = []
    processors: list[ProcessorState] = []
    refused_part: str = ""
    """What of `refused_revision`, or of what a failed lane was to start with, could not be had, as `params.attainable`
    names it; empty if that is not known."""
    remarks: list[Remark] = []


ToWorker = Configure | Ping | Stop | OpenLane | UpdateLane | CloseLane | UseRing | PictureIn | SlotsReturned | TapLane
ToServer = Warm | Ready | Pong | UseRing | AtWork | Ending | PictureOut | SlotsReturned | LaneReport | TapOut

_ENCODER = msgspec.msgpack.Encoder()
TO_WORKER: "msgspec.msgpack.Decoder[ToWorker]" = msgspec.msgpack.Decoder(ToWorker)
TO_SERVER: "msgspec.msgpack.Decoder[ToServer]" = msgspec.msgpack.Decoder(ToServer)


def pack(message: Message) -> bytes:
    """The message with its length before it."""
    body = _ENCODER.encode(message)
    return len(body).to_bytes(HEADER, "little") + body


class Unpacker:
    """Cuts a byte stream back into messages of one direction.

    Raises `InternalError` from `feed` when the bytes cannot be messages: the two ends no longer understand each other.
    """

    def __init__(self, decoder: "msgspec.msgpack.Decoder[Any]") -> None:
        self._decoder = decoder
        self._pending = bytearray()

    def feed(self, data: bytes) -> list[Any]:
        """Every message that is complete with `data`."""
        pending = self._pending
        if not pending and len(data) == HEADER + int.from_bytes(data[:HEADER], "little"):  # the usual case
            return [self._decode(memoryview(data)[HEADER:])]
        pending += data
        messages: list[Any] = []
        start, available = 0, len(pending)
        while available - start >= HEADER:
            length = int.from_bytes(pending[start : start + HEADER], "little")
            if length > LARGEST_MESSAGE:
                raise InternalError(f"a message of {length} bytes between server and worker")
            end = start + HEADER + length
            if available < end:
                break
            messages.append(self._decode(bytes(pending[start + HEADER : end])))
            start = end
        del pending[:start]
        return messages

    def _decode(self, body: bytes | memoryview) -> Any:
        try:
            return self._decoder.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise InternalError(f"an unknown message between server and worker: {error}") from error


__all__ = [
    "IN_PLACE",
    "TO_SERVER",
    "TO_WORKER",
    "AtWork",
    "CallLoad",
    "CloseLane",
    "Configure",
    "Ending",
    "LaneReport",
    "Message",
    "OpenLane",
    "PictureIn",
    "PictureOut",
    "Ping",
    "Pong",
    "Ready",
    "SlotsReturned",
    "Stop",
    "TapLane",
    "TapOut",
    "ToServer",
    "ToWorker",
    "Unpacker",
    "UpdateLane",
    "UseRing",
    "Warm",
    "pack",
]
