"""Messages: whatever is packed comes out again, however the bytes are cut; anything else is refused by name."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdstream.errors import InternalError
from sdstream.worker.messages import (
    LARGEST_MESSAGE,
    TO_SERVER,
    TO_WORKER,
    CloseLane,
    Message,
    OpenLane,
    PictureOut,
    Ping,
    SlotsReturned,
    Unpacker,
    UpdateLane,
    pack,
)

small = st.integers(0, 2**31)
messages = st.one_of(
    st.builds(Ping, small),
    st.builds(OpenLane, small, st.text(), st.text(), small),
    st.builds(UpdateLane, small, st.text(max_size=3000), small),
    st.builds(CloseLane, small),
    st.builds(SlotsReturned, small, small, st.lists(st.integers(0, 7))),
)


@given(st.lists(messages), st.lists(st.integers(1, 64), min_size=1))
def test_messages_survive_any_cutting_of_the_stream(sent: list[Message], cuts: list[int]) -> None:
    data = b"".join(pack(message) for message in sent)
    unpacker = Unpacker(TO_WORKER)
    received: list[object] = []
    position = index = 0
    while position < len(data):
        step = cuts[index % len(cuts)]
        received += unpacker.feed(data[position : position + step])
        position += step
        index += 1
    assert received == sent


@given(st.binary(min_size=1, max_size=200))
def test_bytes_that_are_no_message_are_refused(body: bytes) -> None:
    try:
        TO_SERVER.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        with pytest.raises(InternalError):
            Unpacker(TO_SERVER).feed(len(body).to_bytes(4, "little") + body)


def test_a_message_of_the_other_direction_is_refused() -> None:
    with pytest.raises(InternalError, match="unknown message"):
        Unpacker(TO_WORKER).feed(pack(PictureOut(1, 1, 0, 1, 0, 2, 2, 1, 0.0, 0.0)))


def test_a_length_that_no_message_has_is_refused_before_memory_is_taken() -> None:
    with pytest.raises(InternalError, match="bytes"):
        Unpacker(TO_WORKER).feed((LARGEST_MESSAGE + 1).to_bytes(4, "little"))
