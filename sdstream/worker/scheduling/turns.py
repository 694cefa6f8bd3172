"""What the working thread is given to do, one at a time, and what that is about. No torch here."""

from dataclasses import dataclass

import msgspec

from sdstream.frames import I420Frame, PictureSize, picture_size
from sdstream.params import StyleImage
from sdstream.worker.messages import PictureIn
from sdstream.worker.ring import FrameRing


class WaitingPicture(msgspec.Struct, frozen=True, eq=False):
    """A picture in a slot of an input ring, as the server announced it."""

    message: PictureIn
    ring: FrameRing

    @property
    def means_the_same(self) -> bool:
        """Whether its planes mean what output planes mean: BT.601, limited range."""
        return not (self.message.full_range or self.message.bt709)

    @property
    def size(self) -> PictureSize:
        return picture_size(self.message.width, self.message.height)

    def frame(self) -> I420Frame:
        """The picture, viewed in its slot."""
        message = self.message
        y, u, v = self.ring.planes(message.slot, self.size)
        return I420Frame(
            y,
            u,
            v,
            received_at=message.received_at,
            sequence=message.sequence,
            full_range=message.full_range,
            matrix="bt709" if message.bt709 else "bt601",
        )


@dataclass(frozen=True, slots=True)
class WantedParams:
    """Params that are to be in force from the next picture on; `text` is what `dump_params` wrote, and `image` what it
    left out, if anything."""

    text: str
    revision: int
    image: StyleImage | None = None
    keeps_load: bool = False
    """Others follow, for which a load that is under way may go on."""


@dataclass(frozen=True, slots=True)
class Prepare:
    """A turn: have these params prepared. The lane is given no further ones until `Scheduler.settle`, or until
    something is loaded for these: newer ones take a load over at once, or its place."""

    lane: int
    params: WantedParams
    ticket: int
    """Counts those of a lane."""


@dataclass(frozen=True, slots=True)
class Swap:
    """A turn: what was prepared for a lane comes into force."""

    lane: int
    prepared: object
    ticket: int


@dataclass(frozen=True, slots=True)
class Leave:
    """A turn: the lane is closed; free what it holds."""

    lane: int


@dataclass(frozen=True, slots=True)
class Batch:
    """A turn: make these pictures in one call."""

    pictures: dict[int, WaitingPicture]


Turn = Prepare | Swap | Leave | Batch

__all__ = ["Batch", "Leave", "Prepare", "Swap", "Turn", "WaitingPicture", "WantedParams"]
