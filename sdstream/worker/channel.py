"""One duplex line of messages between the server and the worker: sends never wait, one thread reads."""

import contextlib
import socket
import threading
from typing import Any

import msgspec

from sdstream.worker.messages import Message, Unpacker, pack

READ_BYTES = 1 << 16
DO_NOT_WAIT = getattr(socket, "MSG_DONTWAIT", 0)
TICK = 3600.0
"""Seconds a read waits before it is begun again, where a socket must not block for its senders' sake (Windows)."""


class Channel:
    """Messages over a stream socket.

    `send` may be called from any thread. What the socket does not take at once, because the other end is stopped or
    slow, is kept and written by a thread that exists only for that time; senders bound what they may have under way
    (one doorbell for each free slot, one unanswered update a lane), so the backlog is bounded too.
    """

    def __init__(self, connection: socket.socket, decoder: "msgspec.msgpack.Decoder[Any]") -> None:
        # A socket with a time limit polls before each read; where a send can refuse to wait by itself, none is needed.
        connection.settimeout(TICK if DO_NOT_WAIT == 0 else None)
        self._connection = connection
        self._writer = connection.dup()
        self._writer.settimeout(0.0 if DO_NOT_WAIT == 0 else None)
        self._unpacker = Unpacker(decoder)
        self._lock = threading.Lock()
        self._backlog = bytearray()
        self._reading = False
        self._closed = False

    def send(self, message: Message) -> None:
        """Send without waiting. After `close`, or when the other end is gone, nothing happens."""
        data = pack(message)
        with self._lock:
            if self._closed:
                return
            if self._backlog:
                self._backlog += data
                return
            try:
                sent = self._writer.send(data, DO_NOT_WAIT)
            except BlockingIOError:
                sent = 0
            except OSError:  # the other end is gone; the receiving thread sees it too and says so
                return
            if sent < len(data):
                self._backlog += data[sent:]
                threading.Thread(target=self._flush, name="worker-flush", daemon=True).start()

    def read(self) -> list[Any] | None:
        """Wait for the next messages, at least one; None when the line has ended.

        Not for two threads at a time. Raises `InternalError` for bytes that are no messages.
        """
        with self._lock:
            if self._closed:
                return None
            self._reading = True
        try:
            messages: list[Any] = []
            while not messages:
                try:
                    data = self._connection.recv(READ_BYTES)
                except TimeoutError:
                    continue
                except OSError:
                    return None
                if not data:
                    return None
                messages = self._unpacker.feed(data)
            return messages
        finally:
            with self._lock:
                self._reading = False
                if self._closed:
                    self._connection.close()

    def close(self) -> None:
        """End the line; a reading thread returns. Idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._backlog.clear()
            with contextlib.suppress(OSError):
                self._writer.shutdown(socket.SHUT_RDWR)
            self._writer.close()
            # A reading thread closes its own descriptor: closed under it, the number could already be another file.
            if not self._reading:
                self._connection.close()

    def _flush(self) -> None:
        with self._lock:
            if self._closed:
                return
            blocking = self._writer.dup()
        blocking.settimeout(TICK if DO_NOT_WAIT == 0 else None)  # the reader's socket shares the mode
        with blocking:
            while True:
                with self._lock:
                    data = bytes(self._backlog[:READ_BYTES])
                if not data:
                    return
                try:
                    sent = blocking.send(data)
                except TimeoutError:
                    continue
                except OSError:
                    with self._lock:
                        self._backlog.clear()
                    return
                with self._lock:
                    del self._backlog[:sent]


__all__ = ["Channel"]
