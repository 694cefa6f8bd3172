"""A worker that is silent costs one call its whole wait, and those after it little."""

import asyncio

import httpx
import msgspec
import pytest

from sdstream.clock import ManualClock
from sdstream.gateway.fleet import Fleet
from sdstream.gateway.patience import BRIEF_SECONDS, CALL_SECONDS, MOST_REMEMBERED, SILENCE_SECONDS, Patience
from sdstream.job_errors import OwnerSilent
from sdstream.jobs.calls import OwnerCall
from sdstream.settings import Settings
from tests.jobs.test_parts import entry


def test_a_silent_worker_is_asked_briefly_for_a_while_and_then_once_at_length() -> None:
    clock = ManualClock()
    patience = Patience(clock)
    assert patience.seconds("w") == CALL_SECONDS
    patience.silent("w")
    clock.advance(SILENCE_SECONDS - 1)
    assert (patience.seconds("w"), patience.seconds("other")) == (BRIEF_SECONDS, CALL_SECONDS)
    clock.advance(2)
    assert [patience.seconds("w") for _ in range(3)] == [CALL_SECONDS, BRIEF_SECONDS, BRIEF_SECONDS]


def test_an_answer_ends_it() -> None:
    patience = Patience(ManualClock())
    patience.silent("w")
    patience.answered("w")
    assert patience.seconds("w") == CALL_SECONDS


def test_it_remembers_the_latest_of_very_many() -> None:
    patience = Patience(ManualClock())
    for number in range(MOST_REMEMBERED + 1):
        patience.silent(f"w{number}")
    assert patience.seconds("w0") == CALL_SECONDS
    assert patience.seconds(f"w{MOST_REMEMBERED}") == BRIEF_SECONDS


async def test_the_gateway_waits_as_long_as_the_worker_deserves(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock()
    fleet = Fleet(Settings(placement="runpod", endpoint="e"), "key", clock)
    waits: list[float] = []
    silent = True

    async def answer(request: httpx.Request) -> httpx.Response:
        waits.append(request.extensions["timeout"]["read"])
        await asyncio.sleep(0)
        if silent:
            raise httpx.ReadTimeout("")
        return httpx.Response(200, json={})

    async def do_not_ask_runpod(entry: object) -> None:
        return None

    await fleet._http.aclose()
    fleet._http = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    monkeypatch.setattr(fleet, "_forget_if_ended", do_not_ask_runpod)
    one = msgspec.structs.replace(entry("one"), control_url="http://worker")
    read = OwnerCall(method="GET", path="/v1/streams/one", author="a")
    for _ in range(3):
        with pytest.raises(OwnerSilent):
            await fleet.call(one, read)
    clock.advance(SILENCE_SECONDS)  # since the whole wait: those that were cut short tell nothing
    with pytest.raises(OwnerSilent):
        await fleet.call(one, read)
    silent = False
    for _ in range(2):
        await fleet.call(one, read)
    assert waits == [15.0, 2.0, 2.0, 15.0, 2.0, 15.0]
    await fleet.close()
