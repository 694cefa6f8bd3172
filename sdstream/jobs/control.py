"""The short jobs about a session: each is a call of the REST API, wherever the session is, and one event."""

from collections.abc import AsyncGenerator
from typing import Any

from sdstream.jobs.directory import Directory, SessionEntry
from sdstream.jobs.inputs import Job, ListInput, SnapshotInput, StatusInput, StopInput, UpdateInput
from sdstream.jobs.outputs import Event, make_event
from sdstream.jobs.results import deliver
from sdstream.jobs.routing import Router
from sdstream.params.bounds import find_out_of_bounds
from sdstream.params.problems import refuse
from sdstream.streams.style_images import STYLE_IMAGE

_LONGEST_IMAGE = 200
"""Characters of a style image in an answer: megabytes that the caller has sent are not sent back."""


class ControlActions:
    """`update`, `snapshot`, `stop`, `status` and `list`."""

    def __init__(self, router: Router, directory: Directory) -> None:
        self._router = router
        self._directory = directory

    async def update(self, job: Job, wanted: UpdateInput) -> AsyncGenerator[Event]:
        query = "dry_run=true" if wanted.dry_run else ""
        body = wanted.body()
        beyond = find_out_of_bounds(body)
        if beyond:  # now: encoded, a NaN would be a null, which counts as absent, and half a surrogate pair is nothing
            raise refuse(beyond)
        answer = await self._router.call(wanted.session_id, "PATCH", query=query, body=body)
        stream = answer.json()
        yield make_event(
            "updated",
            session_id=wanted.session_id,
            applied=stream["applied"],
            changed=stream["changed"],
            revision=stream["revision"],
            stream=shorten(stream),
        )

    async def snapshot(self, job: Job, wanted: SnapshotInput) -> AsyncGenerator[Event]:
        answer = await self._router.call(wanted.session_id, "GET", "/snapshot.jpg")
        if answer.status != 200:
            raise answer.error()
        result = await deliver(job, wanted.target, f"{wanted.session_id}.jpg", "image/jpeg", answer.body)
        yield make_event("snapshot", session_id=wanted.session_id, result=result)

    async def stop(self, job: Job, wanted: StopInput) -> AsyncGenerator[Event]:
        answer = await self._router.call(wanted.session_id, "DELETE")
        answer.json()
        yield make_event("stopped", session_id=wanted.session_id)

    async def status(self, job: Job, wanted: StatusInput) -> AsyncGenerator[Event]:
        answer = await self._router.call(wanted.session_id, "GET", "/status")
        yield make_event("status", session_id=wanted.session_id, status=answer.json()["data"])

    async def list(self, job: Job, wanted: ListInput) -> AsyncGenerator[Event]:
        entries = await self._directory.entries()
        yield make_event("sessions", sessions=[describe(entry) for entry in entries])


def describe(entry: SessionEntry) -> dict[str, Any]:
    """An entry for a list: no token, no stream key."""
    return {
        "session_id": entry.session_id,
        "worker_id": entry.worker_id,
        "job_id": entry.job_id,
        "control_url": entry.control_url,
        "author": entry.author,
        "created_at": entry.created_at,
    }


def shorten(stream: dict[str, Any]) -> dict[str, Any]:
    """The stream object without the data of a style image."""
    params = dict(stream["params"])
    image = params.get(STYLE_IMAGE)
    if isinstance(image, str) and len(image) > _LONGEST_IMAGE and not image.startswith(("http://", "https://")):
        params[STYLE_IMAGE] = f"{image[:48]}... ({len(image)} characters)"
    return stream | {"params": params}


__all__ = ["ControlActions", "describe", "shorten"]
