"""Calls by way of a real Redis: what is done once, what is never done, and what the caller may know of it."""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import msgspec
import pytest

from sdstream.job_errors import DirectoryUnavailable, OwnerAsleep, OwnerSilent, OwnerUnreachable
from sdstream.jobs import post as post_module
from sdstream.jobs.calls import OwnerAnswer, OwnerCall
from sdstream.jobs.post import PostOffice
from sdstream.jobs.redis_directory import connect
from sdstream.jobs.waiting import TAKE_SECONDS
from tests.jobs.redis_server import RedisServer
from tests.jobs.wire import Wire
from tests.support.waiting import eventually

pytestmark = pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")
CHANNEL = "sdstream:ours:mail:owner"
READ = OwnerCall(method="GET", path="/v1/streams/one", author="a")
CHANGE = OwnerCall(method="PATCH", path="/v1/streams/one", author="a", body=b"{}")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    made = RedisServer(tmp_path_factory.mktemp("redis")).start()
    yield made
    made.stop()


@pytest.fixture
async def redis(server: RedisServer) -> AsyncIterator[Any]:
    made: Any = connect(server.url)
    await made.flushall()
    yield made
    await made.aclose()


class Owner:
    """Counts the calls that it carries out, and answers none of them before `may_answer`."""

    def __init__(self) -> None:
        self.calls: list[OwnerCall] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def serve(self, call: OwnerCall) -> OwnerAnswer:
        self.calls.append(call)
        await self.may_answer.wait()
        return OwnerAnswer(status=200, body=call.body)


@contextlib.asynccontextmanager
async def post(
    url: str, mailbox: str, serve: Callable[[OwnerCall], Awaitable[OwnerAnswer]] | None = None
) -> AsyncIterator[PostOffice]:
    """A post office that listens."""
    redis = connect(url)
    made = PostOffice(redis, "ours", mailbox, serve)
    await made.start()
    try:
        await eventually(made._listening.is_set, what="a mailbox that listens")
        yield made
    finally:
        await made.close()
        await redis.aclose()


async def test_a_call_that_the_owner_did_not_begin_is_not_carried_out_however_late_it_is_read(
    server: RedisServer, redis: Any
) -> None:
    owner = Owner()
    async with post(server.url, "caller") as caller, redis.pubsub(ignore_subscribe_messages=True) as stopped:
        await stopped.subscribe(CHANNEL)
        await stopped.get_message(ignore_subscribe_messages=False, timeout=20)
        with pytest.raises(OwnerAsleep):
            await caller.ask("owner", CHANGE, 0.2)
        letter = (await stopped.get_message(timeout=20))["data"]
        await stopped.unsubscribe()
        async with post(server.url, "owner", owner.serve):
            await redis.publish(CHANNEL, letter)
            await caller.ask("owner", READ, 20)  # so that the letter before it was looked at
    assert owner.calls == [READ]


async def test_a_letter_that_comes_twice_is_carried_out_once(server: RedisServer, redis: Any) -> None:
    owner = Owner()
    async with (
        post(server.url, "caller") as caller,
        post(server.url, "owner", owner.serve),
        redis.pubsub(ignore_subscribe_messages=True) as copies,
    ):
        await copies.subscribe(CHANNEL)
        await copies.get_message(ignore_subscribe_messages=False, timeout=20)
        await caller.ask("owner", CHANGE, 5)
        await redis.publish(CHANNEL, (await copies.get_message(timeout=20))["data"])
        await caller.ask("owner", READ, 20)
    assert owner.calls == [CHANGE, READ]


async def test_a_letter_of_a_version_without_tickets_is_carried_out(server: RedisServer, redis: Any) -> None:
    owner = Owner()
    letter = msgspec.json.encode({"id": "1", "reply_to": "caller", "call": CHANGE})
    async with post(server.url, "owner", owner.serve):
        await redis.publish(CHANNEL, letter)
        await eventually(lambda: owner.calls == [CHANGE], what="the call")


@pytest.mark.parametrize(("call", "repeatable"), [(READ, True), (CHANGE, False)])
async def test_an_owner_that_has_begun_and_says_nothing_may_have_done_it(
    call: OwnerCall, repeatable: bool, server: RedisServer
) -> None:
    owner = Owner()
    owner.may_answer.clear()
    async with post(server.url, "caller") as caller, post(server.url, "owner", owner.serve):
        with pytest.raises(OwnerSilent, match="gave no answer within") as caught:
            await caller.ask("owner", call, 2)
    assert (owner.calls, caught.value.retryable) == ([call], repeatable)


async def test_an_owner_that_takes_long_is_waited_for(server: RedisServer) -> None:
    owner = Owner()
    owner.may_answer.clear()
    async with post(server.url, "caller") as caller, post(server.url, "owner", owner.serve):
        asking = asyncio.create_task(caller.ask("owner", CHANGE, 60))
        await asyncio.wait((asking,), timeout=TAKE_SECONDS + 0.3)  # so long it may take to begin
        owner.may_answer.set()
        assert (await asking).status == 200


async def test_an_owner_that_goes_away_before_it_answers_is_not_waited_for(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sdstream.jobs.waiting.TAKE_SECONDS", 1.0)
    monkeypatch.setattr("sdstream.jobs.waiting.LOOK_SECONDS", 0.1)
    owner = Owner()
    owner.may_answer.clear()
    async with post(server.url, "caller") as caller:
        async with post(server.url, "owner", owner.serve):
            asking = asyncio.create_task(caller.ask("owner", CHANGE, 60))
            await eventually(lambda: owner.calls, what="the call")
        async with asyncio.timeout(30):
            with pytest.raises(OwnerSilent, match="went away"):
                await asking


async def test_an_answer_that_came_while_nobody_listened_is_not_waited_for(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(post_module, "POLL_SECONDS", 0.25)  # it is deaf for 1.5 s, in which the answer comes
    monkeypatch.setattr(post_module, "RECONNECT_SECONDS", 0.05)
    monkeypatch.setattr("sdstream.jobs.waiting.TAKE_SECONDS", 2.0)
    monkeypatch.setattr("sdstream.jobs.waiting.LOOK_SECONDS", 0.1)
    owner = Owner()
    async with Wire(server.port).run() as wire, post(server.url, "owner", owner.serve):
        async with post(wire.url, "caller") as caller, asyncio.timeout(30):
            wire.forget()
            with pytest.raises(OwnerSilent, match="Redis went away"):
                await caller.ask("owner", CHANGE, 60)
    assert owner.calls == [CHANGE]


async def test_calls_that_hang_do_not_keep_their_places_for_ever(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(post_module, "CALLS_AT_ONCE", 2)
    monkeypatch.setattr(post_module, "WORK_SECONDS", 3.0)
    owner = Owner()
    owner.may_answer.clear()
    async with post(server.url, "caller") as caller, post(server.url, "owner", owner.serve):
        hanging = [asyncio.create_task(caller.ask("owner", CHANGE, 60)) for _ in range(2)]
        await eventually(lambda: len(owner.calls) == 2, interval=0.01, what="both calls")
        assert (await caller.ask("owner", READ, 60)).status == 429
        assert [answer.status for answer in await asyncio.gather(*hanging)] == [500, 500]
        owner.may_answer.set()
        assert (await caller.ask("owner", READ, 20)).status == 200


async def test_nobody_is_told_at_once_and_leaves_no_ticket(server: RedisServer, redis: Any) -> None:
    async with post(server.url, "caller") as caller:
        with pytest.raises(OwnerUnreachable, match="is gone"):
            await caller.ask("owner", CHANGE, 60)
    assert await redis.keys("*") == []


async def test_tickets_do_not_stay(server: RedisServer, redis: Any) -> None:
    async with post(server.url, "caller") as caller, post(server.url, "owner", Owner().serve):
        await caller.ask("owner", CHANGE, 5)
    (ticket,) = await redis.keys("*")
    assert 0 < await redis.pttl(ticket) <= 10_000


async def test_a_mailbox_whose_connection_was_forgotten_on_the_way_listens_again(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(post_module, "POLL_SECONDS", 0.1)
    monkeypatch.setattr(post_module, "RECONNECT_SECONDS", 0.05)
    owner = Owner()
    async with Wire(server.port).run() as wire, post(server.url, "caller") as caller:
        async with post(wire.url, "owner", owner.serve):
            assert (await caller.ask("owner", READ, 20)).status == 200
            wire.forget()

            async def answers() -> bool:
                with contextlib.suppress(OwnerUnreachable):
                    return (await caller.ask("owner", READ, 0.5)).status == 200
                return False

            await eventually(answers, what="an answer of the owner")


async def test_a_quiet_mailbox_keeps_its_connection(
    server: RedisServer, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(post_module, "POLL_SECONDS", 0.3)  # so that what it sends itself has 0.9 s to arrive
    async with post(server.url, "owner", Owner().serve), redis.pubsub(ignore_subscribe_messages=True) as copies:
        ours = (await redis.pubsub_numsub(CHANNEL))[0][1]
        connections = {client["id"] for client in await redis.client_list(_type="pubsub")}
        await copies.subscribe(CHANNEL)
        await copies.get_message(ignore_subscribe_messages=False, timeout=20)
        for _ in range(3):  # one that hears itself is quiet for longer than a deaf one is let
            assert await copies.get_message(timeout=20) is not None
        assert ours == 1
        assert connections <= {client["id"] for client in await redis.client_list(_type="pubsub")}


async def test_without_redis_a_call_is_refused_as_soon_as_an_owner_would_have_to_begin() -> None:
    redis = connect("redis://127.0.0.1:1/0")
    caller = PostOffice(redis, "ours", "caller")
    await caller.start()
    try:
        with pytest.raises(DirectoryUnavailable):
            await caller.ask("owner", READ, 0.1)
    finally:
        await caller.close()
        await redis.aclose()
