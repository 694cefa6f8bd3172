"""A lane without memory for its pictures, and when that may be over."""

from dataclasses import dataclass

from sdstream.frames import PictureSize
from sdstream.worker.ports import LaneStatus


@dataclass(frozen=True, slots=True)
class NoRoom:
    """There was no memory for a ring of pictures of `size`; the lane's status was `before` and became `failed`."""

    size: PictureSize
    before: LaneStatus
    failed: LaneStatus

    def ended_by(self, status: LaneStatus, size: PictureSize) -> bool:
        """Whether a picture of `size` is worth another try: that failure is still the status, and it is smaller."""
        return status is self.failed and size.byte_count < self.size.byte_count


__all__ = ["NoRoom"]
