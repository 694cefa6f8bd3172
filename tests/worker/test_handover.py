"""Which params a worker is given while a part of what is wanted cannot be had, and when that is tried again."""

from typing import Any

import pytest

from sdstream.errors import OutOfMemory
from sdstream.model_errors import ModelDownloadFailed, ModelUnavailable
from sdstream.params import StreamParams, load_params
from sdstream.params.attainable import controlnet_part, lora_part
from sdstream.worker.ports import LanePhase, LaneStatus
from sdstream.worker.server_end.handover import FIRST_RETRY, LONGEST_RETRY, REPEAT_SECONDS, Given, ParamsHandover
from tests.params.requests import SDXL_CANNY, SDXL_DEPTH, SDXL_TURBO, created, updated
from tests.worker.pictures import MODELS

CANNY: dict[str, Any] = {"model_id": SDXL_CANNY, "preprocessor": "canny", "conditioning_scale": 0.5}
DEPTH: dict[str, Any] = {"model_id": SDXL_DEPTH, "preprocessor": "depth", "conditioning_scale": 0.5}
OLD = created(SDXL_TURBO, prompt="old", controlnets=[CANNY])
WANTED = updated(OLD, controlnets=[CANNY, DEPTH]).params


class Lane:
    """The server's end of a lane and a worker that the test plays; `now` is in its hands."""

    def __init__(self, code: str = ModelUnavailable.code) -> None:
        self.handover = ParamsHandover(OLD, 1, partly=True)
        self.now = 100.0
        self.code = code
        self.revision = 1
        self.in_force = 0
        self.told = LaneStatus(LanePhase.WAITING)
        self.take(self.handover.begin(self.now))

    def want(self, params: StreamParams) -> Given | None:
        self.revision += 1
        assert self.handover.want(params, self.revision, self.now)
        return self.next()

    def next(self) -> Given | None:
        return self.handover.next(self.now)

    def hear(self, phase: LanePhase, refused: int | None = None, part: str = "", **fields: Any) -> None:
        status = LaneStatus(phase, self.in_force, refused_revision=refused, **fields)
        self.told = self.handover.hear(status, self.now, part)

    def take(self, given: Given | None) -> StreamParams:
        """The worker brings what it was given into force."""
        assert given is not None
        self.in_force = given.revision
        self.hear(LanePhase.READY)
        return read(given)

    def refuse(self, given: Given | None, part: str = controlnet_part(SDXL_DEPTH)) -> None:
        assert given is not None
        words: dict[str, Any] = {"error_code": self.code, "error_message": "no depth"}
        self.hear(LanePhase.READY, given.revision, part, **words)

    def lose_depth(self) -> None:
        """A ControlNet is wanted and cannot be had."""
        self.refuse(self.want(WANTED))
        assert self.next() is None, "what is missing changed nothing else"


def read(given: Given | None) -> StreamParams:
    assert given is not None
    return load_params(given.text, MODELS)


def test_knobs_come_into_force_while_a_part_is_missing_which_stays_told() -> None:
    lane = Lane()
    lane.lose_depth()
    assert (lane.told.revision, lane.told.refused_revision, lane.told.error_message) == (1, 2, "no depth")
    for prompt in ("a", "b", "c"):
        wanted = updated(WANTED, prompt=prompt).params
        assert lane.take(lane.want(wanted)) == updated(OLD, prompt=prompt).params
        assert lane.told.revision == lane.revision
        (missing,) = lane.told.missing
        assert (missing.place, missing.code, missing.tries) == ("controlnets[1]", ModelUnavailable.code, 1)
        assert (lane.told.error_message, lane.told.refused_revision) == ("no depth", 2)


def test_the_rest_of_a_refused_update_comes_into_force() -> None:
    lane = Lane()
    lane.refuse(lane.want(updated(WANTED, prompt="new").params))
    assert lane.take(lane.next()) == updated(OLD, prompt="new").params
    assert lane.told.revision == 2
    assert lane.told.missing


def test_a_knob_that_is_just_turned_is_not_told_to_be_missing() -> None:
    lane = Lane()
    steps = updated(OLD, t_index_list=[1, 2, 3]).params
    lane.refuse(lane.want(steps), part="")
    given = lane.want(updated(steps, prompt="new").params)
    assert [part.place for part in lane.handover.missing] == ["t_index_list"]
    assert lane.take(given) == updated(OLD, prompt="new").params
    assert [part.place for part in lane.handover.missing] == ["t_index_list"]


def test_a_part_that_is_no_longer_wanted_is_forgotten() -> None:
    lane = Lane()
    lane.lose_depth()
    assert lane.take(lane.want(OLD)) == OLD
    assert (lane.told.missing, lane.told.error_message) == ((), None)


def test_whoever_asks_again_is_heard_every_few_seconds() -> None:
    lane = Lane()
    lane.lose_depth()
    lane.now += REPEAT_SECONDS / 2
    lane.handover.try_again(lane.now)
    assert lane.next() is None
    assert lane.handover.next_at == lane.now + REPEAT_SECONDS / 2
    lane.now += REPEAT_SECONDS / 2
    given = lane.next()
    assert read(given) == WANTED
    lane.refuse(given)
    assert [part.tries for part in lane.told.missing] == [2]
    assert lane.next() is None
    lane.now += REPEAT_SECONDS
    lane.handover.try_again(lane.now)
    lane.take(lane.next())
    assert (lane.told.revision, lane.told.missing, lane.told.error_message) == (2, (), None)


def test_what_did_not_fit_into_memory_is_not_tried_again_every_few_seconds() -> None:
    lane = Lane(OutOfMemory.code)
    lane.refuse(lane.want(WANTED), part="")
    lane.now += REPEAT_SECONDS
    lane.handover.try_again(lane.now)
    assert lane.next() is None


def test_only_what_the_network_lost_is_fetched_again_by_itself_ever_more_rarely() -> None:
    for code, comes in ((ModelUnavailable.code, False), (ModelDownloadFailed.code, True)):
        lane = Lane(code)
        lane.lose_depth()
        assert [part.tries_again for part in lane.told.missing] == [comes]
        assert (lane.handover.next_at is not None) is comes
    waits: list[float] = []
    while len(waits) < 9:
        due = lane.handover.next_at
        assert due is not None
        waits.append(due - lane.now)
        lane.now = due - 0.001
        assert lane.next() is None
        lane.now = due
        lane.refuse(lane.next())
    assert waits == [min(FIRST_RETRY * 2**n, LONGEST_RETRY) for n in range(9)]


def trying_again() -> Lane:
    """A lane whose ControlNet the network lost, and which is being fetched again just now."""
    lane = Lane(ModelDownloadFailed.code)
    lane.lose_depth()
    lane.now += FIRST_RETRY
    assert read(lane.next()) == WANTED
    lane.hear(LanePhase.LOADING, detail="downloading", percent=3.0)
    return lane


def test_while_it_is_tried_again_the_lane_stays_ready_and_a_knob_comes_first() -> None:
    lane = trying_again()
    assert (lane.told.phase, lane.told.detail, lane.told.error_message) == (LanePhase.READY, "downloading", "no depth")
    given = lane.want(updated(WANTED, prompt="new").params)
    assert lane.take(given) == updated(OLD, prompt="new").params
    assert lane.told.revision == lane.revision, "nothing else is in force than if it were not being tried"
    assert lane.told.missing


def test_a_knob_turned_while_a_part_is_tried_again_leaves_that_try_going() -> None:
    lane = trying_again()
    for prompt in ("a", "b"):
        turned = updated(WANTED, prompt=prompt).params
        given = lane.want(turned)
        assert given is not None
        assert given.keeps_load, "the worker is to go on with what it fetches"
        assert lane.take(given) == updated(OLD, prompt=prompt).params
        again = lane.next()
        assert read(again) == turned, "the try is for these params now"
        lane.hear(LanePhase.LOADING, detail="downloading", percent=4.0)
        assert (lane.told.phase, lane.told.percent) == (LanePhase.READY, 4.0)
        assert lane.next() is None
    lane.take(again)
    assert (lane.told.revision, lane.told.missing) == (lane.revision, ())


def test_a_knob_of_the_very_part_that_is_tried_again_comes_with_it_and_counts_at_once() -> None:
    lane = trying_again()
    turned = updated(WANTED, controlnets=[CANNY, {**DEPTH, "conditioning_scale": 0.7}]).params
    given = lane.want(turned)
    assert given is not None
    assert given.keeps_load
    assert lane.take(given) == OLD
    assert lane.told.revision == lane.revision
    assert lane.take(lane.next()) == turned


def test_a_try_that_fails_after_a_knob_was_turned_is_counted_once() -> None:
    lane = trying_again()
    lane.take(lane.want(updated(WANTED, prompt="new").params))
    lane.refuse(lane.next())
    assert [part.tries for part in lane.told.missing] == [2]
    assert lane.handover.next_at == lane.now + 2 * FIRST_RETRY
    assert lane.next() is None


def test_what_must_be_loaded_too_comes_before_the_try_under_way() -> None:
    lane = trying_again()
    more = updated(WANTED, t_index_list=[10, 20]).params
    given = lane.want(more)
    assert given is not None
    assert not given.keeps_load
    assert lane.take(given) == updated(OLD, t_index_list=[10, 20]).params
    assert lane.handover.next_at == lane.now + FIRST_RETRY, "it is tried again later"


def test_while_a_part_loads_knobs_come_into_force_and_the_worker_is_told_to_keep_the_load() -> None:
    lane = Lane()
    lane.want(WANTED)
    lane.hear(LanePhase.LOADING)
    turned = updated(WANTED, prompt="new").params
    given = lane.want(turned)
    assert given is not None
    assert given.keeps_load
    assert lane.take(given) == updated(OLD, prompt="new").params
    assert lane.told.revision == 1, "the newest params are not all in force yet"
    given = lane.next()
    assert given is not None
    assert not given.keeps_load
    assert lane.take(given) == turned
    assert lane.told.revision == 3


def test_knobs_that_the_worker_was_given_are_not_sent_again_while_it_tells_of_a_load() -> None:
    lane = Lane()
    lane.want(WANTED)
    lane.hear(LanePhase.LOADING)
    assert lane.want(updated(WANTED, prompt="new").params) is not None
    lane.hear(LanePhase.LOADING)
    assert lane.next() is None
    assert lane.want(updated(WANTED, prompt="newer").params) is not None


def test_what_fails_for_more_than_one_reason_ends_with_what_runs() -> None:
    lane = Lane()
    lane.refuse(lane.want(updated(WANTED, prompt="new").params))
    lane.refuse(lane.next(), part="")
    assert lane.next() is None
    assert lane.told.revision == 1
    turned = updated(WANTED, prompt="newer").params
    assert lane.take(lane.want(turned)) == updated(OLD, prompt="newer").params


def test_a_new_worker_begins_with_what_can_be_had() -> None:
    lane = Lane()
    lane.lose_depth()
    lane.take(lane.want(updated(WANTED, prompt="new").params))
    lane.handover.stop(lane.now)
    assert lane.take(lane.handover.begin(lane.now)) == updated(OLD, prompt="new").params
    assert lane.told.missing
    assert lane.next() is None


def test_a_lane_that_has_nothing_to_run_is_given_all_that_is_wanted() -> None:
    lane = Lane()
    lane.lose_depth()
    lane.hear(LanePhase.FAILED, error_code="X", error_message="a picture failed")
    assert (lane.told.phase, lane.told.missing) == (LanePhase.FAILED, ())
    assert read(lane.want(updated(WANTED, prompt="new").params)) == updated(WANTED, prompt="new").params


def start(*, partly: bool, part: str) -> tuple[Lane, Given | None]:
    """A lane whose first load fails for want of `part`; and what its worker is given then."""
    lane = Lane()
    lane.handover = ParamsHandover(updated(WANTED, lora_dict={"bad/one": 1.0}).params, 1, partly=partly)
    lane.in_force = lane.handover.begin(lane.now).revision
    lane.hear(LanePhase.FAILED, part=part, error_code=ModelUnavailable.code, error_message="not here")
    return lane, lane.next()


def test_a_lane_starts_without_the_parts_that_cannot_be_had_and_names_them() -> None:
    lane, given = start(partly=True, part=controlnet_part(SDXL_DEPTH))
    assert (lane.told.phase, [part.place for part in lane.told.missing]) == (LanePhase.LOADING, ["controlnets[1]"])
    assert given is not None
    lane.in_force = given.revision
    lane.hear(LanePhase.FAILED, part=lora_part("bad/one"), error_code="X", error_message="not here either")
    assert lane.take(lane.next()) == OLD
    assert (lane.told.phase, lane.told.revision) == (LanePhase.READY, 1)
    assert [part.place for part in lane.told.missing] == ["controlnets[1]", "lora_dict"]
    assert lane.next() is None
    assert lane.take(lane.want(updated(WANTED, prompt="new").params)) == updated(OLD, prompt="new").params


@pytest.mark.parametrize(("partly", "part"), [(True, ""), (False, controlnet_part(SDXL_DEPTH))])
def test_without_its_model_or_where_all_is_wanted_a_lane_fails(partly: bool, part: str) -> None:
    lane, given = start(partly=partly, part=part)
    assert given is None
    assert (lane.told.phase, lane.told.missing) == (LanePhase.FAILED, ())


def test_a_lane_that_failed_is_given_the_same_anew_when_somebody_asks_and_only_then() -> None:
    lane = Lane()
    lane.hear(LanePhase.FAILED, error_code=lane.code, error_message="no model")
    assert lane.next() is None
    lane.handover.try_again(lane.now)
    assert read(lane.next()) == OLD
    assert lane.next() is None, "once for each time"


def test_the_next_try_is_told_as_it_is_planned_brought_forward_and_made() -> None:
    lane = Lane(ModelDownloadFailed.code)
    lane.lose_depth()
    assert [part.next_at for part in lane.handover.missing] == [lane.now + FIRST_RETRY]
    lane.handover.try_again(lane.now)
    told = lane.handover.retold()
    assert told is not None
    assert [part.next_at for part in told.missing] == [lane.now + REPEAT_SECONDS]
    lane.now += REPEAT_SECONDS
    lane.next()
    (trying,) = lane.handover.missing
    assert trying.next_at is not None
    assert trying.next_at < lane.now
    lost = Lane()
    lost.lose_depth()
    assert [part.next_at for part in lost.handover.missing] == [None]


@pytest.mark.parametrize("times", [1, 3])
def test_revisions_told_are_those_of_the_wire_however_often_params_were_sent(times: int) -> None:
    lane = Lane()
    lane.lose_depth()
    for _ in range(times):
        lane.now += REPEAT_SECONDS
        lane.handover.try_again(lane.now)
        lane.refuse(lane.next())
    given = lane.want(updated(OLD, prompt="new").params)
    lane.take(given)
    assert (lane.told.revision, lane.handover.revision_of(lane.in_force)) == (3, 3)


def test_a_part_that_nobody_named_is_not_tried_for_ever() -> None:
    lane = Lane()
    lane.refuse(lane.want(WANTED), part="lora_dict/never/named")
    assert lane.told.missing
    hot = lane.next()
    if hot is not None:
        lane.take(hot)
    assert lane.next() is None
