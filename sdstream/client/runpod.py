"""RunPod's endpoint API: submit a job, follow its events, cancel it; and what sdstream's worker understands on top.

The SDK's own client loses the text of failed jobs in `run_sync` and never ends a stream of a cancelled job, hence this
one: whatever ends a job without a result is raised as `JobFailed` with the worker's code.
"""

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, cast

import httpx

from sdstream.clock import Clock, SystemClock
from sdstream.errors import ConfigurationError
from sdstream.http_clients import obeying_variables
from sdstream.job_errors import EndpointFailed, JobFailed
from sdstream.urls import split_url

API_URL = "https://api.runpod.ai/v2"
WAIT_MILLISECONDS = 60_000
"""How long one `/runsync` request is held by the platform; it takes 1000 to 300000."""
MAX_INPUT_BYTES = 10_000_000
"""What `/run` takes; a larger body would be refused by the platform with a page of HTML."""
_HINT = re.compile(r"(.*) \(hint: (.*)\)", re.DOTALL)
FINAL = frozenset({"COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"})


@dataclass(frozen=True, slots=True)
class JobView:
    """A job as the platform shows it. `output` is the list of its events so far, or None."""

    id: str
    state: str
    output: Any = None
    error: str | None = None
    worker_id: str | None = None

    @property
    def is_final(self) -> bool:
        return self.state in FINAL


@dataclass(frozen=True, slots=True)
class EndpointHealth:
    """The counters of an endpoint: jobs and workers by state."""

    jobs: Mapping[str, int]
    workers: Mapping[str, int]


class RunPodClient:
    """One endpoint. Use as a context manager, or `aclose` it.

    Methods raise `JobFailed` for a job without a result and `EndpointFailed` when the API refuses or does not answer.
    """

    def __init__(
        self,
        endpoint: str,
        api_key: str,
        *,
        url: str = API_URL,
        timeout: float = 30.0,
        poll_seconds: float = 0.5,
        clock: Clock | None = None,
    ) -> None:
        """`url` is anything that speaks the endpoint API. `timeout` and `poll_seconds` are seconds.

        Raises `ConfigurationError` for a key or an address that can be none, not showing the key.
        """
        key = api_key.strip()  # of the line break of the file that it comes from
        if not re.fullmatch(r"[!-~]+", key):  # a header can carry no more
            raise ConfigurationError("the API key has a character that no key has, or is empty", hint="")
        self._poll_seconds = poll_seconds
        self._clock = clock or SystemClock()
        base = f"{url.rstrip('/')}/{endpoint}"
        if split_url(base, ("http", "https")) is None or not base.isprintable():
            raise ConfigurationError("`url` and `endpoint` make no http or https address", hint="")
        with obeying_variables():
            self._http = httpx.AsyncClient(base_url=base, headers={"Authorization": f"Bearer {key}"}, timeout=timeout)
        self._patience = httpx.Timeout(timeout, read=timeout + WAIT_MILLISECONDS / 1000)
        """For requests that the platform holds until there is something to tell."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections; jobs go on."""
        await self._http.aclose()

    # Jobs

    async def submit(
        self,
        job_input: Mapping[str, Any],
        *,
        policy: Mapping[str, Any] | None = None,
        webhook: str | None = None,
        s3_config: Mapping[str, str] | None = None,
    ) -> str:
        """Queue a job and return its id at once."""
        body = _body(job_input, policy, webhook, s3_config)
        answer = await self._request("POST", "/run", body)
        return _id_of(answer)

    async def run(
        self,
        job_input: Mapping[str, Any],
        *,
        seconds: float = 600.0,
        policy: Mapping[str, Any] | None = None,
        s3_config: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Run a short job to its end and return its last event. After `seconds` it is cancelled: `JobFailed`."""
        deadline = self._clock.monotonic() + seconds
        wait = round(min(WAIT_MILLISECONDS, max(1000.0, 1000 * seconds)))
        body = _body(job_input, policy, None, s3_config)
        answer = await self._request("POST", f"/runsync?wait={wait}", body, patiently=True)
        view = _view(answer)
        if not view.is_final:
            _id_of(answer)
        while not view.is_final:
            if self._clock.monotonic() > deadline:
                await self.cancel(view.id)
                raise JobFailed(f"the job took longer than {seconds:g} s", job_id=view.id, error_code="TIMED_OUT")
            await asyncio.sleep(self._poll_seconds)
            view = await self.status(view.id)
        return _last_event(_checked(view))

    async def events(self, job_id: str) -> AsyncIterator[dict[str, Any]]:
        """Every event of a job from now on, to its end. Each event is given to one reader only, as the platform has it.

        Raises `JobFailed` after the last event of a job that failed, was cancelled or timed out.
        """
        while True:
            answer = await self._request("GET", f"/stream/{job_id}", patiently=True)
            given = answer.get("stream")
            chunks = cast("list[object]", given) if isinstance(given, list) else []
            for chunk in chunks:
                output = cast("dict[str, object]", chunk).get("output") if isinstance(chunk, dict) else None
                if isinstance(output, dict):
                    yield cast("dict[str, Any]", output)
            if answer.get("status") in FINAL:
                if not chunks:
                    _checked(await self.status(job_id))
                    return
                continue  # what came meanwhile
            if not chunks:
                await asyncio.sleep(self._poll_seconds)

    async def status(self, job_id: str) -> JobView:
        """The job at this moment."""
        return _view(await self._request("GET", f"/status/{job_id}"))

    async def result(self, job_id: str) -> dict[str, Any]:
        """The last event of a job that has ended."""
        return _last_event(_checked(await self.status(job_id)))

    async def cancel(self, job_id: str) -> None:
        """Take a job back, queued or running."""
        await self._request("POST", f"/cancel/{job_id}")

    async def health(self) -> EndpointHealth:
        """Jobs and workers by state."""
        answer = await self._request("GET", "/health")
        return EndpointHealth(_counts(answer.get("jobs")), _counts(answer.get("workers")))

    # Sessions

    async def start(self, *, policy: Mapping[str, Any] | None = None, **members: Any) -> str:
        """Submit a `start` job; `members` are those of its input, such as `params`. Follow it with `events`."""
        return await self.submit({"action": "start"} | members, policy=policy)

    async def update(self, session_id: str, params: Mapping[str, Any], *, seconds: float = 60.0) -> dict[str, Any]:
        """Change the parameters of a session; returns the stream as a PATCH of the REST API does."""
        job_input = {"action": "update", "session_id": session_id, "params": dict(params)}
        return (await self.run(job_input, seconds=seconds))["stream"]

    async def snapshot(self, session_id: str, *, seconds: float = 60.0) -> bytes:
        """The newest output picture, JPEG."""
        job_input = {"action": "snapshot", "session_id": session_id, "target": {"type": "base64"}}
        result = (await self.run(job_input, seconds=seconds))["result"]
        return base64.b64decode(result["data"])

    async def stop(self, session_id: str, *, seconds: float = 60.0) -> dict[str, Any]:
        """End a session; its job ends with a summary."""
        return await self.run({"action": "stop", "session_id": session_id}, seconds=seconds)

    async def session_status(self, session_id: str, *, seconds: float = 60.0) -> dict[str, Any]:
        """The session's status, as the REST API tells it."""
        return (await self.run({"action": "status", "session_id": session_id}, seconds=seconds))["status"]

    async def sessions(self, *, seconds: float = 60.0) -> list[dict[str, Any]]:
        """The sessions that the workers know of."""
        return (await self.run({"action": "list"}, seconds=seconds))["sessions"]

    async def _request(
        self, method: str, path: str, content: bytes | None = None, *, patiently: bool = False
    ) -> dict[str, Any]:
        headers = {} if content is None else {"Content-Type": "application/json"}
        timeout = self._patience if patiently else httpx.USE_CLIENT_DEFAULT
        try:
            response = await self._http.request(method, path, content=content, headers=headers, timeout=timeout)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise EndpointFailed(f"RunPod's API gave no answer: {error or type(error).__name__}") from error
        if response.status_code >= 400:
            failed = EndpointFailed(f"RunPod's API answered {response.status_code}: {response.text[:300]}")
            failed.answered = response.status_code
            raise failed
        try:
            answer = response.json()
        except ValueError:
            raise EndpointFailed(f"RunPod's API answered no JSON: {response.text[:300]}") from None
        if not isinstance(answer, dict):
            raise EndpointFailed(f"RunPod's API answered with no object: {response.text[:300]}")
        return cast("dict[str, Any]", answer)


def _body(
    job_input: Mapping[str, Any],
    policy: Mapping[str, Any] | None,
    webhook: str | None,
    s3_config: Mapping[str, str] | None,
) -> bytes:
    members = {"input": job_input, "policy": policy, "webhook": webhook, "s3Config": s3_config}
    content = json.dumps({name: value for name, value in members.items() if value is not None}).encode()
    if len(content) > MAX_INPUT_BYTES:
        raise EndpointFailed(
            f"the job's input has {len(content)} bytes, RunPod takes {MAX_INPUT_BYTES}",
            hint="Send files by URL or bucket, not as base64.",
        )
    return content


def _id_of(answer: Mapping[str, Any]) -> str:
    found = answer.get("id")
    if not isinstance(found, str) or not found:
        raise EndpointFailed(f"RunPod's API told no id of a job: {json.dumps(answer)[:300]}")
    return found


def _counts(given: object) -> dict[str, int]:
    members = cast("dict[str, object]", given) if isinstance(given, dict) else {}
    return {name: count for name, count in members.items() if isinstance(count, int)}


def _view(answer: Mapping[str, Any]) -> JobView:
    error = answer.get("error")
    return JobView(
        id=str(answer.get("id", "")),
        state=str(answer.get("status", "")),
        output=answer.get("output"),
        error=error if error is None or isinstance(error, str) else json.dumps(error),
        worker_id=answer.get("workerId"),
    )


def _checked(view: JobView) -> JobView:
    """Raises `JobFailed` unless the job completed. A worker's error is `CODE: message (hint: what to do)`."""
    if view.state == "COMPLETED" and not view.error:
        return view
    text = view.error or f"the job is {view.state}"
    code, separator, message = text.partition(": ")
    if not separator or not code.replace("_", "").replace("/", "").isupper():
        code, message = view.state, text
    found = _HINT.fullmatch(message)
    message, hint = (found[1], found[2]) if found else (message, None)
    raise JobFailed(message, job_id=view.id, error_code=code, hint=hint)


def _last_event(view: JobView) -> dict[str, Any]:
    output = view.output
    if isinstance(output, list) and output:
        output = cast("list[Any]", output)[-1]
    if not isinstance(output, dict):
        raise JobFailed("the job ended without a result", job_id=view.id, error_code="NO_RESULT")
    event = cast("dict[str, Any]", output)
    if event.get("error"):  # RunPod's local API calls such a job completed
        _checked(JobView(view.id, "FAILED", error=str(event["error"])))
    return event


__all__ = ["API_URL", "FINAL", "MAX_INPUT_BYTES", "EndpointHealth", "JobView", "RunPodClient"]
