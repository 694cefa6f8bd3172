"""Who has which session: the directory that workers write and everybody reads."""

from collections.abc import Sequence
from typing import Protocol

import msgspec


class SessionEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One session. `mailbox` is the process that has it, `token` the bearer key of its control URL.

    An entry holds secrets: it must not reach a log or a list.
    """

    session_id: str
    mailbox: str
    worker_id: str
    job_id: str
    control_url: str
    token: str
    author: str
    stream_key: str
    playback_id: str
    created_at: float

    def __repr__(self) -> str:
        return f"SessionEntry({self.session_id!r} on {self.worker_id!r})"


class Directory(Protocol):
    """Finds sessions. Methods raise `DirectoryUnavailable` when what keeps it does not answer."""

    async def claim(self, entry: SessionEntry) -> SessionEntry | None:
        """Enter a session, or lengthen the lease of one's own; gives the entry of another owner, who keeps it."""
        ...

    async def release(self, entry: SessionEntry) -> None:
        """Take one's own entry out. Idempotent."""
        ...

    async def find(self, session_id: str) -> SessionEntry | None: ...

    async def find_by_token(self, token: str) -> SessionEntry | None:
        """By stream key or playback id."""
        ...

    async def entries(self) -> Sequence[SessionEntry]: ...

    async def check(self) -> None:
        """Do nothing if a session could be entered now: what keeps the directory may answer and take nothing."""
        ...


class MemoryDirectory:
    """The sessions that this process has entered itself. Nothing expires: the owner takes out what ends."""

    def __init__(self) -> None:
        self._entries: dict[str, SessionEntry] = {}
        self._tokens: dict[str, str] = {}

    async def claim(self, entry: SessionEntry) -> SessionEntry | None:
        present = self._entries.get(entry.session_id)
        if present is not None and present.mailbox != entry.mailbox:
            return present
        self._entries[entry.session_id] = entry
        self._tokens |= {entry.stream_key: entry.session_id, entry.playback_id: entry.session_id}
        return None

    async def release(self, entry: SessionEntry) -> None:
        present = self._entries.get(entry.session_id)
        if present is not None and present.mailbox == entry.mailbox:
            del self._entries[entry.session_id]
            for token in (present.stream_key, present.playback_id):
                self._tokens.pop(token, None)

    async def find(self, session_id: str) -> SessionEntry | None:
        return self._entries.get(session_id)

    async def find_by_token(self, token: str) -> SessionEntry | None:
        return self._entries.get(self._tokens.get(token, ""))

    async def entries(self) -> Sequence[SessionEntry]:
        return tuple(self._entries.values())

    async def check(self) -> None:
        return


__all__ = ["Directory", "MemoryDirectory", "SessionEntry"]
