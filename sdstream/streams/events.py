"""What happened to a stream, in order: a bounded log that many can follow and none can hold up."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping
from typing import Any
from weakref import WeakSet

from sdstream.clock import Clock
from sdstream.errors import CapacityReached
from sdstream.streams.views import EVENT_NAMES, StreamEvent

KEPT_EVENTS = 256
MOST_FOLLOWERS = 50


class EventLog:
    """The newest 256 events of one stream. Used on the event loop only."""

    def __init__(self, stream_id: str, clock: Clock) -> None:
        self._stream_id = stream_id
        self._clock = clock
        self._events: deque[StreamEvent] = deque(maxlen=KEPT_EVENTS)
        self._subscriptions: WeakSet[EventSubscription] = WeakSet()
        """Weak: a reader that is dropped before its first event tells nobody."""
        self._sequence = 0
        self.closed = False

    def emit(self, name: str, data: Mapping[str, Any]) -> None:
        """Append an event; `name` must be one of `EVENT_NAMES`, `data` JSON-safe. Ignored once closed."""
        if name not in EVENT_NAMES:
            raise ValueError(f"{name} is not an event of a stream")
        if self.closed:
            return
        self._sequence += 1
        self._events.append(StreamEvent(self._sequence, name, self._clock.now(), self._stream_id, dict(data)))
        self._wake()

    def subscribe(self, after: int | None = None) -> "EventSubscription":
        """Follow the log: from now on, or from what is kept after sequence `after`.

        An `after` that lies ahead of the log is from before a restart of the server: all that is kept is given.
        Raises `CapacityReached` when 50 follow already.
        """
        if len(self._subscriptions) >= MOST_FOLLOWERS:
            raise CapacityReached(f"{MOST_FOLLOWERS} event streams of this stream are open, and more are not served.")
        if after is None:
            after = self._sequence
        subscription = EventSubscription(self, after if after <= self._sequence else 0)
        self._subscriptions.add(subscription)
        return subscription

    def next_after(self, sequence: int) -> StreamEvent | None:
        """The oldest kept event past `sequence`."""
        if sequence >= self._sequence:
            return None
        oldest = self._events[0].sequence
        return self._events[max(sequence + 1 - oldest, 0)]

    def forget(self, subscription: "EventSubscription") -> None:
        self._subscriptions.discard(subscription)

    def close(self) -> None:
        """Let every subscriber read what is left and end."""
        self.closed = True
        self._wake()

    def _wake(self) -> None:
        for subscription in self._subscriptions:
            subscription.wake.set()


class EventSubscription(AsyncIterator[StreamEvent]):
    """One reader of a log. It ends after the log's last event; `missed` counts events that it was too slow for."""

    def __init__(self, log: EventLog, start: int) -> None:
        self._log = log
        self._sequence = start
        self.wake = asyncio.Event()
        self.missed = 0

    async def __anext__(self) -> StreamEvent:
        while True:
            event = self._log.next_after(self._sequence)
            if event is not None:
                self.missed += event.sequence - self._sequence - 1
                self._sequence = event.sequence
                return event
            if self._log.closed:
                await self.aclose()
                raise StopAsyncIteration
            self.wake.clear()
            await self.wake.wait()

    async def aclose(self) -> None:
        """Stop following. Idempotent."""
        self._log.forget(self)


__all__ = ["KEPT_EVENTS", "MOST_FOLLOWERS", "EventLog", "EventSubscription"]
