"""The memory in which a lane's pictures cross to the worker and back."""

from typing import cast

from sdstream.frames import PictureSize
from sdstream.worker.channel import Channel
from sdstream.worker.messages import Message, UseRing
from sdstream.worker.ring import FrameRing, memory_prefix
from sdstream.worker.server_end.crossing import Inbound, Outbound
from tests.worker.pictures import flat

PREFIX = f"{memory_prefix()}crossing-"
SMALL, LARGE = PictureSize(64, 64), PictureSize(128, 128)


class Line:
    """Takes what a worker would be told, and lets go of the names of the memory."""

    def __init__(self) -> None:
        self.rings: list[UseRing] = []

    def send(self, message: Message) -> None:
        assert isinstance(message, UseRing)
        self.rings.append(message)
        FrameRing.open(message.name, message.ring, message.slot_bytes, message.slots).unlink()


def take(outbound: Outbound, line: Line, size: PictureSize) -> int:
    slot = outbound.take(cast(Channel, line), PREFIX, size)
    assert slot is not None
    return slot


def test_a_larger_picture_has_larger_memory_and_slots_of_the_former_are_filled_no_more() -> None:
    outbound, line = Outbound(1), Line()
    slot = take(outbound, line, SMALL)
    ring = outbound.put(slot, flat(SMALL, 10), None)
    larger = outbound.put(take(outbound, line, LARGE), flat(LARGE, 20), None)
    assert [message.ring for message in line.rings] == [ring, larger]
    assert outbound.recall(ring, slot) is not None, "the worker may answer for it all the same"
    assert not outbound.give_back(ring, slot)


def test_what_the_worker_had_is_told_once() -> None:
    outbound, line = Outbound(1), Line()
    first, second = take(outbound, line, SMALL), take(outbound, line, SMALL)
    ring = outbound.put(first, flat(SMALL, 10), None)
    outbound.put(second, flat(SMALL, 20), None)
    assert outbound.recall(ring, first) is not None
    assert outbound.recall(ring, first) is None
    assert len(outbound.drop()) == 1
    assert outbound.drop() == []


def test_slots_of_results_are_returned_together_or_with_the_next_picture() -> None:
    made = FrameRing.create(PREFIX, 1, SMALL.byte_count)
    inbound = Inbound()
    inbound.use(UseRing(1, made.number, made.name, made.slot_bytes, made.slots))
    assert inbound.ring is not None
    assert inbound.give_back(inbound.ring, 0) == []
    assert inbound.give_back(inbound.ring, 1) == [0, 1]
    assert inbound.give_back(inbound.ring, 2) == []
    assert inbound.returned() == [2]
    assert inbound.returned() == []
