"""Request and reply between workers and gateways, over Redis' publish and subscribe.

A mailbox is a channel that one process listens to. PUBLISH tells how many listened: none means that the owner is gone,
and the caller learns it at once instead of waiting for its time-out.
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
from sdstream.job_errors import DirectoryUnavailable, OwnerSilent, OwnerUnreachable
from sdstream.jobs.calls import OwnerAnswer, OwnerCall

MAX_MESSAGE_BYTES = 7_000_000
"""Redis ends subscribers that hold more than 8 MB of unread messages for a minute."""
CALLS_AT_ONCE = 64
"""Calls of others that are worked on here; further ones are answered 429."""
RECONNECT_SECONDS = 0.5
POLL_SECONDS = 1.0

Serve = Callable[[OwnerCall], Awaitable[OwnerAnswer]]
logger = structlog.get_logger(__name__)


class _Letter(msgspec.Struct, frozen=True, omit_defaults=True):
    """A call with where to answer, or the answer to the call of that id."""

    id: str
    reply_to: str | None = None
    call: OwnerCall | None = None
    answer: OwnerAnswer | None = None


class PostOffice:
    """This process's mailbox. `serve` carries out the calls of others; without it, they are answered 404."""

    def __init__(self, redis: Redis, namespace: str, mailbox: str, serve: Serve | None = None) -> None:
        self.mailbox = mailbox
        self._redis: Any = redis
        self._prefix = f"sdstream:{namespace}:mail"
        self._serve = serve
        self._waiting: dict[str, asyncio.Future[OwnerAnswer]] = {}
        self._working: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Task[None] | None = None
        self._listening = asyncio.Event()

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

        Raises `OwnerUnreachable` when nobody listens there, `OwnerSilent` when no answer comes within `seconds`,
        `BodyTooLarge`, or `DirectoryUnavailable` when Redis does not answer.
        """
        letter = _Letter(secrets.token_hex(12), self.mailbox, call)
        content = msgspec.json.encode(letter)
        if len(content) > MAX_MESSAGE_BYTES:
            raise BodyTooLarge(f"the request has {len(content)} bytes, {MAX_MESSAGE_BYTES} can be passed on")
        waiting = asyncio.get_running_loop().create_future()
        self._waiting[letter.id] = waiting
        try:
            async with asyncio.timeout(seconds):
                await self._listening.wait()
                if not await self._publish(mailbox, content):
                    raise OwnerUnreachable("the worker that has this session is gone")
                return await waiting
        except TimeoutError:
            if not self._listening.is_set():
                raise DirectoryUnavailable("Redis does not answer") from None
            raise OwnerSilent(f"the worker that has this session gave no answer within {seconds:g} s") from None
        finally:
            del self._waiting[letter.id]

    async def _publish(self, mailbox: str, content: bytes) -> int:
        try:
            return await self._redis.publish(f"{self._prefix}:{mailbox}", content)
        except (RedisError, OSError) as error:
            raise DirectoryUnavailable(f"Redis does not answer: {type(error).__name__}") from error

    async def _listen(self) -> None:
        told = False
        while True:
            try:
                async with self._redis.pubsub(ignore_subscribe_messages=True) as mail:
                    await mail.subscribe(f"{self._prefix}:{self.mailbox}")
                    await mail.get_message(ignore_subscribe_messages=False, timeout=POLL_SECONDS)  # it is in force
                    self._listening.set()
                    told = False
                    while True:
                        message = await mail.get_message(timeout=POLL_SECONDS)
                        if message is not None:
                            self._receive(cast("bytes", message["data"]))
            except (RedisError, OSError) as error:
                if not told:
                    logger.warning("redis does not answer; sessions go on", problem=type(error).__name__)
                told = True
            finally:
                self._listening.clear()
            await asyncio.sleep(RECONNECT_SECONDS)

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
            task = asyncio.create_task(self._work(letter.id, letter.reply_to, letter.call))
            self._working.add(task)
            task.add_done_callback(self._working.discard)

    async def _work(self, letter_id: str, reply_to: str, call: OwnerCall) -> None:
        if self._serve is None:
            answer = OwnerAnswer(status=404)
        elif len(self._working) > CALLS_AT_ONCE:
            answer = OwnerAnswer(status=429)
        else:
            try:
                answer = await self._serve(call)
            except Exception as error:  # supervisor of calls: whoever asked must hear of it
                logger.error("call failed", method=call.method, exc_info=error)
                answer = OwnerAnswer(status=500)
        content = msgspec.json.encode(_Letter(letter_id, answer=answer))
        if len(content) > MAX_MESSAGE_BYTES:
            content = msgspec.json.encode(_Letter(letter_id, answer=OwnerAnswer(status=413)))
        with contextlib.suppress(DirectoryUnavailable):  # the caller's time-out tells it
            await self._publish(reply_to, content)


__all__ = ["CALLS_AT_ONCE", "MAX_MESSAGE_BYTES", "PostOffice", "Serve"]
