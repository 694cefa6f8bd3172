"""Token buckets: what passes, what waits, and for how long."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdstream.api.rates import MOST_BUCKETS, RateLimit
from sdstream.clock import ManualClock
from sdstream.errors import RateLimited
from tests.api.conftest import CREATE, Site


def test_a_burst_passes_and_the_next_call_does_not() -> None:
    limit = RateLimit(5, 10, ManualClock(), "calls")
    for _ in range(10):
        limit.take("a")
    with pytest.raises(RateLimited):
        limit.take("a")


def test_subjects_do_not_share() -> None:
    limit = RateLimit(1, 1, ManualClock(), "calls")
    limit.take("a")
    limit.take("b")


def test_retry_after_is_long_enough() -> None:
    clock = ManualClock()
    limit = RateLimit(0.1, 1, clock, "calls")
    limit.take("a")
    with pytest.raises(RateLimited) as caught:
        limit.take("a")
    clock.advance(float(caught.value.headers["Retry-After"]))
    limit.take("a")


@given(st.floats(0.1, 100), st.floats(1, 50), st.lists(st.floats(0, 2), max_size=60))
def test_never_more_than_burst_plus_rate_times_time(rate: float, burst: float, pauses: list[float]) -> None:
    clock = ManualClock()
    limit = RateLimit(rate, burst, clock, "calls")
    passed = 0
    for pause in pauses:
        clock.advance(pause)
        try:
            limit.take("a")
        except RateLimited:
            continue
        passed += 1
    assert passed <= burst + rate * sum(pauses) + 1e-6


def test_the_number_of_buckets_is_bounded() -> None:
    limit = RateLimit(1, 1, ManualClock(), "calls")
    for number in range(MOST_BUCKETS + 10):
        limit.take(str(number))
    limit.take("0")  # forgotten, so it starts with a full bucket


async def test_thirty_updates_a_second_for_ten_seconds_all_pass(site: Site) -> None:
    stream = await site.create()
    client = site.client
    statuses: set[int] = set()
    for number in range(300):
        answer = await client.patch(f"/v1/streams/{stream['id']}", json={"params": {"seed": number}})
        statuses.add(answer.status_code)
        site.clock.advance(1 / 30)
    assert statuses == {200}
    assert site.streams.records[stream["id"]].params.seed == 299


async def test_too_many_updates_are_429_and_change_nothing(make_site: Callable[..., Site]) -> None:
    site = make_site(update_rate=30)
    stream = await site.create()
    client = site.client
    path = f"/v1/streams/{stream['id']}"
    answers = [await client.patch(path, json={"params": {"seed": number}}) for number in range(61)]
    assert [answer.status_code for answer in answers] == [200] * 60 + [429]
    assert answers[-1].headers["retry-after"] == "1"
    assert site.streams.records[stream["id"]].params.seed == 59


async def test_creates_are_limited_for_each_key(make_site: Callable[..., Site]) -> None:
    site = make_site(create_rate=0.1)
    client, other = site.client, site.client_with(site.keys.create("other"))
    statuses = [
        (await client.post("/v1/streams", json=CREATE)).status_code,
        (await client.post("/v1/streams", json=CREATE)).status_code,
        (await other.post("/v1/streams", json=CREATE)).status_code,
    ]
    assert statuses == [201, 429, 201]
