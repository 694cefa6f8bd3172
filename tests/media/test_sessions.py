"""Sessions come, take over, end and leave nothing behind."""

import asyncio
import gc
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from sdstream.clock import SystemClock
from sdstream.errors import CapacityReached, InvalidSdp, ShuttingDown
from sdstream.media.embedded import EmbeddedMedia
from sdstream.media.embedded import peer as peer_module
from sdstream.media.embedded import stream as stream_module
from sdstream.media.embedded.counters import MOST_WARNINGS
from sdstream.media.embedded.stream import EmbeddedStream
from sdstream.media.ports import Placard, PublisherState
from tests.media.clients import OBS_WHEP, OBS_WHIP, DirectPublisher, DirectViewer, browser_offer, make_settings
from tests.media.conftest import SIZE, Echo
from tests.support.ports import free_ports
from tests.support.waiting import eventually


async def test_states_follow_the_publisher(stream: EmbeddedStream, echo: Echo) -> None:
    async with DirectPublisher(stream) as publisher:
        await publisher.wait_connected()
        await eventually(lambda: stream.statistics().publisher is PublisherState.CONNECTED)
        assert await stream.end_session(publisher.session_id)
    assert echo.states == [PublisherState.CONNECTING, PublisherState.CONNECTED, PublisherState.ABSENT]


async def test_a_publisher_that_hangs_up_is_noticed_at_once(stream: EmbeddedStream) -> None:
    async with DirectPublisher(stream) as publisher:
        await eventually(lambda: stream.statistics().publisher is PublisherState.CONNECTED)
        await publisher.close(delete=False)
        await eventually(lambda: stream.statistics().publisher is PublisherState.ABSENT, seconds=10)


async def test_a_second_publisher_takes_over(stream: EmbeddedStream, echo: Echo) -> None:
    async with DirectPublisher(stream, fps=30) as first, DirectViewer(stream) as viewer:
        await viewer.wait_kind("card")
        async with DirectPublisher(stream, fps=30, width=512, height=256) as second:
            await viewer.wait(lambda picture: picture.size == (512, 256), what="the second camera")
            await eventually(lambda: first.state == "closed")
            assert viewer.state == "connected"
            assert await stream.end_session(first.session_id) is False
            assert await stream.end_session(second.session_id) is True
    assert echo.states[-1] is PublisherState.ABSENT
    assert echo.states.count(PublisherState.ABSENT) == 1


async def test_a_bad_offer_leaves_the_publisher_alone(stream: EmbeddedStream, echo: Echo) -> None:
    async with DirectPublisher(stream) as publisher:
        await eventually(lambda: stream.statistics().publisher is PublisherState.CONNECTED)
        for offer in ("", "v=0", OBS_WHEP, OBS_WHIP.replace("H264", "H265")):
            with pytest.raises(InvalidSdp):
                await stream.publish(offer)
        assert publisher.state == "connected"
    assert echo.states[:2] == [PublisherState.CONNECTING, PublisherState.CONNECTED]


async def test_sessions_end_once(stream: EmbeddedStream, echo: Echo) -> None:
    stream.send_placard(Placard("Hello"))
    async with DirectViewer(stream) as viewer:
        await viewer.wait_kind("placard")
        assert await stream.end_session(viewer.session_id) is True
        assert await stream.end_session(viewer.session_id) is False
        assert await stream.end_session("unknown") is False
        await eventually(lambda: viewer.state == "closed")
    assert echo.viewers == [1, 0]


async def test_who_takes_over_while_the_publisher_before_is_being_ended_is_not_called_absent(
    stream: EmbeddedStream, echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that is drawn anew ends its session and publishes again at the same moment."""
    former = await stream.publish(OBS_WHIP)
    publisher = stream._sessions.publisher
    assert publisher is not None
    close, closing, go_on = publisher.close, asyncio.Event(), asyncio.Event()

    async def close_slowly() -> None:
        closing.set()
        await go_on.wait()
        await close()

    monkeypatch.setattr(publisher, "close", close_slowly)
    ending = asyncio.create_task(stream.end_session(former.session_id))
    await closing.wait()
    follower = await stream.publish_pictures()
    go_on.set()
    assert await ending is True
    assert echo.states[-1] is PublisherState.CONNECTED
    assert stream.statistics().publisher is PublisherState.CONNECTED
    assert await stream.end_session(follower.session_id) is True
    assert echo.states[-1] is PublisherState.ABSENT


async def test_viewers_past_the_limit_are_refused(echo: Echo) -> None:
    media = EmbeddedMedia(make_settings(max_viewers=2), SystemClock())
    stream = echo.stream = await media.open_stream("stream", SIZE, echo)
    answers = [await stream.watch(OBS_WHEP) for _ in range(2)]
    with pytest.raises(CapacityReached, match="2 viewers"):
        await stream.watch(OBS_WHEP)
    await stream.end_session(answers[0].session_id)
    assert (await stream.watch(OBS_WHEP)).session_id
    await media.close()


async def test_what_is_told_of_viewers_that_cannot_connect_has_a_bound(stream: EmbeddedStream) -> None:
    """The reason may have the viewer's own words in it."""
    for number in range(2 * MOST_WARNINGS):
        await stream.watch(OBS_WHEP.replace("a=candidate:1 1 UDP", f"a=candidate:rubbish-{number} UDP"))
        await eventually(lambda number=number: f"rubbish-{number}" in (stream.statistics().warnings or ("",))[-1])
    assert len(stream.statistics().warnings) == MOST_WARNINGS


async def test_candidates_can_trickle_in(stream: EmbeddedStream) -> None:
    answer = await stream.publish(browser_offer())
    fragment = "a=ice-ufrag:w0Xp\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\na=mid:0\r\n{}\r\n"
    good = "a=candidate:1 1 udp 2122260223 127.0.0.1 9 typ host"
    assert await stream.add_candidates(answer.session_id, fragment.format(good)) is True
    assert await stream.add_candidates("unknown", fragment.format(good)) is False
    with pytest.raises(InvalidSdp):
        await stream.add_candidates(answer.session_id, fragment.format("a=candidate:what"))


async def test_a_closed_stream_takes_nobody(stream: EmbeddedStream) -> None:
    await stream.close()
    await stream.close()
    with pytest.raises(ShuttingDown):
        await stream.publish(OBS_WHIP)


async def test_a_stream_ends_also_when_its_last_work_was_done_a_moment_ago(
    stream: EmbeddedStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From Python 3.12 on it went round for ever, and the whole server with it: `gather` does not pause there for tasks
    that are done, which is put in its place here for older ones."""
    close, gather = stream._distribution.close, asyncio.gather
    waits = 0

    async def work() -> None:
        """Done in the step in which it begins."""

    async def close_and_leave_work() -> None:
        await close()
        stream._later(work())
        await asyncio.sleep(0)
        assert [task.done() for task in stream._tasks] == [True], "its callbacks come in the next round of the loop"

    async def gather_without_pause(*works: Any, return_exceptions: bool = False) -> None:
        nonlocal waits
        waits += 1
        assert waits < 10, "it goes round for ever"
        if not all(asyncio.isfuture(work) and work.done() for work in works):
            await gather(*works, return_exceptions=return_exceptions)

    monkeypatch.setattr(stream._distribution, "close", close_and_leave_work)
    with monkeypatch.context() as patched:
        patched.setattr("sdstream.media.embedded.outgoing.asyncio.gather", gather_without_pause)
        await stream._close_outgoing()
    assert not stream._tasks


async def test_ports_stay_in_their_range_and_run_out_politely(echo: Echo) -> None:
    first, last = ports = free_ports(2)
    media = EmbeddedMedia(make_settings(webrtc_ports=ports, max_viewers=9), SystemClock())
    stream = echo.stream = await media.open_stream("stream", SIZE, echo)
    answers = [await stream.watch(OBS_WHEP) for _ in range(2)]
    taken = {line.split()[5] for answer in answers for line in answer.sdp.splitlines() if "a=candidate" in line}
    assert taken == {str(first), str(last)}
    with pytest.raises(CapacityReached, match=f"{first}-{last}"):
        await stream.watch(OBS_WHEP)
    await stream.end_session(answers[0].session_id)
    await stream.watch(OBS_WHEP)
    await media.close()


async def test_an_address_behind_a_router_is_advertised_as_given(echo: Echo) -> None:
    media = EmbeddedMedia(make_settings(webrtc_addresses=("203.0.113.7",)), SystemClock())
    stream = echo.stream = await media.open_stream("stream", SIZE, echo)
    answer = await stream.watch(OBS_WHEP)
    candidates = [line.split()[4] for line in answer.sdp.splitlines() if line.startswith("a=candidate")]
    assert set(candidates) == {"203.0.113.7"}
    await media.close()


@pytest.fixture
async def narrow(echo: Echo) -> AsyncIterator[EmbeddedStream]:
    """A stream with a place for one viewer."""
    media = EmbeddedMedia(make_settings(max_viewers=1), SystemClock())
    echo.stream = await media.open_stream("stream", SIZE, echo)
    yield echo.stream
    await media.close()


async def test_a_viewer_that_fell_silent_gives_its_place_to_the_next(
    narrow: EmbeddedStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow.send_placard(Placard("Hello"))
    async with DirectViewer(narrow) as first:
        await eventually(lambda: first.count > 0)
        with pytest.raises(CapacityReached):
            await narrow.watch(OBS_WHEP)
        session = narrow._sessions.viewers[first.session_id]
        first.vanish()
        monkeypatch.setattr(stream_module, "SILENT_SECONDS", 0.3)
        await eventually(lambda: SystemClock().monotonic() - session.heard_at > 0.3)
        async with DirectViewer(narrow) as second:
            await eventually(lambda: second.count > 0)
            assert narrow.statistics().viewers == 1
            assert await narrow.end_session(first.session_id) is False


async def test_a_viewer_that_reports_keeps_its_place(narrow: EmbeddedStream) -> None:
    narrow.send_placard(Placard("Hello"))
    async with DirectViewer(narrow) as viewer:
        await eventually(lambda: viewer.count > 0)
        session = narrow._sessions.viewers[viewer.session_id]
        connected_at = session.heard_at
        await eventually(lambda: session.heard_at > connected_at + 1)
        with pytest.raises(CapacityReached):
            await narrow.watch(OBS_WHEP)


async def test_a_killed_publisher_is_replaced_at_once(stream: EmbeddedStream, echo: Echo) -> None:
    async with DirectPublisher(stream) as first:
        await eventually(lambda: stream.statistics().publisher is PublisherState.CONNECTED)
        first.vanish()
        async with DirectPublisher(stream) as second:
            count = echo.count
            await eventually(lambda: echo.count > count + 5)
            assert PublisherState.ABSENT not in echo.states
            assert await stream.end_session(first.session_id) is False
            assert await stream.end_session(second.session_id) is True


def open_files() -> int:
    folder = Path("/proc/self/fd")
    return len(os.listdir(folder)) if folder.exists() else 0


def held() -> tuple[int, int, int]:
    """Tasks, media threads and open files just now."""
    threads = [thread for thread in threading.enumerate() if thread.name.startswith(("decode-", "encode-"))]
    return len(asyncio.all_tasks()), len(threads), open_files()


async def settled() -> tuple[int, int, int]:
    """What is held, once it does not change any more."""
    gc.collect()  # of a large process this takes seconds where it is busy, so it is done no more often than need be
    seen = [held()]

    def steady() -> bool:
        seen.append(held())
        return len(set(seen[-3:])) == 1 and len(seen) > 2

    await eventually(steady, seconds=60, what=lambda: f"an end of the changes of {seen}")
    return seen[-1]


async def falls_back_to(before: tuple[int, int, int]) -> None:
    """Wait until no more is held of anything than `before`."""

    def has_fallen() -> bool:
        fallen = all(now <= then for now, then in zip(held(), before, strict=True))
        if not fallen:
            gc.collect()
        return fallen

    await eventually(
        has_fallen,
        seconds=30,
        interval=0.2,
        what=lambda: f"tasks, media threads and open files back to {before}; they are {held()}",
    )


async def test_thirty_sessions_leave_nothing_behind(stream: EmbeddedStream) -> None:
    stream.send_placard(Placard("Hello"))

    async def visit() -> None:
        async with DirectPublisher(stream) as publisher, DirectViewer(stream) as viewer:
            await publisher.wait_connected()
            await eventually(lambda: viewer.count > 0, interval=0.005)

    await visit()
    before = await settled()
    for _ in range(30):
        await visit()
    await eventually(lambda: stream.statistics().viewers == 0)
    await falls_back_to(before)


async def test_offers_that_nobody_follows_up_leave_nothing_behind(stream: EmbeddedStream) -> None:
    await stream.end_session((await stream.publish(OBS_WHIP)).session_id)
    before = await settled()
    for index in range(30):
        offer = (OBS_WHIP, OBS_WHEP)[index % 2]
        answer = await (stream.watch(offer) if index % 2 else stream.publish(offer))
        await stream.end_session(answer.session_id)
        with pytest.raises(InvalidSdp):
            await stream.publish("v=0\r\n")
    await falls_back_to(before)


@given(data=st.data())
@hypothesis_settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_fuzzed_offers_leak_no_socket(data: st.DataObject) -> None:
    media = EmbeddedMedia(make_settings(), SystemClock())
    echo = Echo()
    stream = echo.stream = await media.open_stream("stream", SIZE, echo)
    before = open_files()
    lines = browser_offer().splitlines()
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(lines) - 1))
        lines[at] = lines[at][: data.draw(st.integers(0, len(lines[at])))] + data.draw(st.text(max_size=12))
    try:
        answer = await stream.publish("\r\n".join(lines))
        await stream.end_session(answer.session_id)
    except InvalidSdp:
        pass
    await media.close()
    await asyncio.sleep(0)
    assert open_files() <= before


async def test_a_camera_may_come_back_with_another_codec(stream: EmbeddedStream, echo: Echo) -> None:
    async with DirectViewer(stream) as viewer:
        for codec in ("VP8", "H264", "VP8"):
            async with DirectPublisher(stream, codec=codec, fps=30) as publisher:
                await viewer.wait_kind("card")
                number = echo.count
                await eventually(lambda number=number: echo.count >= number + 10)
                video = next(track for track in stream.statistics().tracks if track.kind == "video")
                assert video.codec == publisher.track.codec == codec
            await eventually(lambda: stream.statistics().publisher is PublisherState.ABSENT)
    assert stream.statistics().decode_errors == 0


async def test_who_is_answered_and_does_not_come_is_told_with_where_it_was_sent(
    stream: EmbeddedStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_module, "CONNECT_SECONDS", 0.05)
    await stream.publish(browser_offer())
    await stream.watch(OBS_WHEP)
    await eventually(lambda: stream.statistics().publisher is PublisherState.ABSENT)
    await eventually(lambda: stream.statistics().warnings)
    problem, warnings = stream.statistics().publisher_problem, stream.statistics().warnings
    assert "did not connect in time. Of this server's own addresses it was told 127.0.0.1." in problem
    assert [warning.partition(" was answered")[0] for warning in warnings] == ["A viewer"]
    monkeypatch.undo()
    async with DirectPublisher(stream) as publisher, DirectViewer(stream) as viewer:
        await publisher.wait_connected()
        await viewer.wait_kind("card")
    await eventually(lambda: stream.statistics().publisher is PublisherState.ABSENT)
    assert (stream.statistics().publisher_problem, stream.statistics().warnings) == ("", ())


async def test_an_offer_that_is_taken_back_before_it_connects_is_told_too(stream: EmbeddedStream) -> None:
    # As Daydream's browser package does when it gives up and tries again.
    await stream.end_session((await stream.publish(browser_offer())).session_id)
    assert "did not connect: it was ended before" in stream.statistics().publisher_problem
