"""Recordings that stop by themselves: what of them is still asked for."""

from pathlib import Path

import pytest

from sdstream.streams.views import StreamRecord
from tests.streams.conftest import Scene
from tests.support.waiting import eventually


async def ask(scene: Scene, record: StreamRecord, *, enabled: bool) -> None:
    await scene.service.update(record.id, {"recording": {"enabled": enabled}})


async def recording_of(scene: Scene, record: StreamRecord, but: str = "") -> str:
    """The name of the file that is recorded into; waits for one that is not `but`."""
    media = scene.media_of(record)
    await eventually(lambda: media.recording is not None and media.recording.name != but, what="a recording")
    assert media.recording is not None
    return media.recording.name


async def test_one_that_stopped_by_itself_begins_again_when_it_is_asked_for(scene: Scene) -> None:
    record = await scene.create_live()
    await ask(scene, record, enabled=True)
    name = await recording_of(scene, record)
    await ask(scene, record, enabled=True)
    assert await recording_of(scene, record) == name, "one that runs goes on"
    scene.media_of(record).listener.on_recording(name, "the disk is nearly full")
    await ask(scene, record, enabled=True)
    assert await recording_of(scene, record, but=name)


async def test_what_stops_an_ended_one_says_nothing_of_the_one_that_followed(scene: Scene) -> None:
    record = await scene.create_live()
    await ask(scene, record, enabled=True)
    first = await recording_of(scene, record)
    await ask(scene, record, enabled=False)
    await ask(scene, record, enabled=True)
    await recording_of(scene, record, but=first)
    scene.media_of(record).listener.on_recording(first, "the disk is nearly full")
    await ask(scene, record, enabled=False)
    assert scene.media_of(record).recording is None


async def test_one_for_which_no_thread_is_to_be_had_says_so(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    record = await scene.create_live()
    events = scene.service.events(record.id, after=0)

    def refuse(file: Path | None) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(scene.media_of(record), "record_to", refuse)
    await ask(scene, record, enabled=True)
    told = await anext(event.data async for event in events if event.name == "recording")
    assert told["problem"] == "it cannot be begun: can't start new thread"
    monkeypatch.undo()
    await ask(scene, record, enabled=True)
    assert await recording_of(scene, record)
