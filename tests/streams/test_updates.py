"""Updates of streams: what they change, keep and refuse, and when they are in force."""

import asyncio

import pytest

from sdstream.errors import Conflict
from sdstream.streams.views import Applied
from tests.streams.conftest import Scene


async def test_an_update_keeps_what_it_does_not_name(scene: Scene) -> None:
    record = await scene.create(prompt="a cat", seed=5)
    outcome = await scene.service.update(record.id, {"params": {"prompt": "a dog"}})
    assert (outcome.record.params.prompt, outcome.record.params.seed) == ("a dog", 5)
    assert scene.service.get(record.id) == outcome.record
    assert outcome.record.revision == record.revision + 1


async def test_an_update_reaches_the_lane_of_a_live_stream(scene: Scene) -> None:
    record = await scene.create_live()
    outcome = await scene.service.update(record.id, {"params": {"prompt": "rain"}})
    assert outcome.applied is Applied.HOT
    assert scene.lane_of(record).params == outcome.record.params
    assert scene.lane_of(record).updates == [outcome.record.revision]


async def test_an_update_before_the_publisher_is_in_force_when_it_comes(scene: Scene) -> None:
    record = await scene.create()
    await scene.service.update(record.id, {"params": {"prompt": "snow"}})
    await scene.publish(record)
    assert scene.lane_of(record).params.prompt == "snow"


async def test_the_same_values_again_change_nothing(scene: Scene) -> None:
    record = await scene.create_live(prompt="sun")
    outcome = await scene.service.update(record.id, {"params": {"prompt": "sun", "width": 512}})
    assert outcome.applied is Applied.UNCHANGED
    assert outcome.record.revision == record.revision
    assert scene.lane_of(record).updates == []


async def test_a_dry_run_tells_and_does_nothing(scene: Scene) -> None:
    record = await scene.create_live()
    outcome = await scene.service.update(record.id, {"params": {"prompt": "fog"}}, dry_run=True)
    assert (outcome.applied, outcome.changed) == (Applied.HOT, ("prompt",))
    assert outcome.record.params.prompt == "fog"
    assert scene.service.get(record.id) == record
    assert scene.lane_of(record).updates == []


async def test_a_dry_run_of_a_create_stores_nothing(scene: Scene) -> None:
    outcome = await scene.service.create({"params": {"prompt": "fog", "nonsense": 1}}, "ann", dry_run=True)
    assert outcome.record.params.prompt == "fog"
    assert outcome.warnings
    assert scene.service.list_streams(None) == []


async def test_a_live_stream_refuses_another_size_and_stays_as_it_was(scene: Scene) -> None:
    record = await scene.create_live()
    with pytest.raises(Conflict) as caught:
        await scene.service.update(record.id, {"params": {"width": 640, "prompt": "new"}})
    assert "params.width" in {detail["field"] for detail in caught.value.details}
    assert scene.service.get(record.id) == record
    assert scene.lane_of(record).updates == []


async def test_the_fixed_name_sent_again_is_no_warning(scene: Scene) -> None:
    record = await scene.create()
    same = await scene.service.update(record.id, {"name": record.name, "params": {"prompt": "x"}})
    other = await scene.service.update(record.id, {"name": "another", "params": {"prompt": "x"}})
    assert same.warnings == ()
    assert other.warnings == ("name is fixed when a stream is created and was ignored",)


async def test_an_idle_stream_takes_another_size(scene: Scene) -> None:
    record = await scene.create()
    await scene.service.update(record.id, {"params": {"width": 640}})
    await scene.publish(record)
    assert str(scene.media_of(record).size) == "640x512"


async def test_a_stream_whose_publisher_went_takes_another_size_and_viewers_see_it(scene: Scene) -> None:
    record = await scene.create_live()
    await scene.watch(record)
    scene.media_of(record).lose_publisher()
    await scene.service.update(record.id, {"params": {"height": 768}})
    assert str(scene.media_of(record).size) == "512x768"


async def test_updates_made_at_once_all_count(scene: Scene) -> None:
    record = await scene.create_live()
    bodies = [{"prompt": "p"}, {"seed": 9}, {"delta": 0.3}, {"guidance_scale": 2.0}]
    await asyncio.gather(*(scene.service.update(record.id, {"params": body}) for body in bodies))
    params = scene.service.get(record.id).params
    assert (params.prompt, params.seed, params.delta, params.guidance_scale) == ("p", 9, 0.3, 2.0)
    assert scene.lane_of(record).params == params


async def test_of_300_updates_the_last_wins_everywhere(scene: Scene) -> None:
    record = await scene.create_live()
    bodies = ({"params": {"prompt": f"prompt {number}"}} for number in range(300))
    outcomes = await asyncio.gather(*(scene.service.update(record.id, body) for body in bodies))
    assert [outcome.record.params.prompt for outcome in outcomes] == [f"prompt {number}" for number in range(300)]
    assert scene.service.get(record.id).params.prompt == "prompt 299"
    assert scene.lane_of(record).params.prompt == "prompt 299"
