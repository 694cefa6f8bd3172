"""Request and reply between workers and gateways, over Redis' publish and subscribe.

A mailbox is a channel that one process listens to. PUBLISH tells how many listened: none means that the owner is gone,
and the caller learns it at once instead of waiting for its time-out.

With each call lies a *ticket* in Redis, which the owner marks before it begins. A caller that has waited long enough
for that takes the ticket away, and from then on the call is not carried out, however late it is read: by a process that
was stopped, or had no network. Only Redis' clock counts.
"""

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, cast

import msgspec
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from sdstream.errors import BodyTooLarge
from sdstream.job_errors import DirectoryUnavailable, OwnerAsleep, OwnerSilent, OwnerUnreachable
from sdstream.jobs.calls import OwnerAnswer, OwnerCall
from sdstream.jobs.redis_directory import answering
from sdstream.jobs.waiting import Step, decide_step, is_safe_to_repeat, pause, take_seconds

MAX_MESSAGE_BYTES = 7_000_000
"""Redis ends subscribers that hold more than 8 MB of unread messages for a minute."""
CALLS_AT_ONCE = 64
"""Calls of others that are worked on here; further ones are answered 429."""
WORK_SECONDS = 60.0
"""After so long a call of another is given up: who asked has gone long ago, and calls that hang must not fill all
places for ever."""
RECONNECT_SECONDS = 0.5
POLL_SECONDS = 1.0
QUIET_POLLS = 3
"""After so many polls without a letter a mailbox sends one to itself."""
DEAF_POLLS = 3
"""After so many more without that one nothing arrives any more, whatever the socket says: a NAT has forgotten the
connection, or there is another Redis behind its address now. The mailbox connects anew. Polls are counted, not seconds,
because a loop that was held up has read nothing meanwhile."""
LOST = "Redis went away before the worker's answer came"
TICKET_SECONDS = 2.0
"""How much longer a ticket lies than it may be marked."""

BEGUN_SECONDS = 10.0
"""How long the mark lies: longer than any of our commands may take, or a caller took the call for not begun."""

# KEYS: the ticket. A letter may arrive twice: redis-py sends again what it got no answer to.
_SEND = """
redis.call('SET', KEYS[1], 'sent', 'PX', ARGV[1], 'NX')
local heard = redis.call('PUBLISH', ARGV[2], ARGV[3])
if heard == 0 then redis.call('DEL', KEYS[1]) end
return heard
"""
_MARK = """
if redis.call('GET', KEYS[1]) ~= 'sent' then return 0 end
redis.call('SET', KEYS[1], 'begun', 'PX', ARGV[1])
return 1
"""
_TAKE_BACK = """
if redis.call('GET', KEYS[1]) == 'begun' then return 0 end
redis.call('DEL', KEYS[1])
return 1
"""

Serve = Callable[[OwnerCall], Awaitable[OwnerAnswer]]
logger = structlog.get_logger(__name__)


class _Letter(msgspec.Struct, frozen=True, omit_defaults=True):
    """A call with where to answer, or the answer to the call of that id; or neither, to hear whether it arrives.

    `ticket`: the call is to be carried out only while its ticket lies there.
    """

    id: str
    reply_to: str | None = None
    call: OwnerCall | None = None
    answer: OwnerAnswer | None = None
    ticket: bool = False


class PostOffice:
    """This process's mailbox. `serve` carries out the calls of others; without it, they are answered 404."""

    def __init__(self, redis: Redis, namespace: str, mailbox: str, serve: Serve | None = None) -> None:
        self.mailbox = mailbox
        self._redis: Any = redis
        self._prefix = f"sdstream:{namespace}:mail"
        self._tickets = f"sdstream:{namespace}:ticket"
        self._lay_and_publish: Any = redis.register_script(_SEND)
        self._mark: Any = redis.register_script(_MARK)
        self._take_back: Any = redis.register_script(_TAKE_BACK)
        self._serve = serve
        self._waiting: dict[str, asyncio.Future[OwnerAnswer]] = {}
        self._working: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Task[None] | None = None
        self._listening = asyncio.Event()
        self._interruptions = 0
        """How often it has ceased to listen: answers that came then are lost."""

    async def start(self) -> None:
        """Listen from now on, and again whenever Redis comes back. Does not wait for it."""
        self._listener = asyncio.create_task(self._listen(), name="post-office")

    async def close(self) -> None:
        """Stop listening and working. Idempotent."""
        tasks = [*self._working, *([self._listener] if self._listener else [])]
        self._listener = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def ask(self, mailbox: str, call: OwnerCall, seconds: float) -> OwnerAnswer:
        """Have the process of `mailbox` carry out a call.

        Raises `OwnerUnreachable` when nobody listens there, `OwnerAsleep` when whoever does begins with nothing (the
        call is not carried out later either), `OwnerSilent` when it has begun and no answer comes within `seconds`,
        `BodyTooLarge`, or `DirectoryUnavailable` when Redis does not answer.
        """
        letter = _Letter(secrets.token_hex(12), self.mailbox, call, ticket=True)
        content = msgspec.json.encode(letter)
        if len(content) > MAX_MESSAGE_BYTES:
            raise BodyTooLarge(f"the request has {len(content)} bytes, {MAX_MESSAGE_BYTES} can be passed on")
        waiting = asyncio.get_running_loop().create_future()
        self._waiting[letter.id] = waiting
        try:
            try:
                async with asyncio.timeout(take_seconds(seconds)):
                    await self._listening.wait()
            except TimeoutError:
                raise DirectoryUnavailable("Redis does not answer") from None
            if not await self._send(mailbox, letter.id, content, seconds):
                raise OwnerUnreachable("the worker that has this session is gone")
            return await self._answered(mailbox, letter.id, waiting, seconds, call.method)
        finally:
            del self._waiting[letter.id]

    async def _answered(
        self, mailbox: str, letter_id: str, waiting: asyncio.Future[OwnerAnswer], seconds: float, method: str
    ) -> OwnerAnswer:
        """The answer to a letter that was sent. Raises `OwnerAsleep` or `OwnerSilent`."""
        loop = asyncio.get_running_loop()
        sent_at, interruptions = loop.time(), self._interruptions
        begun, looks_without_owner = False, 0
        repeatable = is_safe_to_repeat(method)
        while True:
            await asyncio.wait((waiting,), timeout=pause(loop.time() - sent_at, seconds, begun=begun))
            if waiting.done():
                return waiting.result()
            try:
                if begun:
                    looks_without_owner = 0 if await self._listeners(mailbox) else looks_without_owner + 1
                step = decide_step(
                    loop.time() - sent_at,
                    seconds,
                    begun=begun,
                    looks_without_owner=looks_without_owner,
                    interrupted=self._interruptions != interruptions,
                )
                if step is Step.TAKE_BACK:
                    begun = not await self._taken_back(letter_id)
                    if not begun:
                        limit = take_seconds(seconds)
                        raise OwnerAsleep(f"the worker that has this session began with nothing within {limit:g} s")
            except DirectoryUnavailable as error:
                raise OwnerSilent(LOST, repeatable=repeatable) from error
            match step:
                case Step.GIVE_UP:
                    words = f"the worker that has this session gave no answer within {seconds:g} s"
                    raise OwnerSilent(words, repeatable=repeatable)
                case Step.OWNER_GONE:
                    raise OwnerSilent(
                        "the worker that has this session went away before it answered", repeatable=repeatable
                    )
                case Step.ANSWER_LOST:
                    raise OwnerSilent(LOST, repeatable=repeatable)
                case _:
                    pass

    async def _send(self, mailbox: str, letter_id: str, content: bytes, seconds: float) -> int:
        """Lay the ticket and publish; how many have heard it."""
        lies = round(1000 * (take_seconds(seconds) + TICKET_SECONDS))
        with answering():
            return await self._lay_and_publish(
                keys=[self._ticket(letter_id)], args=[lies, self._channel(mailbox), content]
            )

    async def _begins(self, letter_id: str) -> bool:
        """Mark the ticket of a call that came; False when it is not to be carried out any more."""
        with answering():
            return bool(await self._mark(keys=[self._ticket(letter_id)], args=[round(1000 * BEGUN_SECONDS)]))

    async def _taken_back(self, letter_id: str) -> bool:
        """Whether the call is certainly not carried out, now or later."""
        with answering():
            return bool(await self._take_back(keys=[self._ticket(letter_id)]))

    async def _listeners(self, mailbox: str) -> int:
        with answering():
            ((_, count),) = await self._redis.pubsub_numsub(self._channel(mailbox))
        return count

    async def _publish(self, mailbox: str, content: bytes) -> int:
        with answering():
            return await self._redis.publish(self._channel(mailbox), content)

    def _channel(self, mailbox: str) -> str:
        return f"{self._prefix}:{mailbox}"

    def _ticket(self, letter_id: str) -> str:
        return f"{self._tickets}:{letter_id}"

    async def _listen(self) -> None:
        told = False
        while True:
            try:
                async with self._redis.pubsub(ignore_subscribe_messages=True) as mail:
                    await mail.subscribe(self._channel(self.mailbox))
                    await mail.get_message(ignore_subscribe_messages=False, timeout=POLL_SECONDS)  # it is in force
                    self._listening.set()
                    told = False
                    await self._hear(mail)
            except (RedisError, OSError, DirectoryUnavailable) as error:
                if not told:
                    problem = error.message if isinstance(error, DirectoryUnavailable) else type(error).__name__
                    logger.warning("redis does not answer; sessions go on", problem=problem)
                told = True
            finally:
                self._listening.clear()
                self._interruptions += 1
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _hear(self, mail: Any) -> None:
        """Raises what ends the connection, `DirectoryUnavailable` where nothing arrives any more."""
        knock = msgspec.json.encode(_Letter(""))
        empty = 0
        while True:
            message = await mail.get_message(timeout=POLL_SECONDS)
            if message is not None:
                empty = 0
                self._receive(cast("bytes", message["data"]))
                continue
            empty += 1
            if empty == QUIET_POLLS:
                await self._publish(self.mailbox, knock)
            elif empty >= QUIET_POLLS + DEAF_POLLS:
                raise DirectoryUnavailable("letters do not arrive")

    def _receive(self, content: bytes) -> None:
        try:
            letter = msgspec.json.decode(content, type=_Letter)
        except msgspec.DecodeError:
            logger.warning("letter not understood", bytes=len(content))
            return
        if letter.answer is not None:
            waiting = self._waiting.get(letter.id)
            if waiting is not None and not waiting.done():
                waiting.set_result(letter.answer)
        elif letter.call is not None and letter.reply_to is not None:
            task = asyncio.create_task(self._work(letter, letter.reply_to, letter.call))
            self._working.add(task)
            task.add_done_callback(self._working.discard)

    async def _work(self, letter: _Letter, reply_to: str, call: OwnerCall) -> None:
        if self._serve is None:
            answer = OwnerAnswer(status=404)
        elif len(self._working) > CALLS_AT_ONCE:
            answer = OwnerAnswer(status=429)
        else:
            try:
                if letter.ticket and not await self._begins(letter.id):
                    logger.info("a call came too late, or twice, and is left", method=call.method)
                    return
            except DirectoryUnavailable as error:
                logger.info("a call is left", method=call.method, problem=error.message)
                return
            try:
                async with asyncio.timeout(WORK_SECONDS):
                    answer = await self._serve(call)
            except Exception as error:  # supervisor of calls: whoever asked must hear of it
                logger.error("call failed", method=call.method, exc_info=error)
                answer = OwnerAnswer(status=500)
        content = msgspec.json.encode(_Letter(letter.id, answer=answer))
        if len(content) > MAX_MESSAGE_BYTES:
            content = msgspec.json.encode(_Letter(letter.id, answer=OwnerAnswer(status=413)))
        with contextlib.suppress(DirectoryUnavailable):  # the caller's time-out tells it
            await self._publish(reply_to, content)


__all__ = ["CALLS_AT_ONCE", "MAX_MESSAGE_BYTES", "PostOffice", "Serve"]
