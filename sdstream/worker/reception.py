"""Who reads the worker's line: the working thread itself between pictures, or a helper while pictures take long.

Waking a second thread for each message costs more than the message. So as long as every turn is short, the working
thread reads for itself; before a long one it calls in the helper, which then answers pings and keeps the newest picture
of each lane until no lane is slow any more.
"""

import threading
from collections.abc import Callable
from typing import Any, NoReturn

from sdstream.worker.channel import Channel


class Reception:
    """One line, two possible readers, one at a time.

    `on_message` and `on_end` are called on the thread that reads. `on_message` returns whether the message may leave
    something to do to the working thread, beside what it has handled. `on_end` is called when the line has ended, or
    with the error that `on_message` raised on the helper; it ends the process and does not return.
    `on_relieved` is called on the helper when the line is free for the working thread again.
    """

    def __init__(
        self,
        channel: Channel,
        on_message: Callable[[Any], bool],
        on_end: Callable[[Exception | None], NoReturn],
        on_relieved: Callable[[], None],
    ) -> None:
        self._channel = channel
        self._on_message = on_message
        self._on_end = on_end
        self._on_relieved = on_relieved
        self._lock = threading.Lock()
        self._wanted = False
        self._helper_reads = False
        self._called = threading.Event()
        threading.Thread(target=self._help, name="reception", daemon=True).start()

    @property
    def helper_reads(self) -> bool:
        return self._helper_reads

    def call_helper(self) -> None:
        """A long piece of work begins on the working thread."""
        with self._lock:
            self._wanted = True
            if not self._helper_reads:
                self._helper_reads = True
                self._called.set()

    def relieve_helper(self) -> None:
        """No long work is in sight: the helper stops reading after its next message."""
        self._wanted = False

    def read_here(self) -> bool:
        """Wait for messages on the working thread and handle them, until there may be something to do; False, without
        reading, while the helper does."""
        if self._helper_reads:
            return False
        while not self._handle():
            continue
        return True

    def _handle(self) -> bool:
        """Handle the next messages; whether there may be something to do then."""
        messages = self._channel.read()
        if messages is None:
            self._on_end(None)
        leave_work = False
        for message in messages:
            leave_work = self._on_message(message) or leave_work
        return leave_work

    def _help(self) -> None:
        try:
            self._help_on_call()
        except Exception as error:  # noqa: BLE001 - supervises the thread: without it the process must end
            self._on_end(error)

    def _help_on_call(self) -> NoReturn:
        while True:
            self._called.wait()
            self._called.clear()
            while self._helper_reads:
                self._handle()
                with self._lock:
                    if self._wanted:
                        continue
                    self._helper_reads = False
                self._on_relieved()


__all__ = ["Reception"]
