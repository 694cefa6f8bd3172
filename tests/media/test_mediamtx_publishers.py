"""Publishers that follow each other at MediaMTX: what it shows of its paths, put to a stream look by look."""

import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from sdstream.clock import ManualClock
from sdstream.media.embedded.rates import Bitrates
from sdstream.media.mediamtx import reader as reader_module
from sdstream.media.mediamtx.control import ControlApi, Party, PathState, RelayedSession
from sdstream.media.mediamtx.stream import CONNECT_SECONDS, MediaMtxStream, StreamOptions
from sdstream.media.ports import PublisherState
from tests.media.clients import OBS_WHIP
from tests.media.conftest import SIZE, Echo
from tests.support.ports import free_port
from tests.support.waiting import eventually

FORMER, FOLLOWER = Party("webRTCSession", "former"), Party("webRTCSession", "follower")


@dataclass
class Control:
    """Answers as MediaMTX would, and remembers what was asked."""

    opened: int = 0
    ended: list[str] = field(default_factory=list[str])
    kicked: list[Party] = field(default_factory=list[Party])
    told: list[str] = field(default_factory=list[str])

    async def open_session(self, path: str, kind: str, offer: str) -> RelayedSession:
        self.opened += 1
        return RelayedSession(offer, str(self.opened))

    async def end_session(self, url: str) -> bool:
        self.ended.append(url)
        return True

    async def kick(self, party: Party) -> None:
        self.kicked.append(party)

    async def add_candidates(self, url: str, fragment: str) -> bool:
        self.told.append(url)
        return True


@dataclass
class Scene:
    stream: MediaMtxStream
    control: Control
    echo: Echo
    clock: ManualClock

    def see(self, publisher: Party | None) -> None:
        """One look at MediaMTX's paths."""
        name = self.stream.input
        self.stream.see({} if publisher is None else {name: PathState(name, online=True, publisher=publisher)})


async def nothing() -> None:
    """No look beside those of the test."""


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    control, echo, clock = Control(), Echo(), ManualClock()
    options = StreamOptions("stk_a", "pb_a", free_port(), "secret", 2, Bitrates())
    api = cast(ControlApi, cast(Any, control))
    stream = MediaMtxStream("stream", SIZE, echo, options, api, clock, look=nothing)
    echo.stream = stream
    yield Scene(stream, control, echo, clock)
    await stream.close()


async def test_who_was_answered_is_still_expected_when_the_publisher_before_goes_first(scene: Scene) -> None:
    """As where a page is loaded anew: its old connection ends while the new one is being made."""
    stream = scene.stream
    await stream.publish(OBS_WHIP)
    scene.see(FORMER)
    follower = await stream.publish(OBS_WHIP)
    scene.see(None)
    assert stream.statistics().publisher is PublisherState.CONNECTING
    assert await stream.add_candidates(follower.session_id, "a=end-of-candidates") is True
    scene.see(FOLLOWER)
    assert stream.statistics().publisher is PublisherState.CONNECTED
    assert PublisherState.ABSENT not in scene.echo.states
    assert await stream.end_session(follower.session_id) is True
    assert scene.control.ended == ["2"]
    assert scene.echo.states[-1] is PublisherState.ABSENT


async def test_who_was_answered_and_never_comes_is_given_up_after_the_one_before_has_gone(scene: Scene) -> None:
    await scene.stream.publish(OBS_WHIP)
    scene.see(FORMER)
    await scene.stream.publish(OBS_WHIP)
    scene.see(None)
    scene.clock.advance(CONNECT_SECONDS + 1)
    scene.see(None)
    assert scene.echo.states[-1] is PublisherState.ABSENT
    assert scene.stream.statistics().publisher_problem


async def test_a_publisher_that_goes_is_absent_at_once(scene: Scene) -> None:
    await scene.stream.publish(OBS_WHIP)
    scene.see(FORMER)
    scene.see(None)
    assert scene.echo.states == [PublisherState.CONNECTING, PublisherState.CONNECTED, PublisherState.ABSENT]


async def test_with_who_was_only_expected_the_one_that_still_publishes_is_ended(scene: Scene) -> None:
    stream = scene.stream
    await stream.publish(OBS_WHIP)
    scene.see(FORMER)
    follower = await stream.publish(OBS_WHIP)
    assert await stream.end_session(follower.session_id) is True
    assert (scene.control.ended, scene.control.kicked) == (["2"], [FORMER])
    assert scene.echo.states[-1] is PublisherState.ABSENT


async def test_a_reader_for_which_there_is_no_thread_leaves_none_behind(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(reader_module, "LoopThread", refuse)
    for _ in range(3):
        with pytest.raises(RuntimeError):
            scene.see(FORMER)
    await eventually(lambda: not [thread for thread in threading.enumerate() if thread.name == "decode-input"])
    assert scene.stream.statistics().publisher is PublisherState.ABSENT
