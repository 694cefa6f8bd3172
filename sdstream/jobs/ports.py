"""What jobs need of the server that runs in their process; `sdstream.embedded_server` gives it, fakes do in tests."""

from collections.abc import Callable
from typing import Protocol

from sdstream.clock import Clock
from sdstream.jobs.calls import OwnerAnswer, OwnerCall
from sdstream.params import ModelTable
from sdstream.settings import Settings
from sdstream.streams.views import CreateOutcome, StreamRecord, StreamStatus
from sdstream.worker.ports import WorkerClient


class SessionStreams(Protocol):
    """The streams of this process, as far as sessions use them."""

    async def create(
        self,
        body: object,
        author: str,
        *,
        from_playground: bool = False,
        stream_id: str | None = None,
        dry_run: bool = False,
    ) -> CreateOutcome: ...
    async def delete(self, stream_id: str) -> None: ...
    def get(self, stream_id: str) -> StreamRecord: ...
    def status(self, stream_id: str) -> StreamStatus: ...


class Host(Protocol):
    """The server around the jobs. Everything runs on one event loop."""

    settings: Settings
    clock: Clock
    models: ModelTable
    worker_id: str
    """RunPod's name of this worker."""
    mailbox: str
    """A name of this process that no other ever has."""
    on_use: Callable[[str], None]
    """Called with the id of a stream that somebody uses by HTTP; set by whoever has the sessions."""

    @property
    def streams(self) -> SessionStreams: ...
    @property
    def worker(self) -> WorkerClient: ...
    @property
    def control_url(self) -> str:
        """Where clients outside reach the REST API of this worker."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What whoever starts a session should know about this worker."""
        ...

    async def start(self) -> None:
        """Be up. Idempotent; raises what keeps the server from starting."""
        ...

    async def call(self, call: OwnerCall) -> OwnerAnswer:
        """Carry out a call of the REST API in this process."""
        ...

    def lend_key(self, name: str, author: str) -> str:
        """A bearer key of `author` for the REST API of this worker."""
        ...

    def take_back_key(self, key: str) -> None: ...


__all__ = ["Host", "SessionStreams"]
