"""The three real SDKs behind one face: Python, and TypeScript with an older and with the newest zod."""

import asyncio
import json
import re
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from daydream import Daydream
from daydream.errors import DaydreamError
from pydantic import BaseModel

CLIENTS = Path(__file__).parent.parent / "clients"
ZOD_VERSIONS = {"sdk-with-zod-4.3": "4.3.6", "sdk-with-zod-newest": "4.6.7"}
"""Installed copy of the TypeScript SDK to the zod it must resolve, as tests/clients/package.json pins them."""

Operation = Literal["create", "get_by_id", "get_all", "update", "delete"]
Space = Literal["streams", "public"]


@dataclass(frozen=True)
class Failure:
    """An SDK's exception. `name` is the class of the documentation, such as `NotFoundError`, without PY's prefix."""

    name: str
    status: int | None
    code: str | None
    details: Any
    message: str


@dataclass(frozen=True)
class Outcome:
    """What a call gave: `value` with snake_case names, or a failure."""

    value: Any = None
    failure: Failure | None = None

    def expect(self) -> Any:
        """The value; fails with the SDK's own words when there is none."""
        assert self.failure is None, f"{self.failure}"
        return self.value

    def expect_failure(self, name: str, status: int) -> Failure:
        """The failure, which must be of that class."""
        assert self.failure is not None, f"the call succeeded: {self.value}"
        assert (self.failure.name, self.failure.status) == (name, status), f"{self.failure}"
        return self.failure


class Sdk(Protocol):
    """One SDK against one server."""

    name: str

    async def call(
        self, server_url: str, bearer: str | None, operation: Operation, space: Space = "streams", **request: Any
    ) -> Outcome: ...


class PythonSdk:
    """`daydream-sdk`; the request goes through its own models."""

    name = "python"
    METHODS: Mapping[Operation, str] = {
        "create": "create_stream",
        "get_by_id": "get_stream_by_id",
        "get_all": "get_all_streams",
        "update": "update_stream",
        "delete": "delete_stream",
    }

    async def call(
        self, server_url: str, bearer: str | None, operation: Operation, space: Space = "streams", **request: Any
    ) -> Outcome:
        return await asyncio.to_thread(self._call, server_url, bearer, operation, space, request)

    def _call(
        self, server_url: str, bearer: str | None, operation: Operation, space: Space, request: dict[str, Any]
    ) -> Outcome:
        arguments = {"request": request} if operation == "create" else request
        with Daydream(bearer=bearer, server_url=server_url, timeout_ms=30_000) as sdk:
            try:
                value = getattr(getattr(sdk, space), self.METHODS[operation])(**arguments)
            except DaydreamError as error:
                data = getattr(error, "data", None)
                return Outcome(
                    failure=Failure(
                        re.sub(
                            r"^(CreateStream|GetStreamByID|GetAllStreams|UpdateStream|DeleteStream)",
                            "",
                            type(error).__name__,
                        ),
                        error.status_code,
                        getattr(data, "code", None),
                        getattr(data, "details", None),
                        error.message,
                    )
                )
        assert isinstance(value, BaseModel)
        return Outcome(value=value.model_dump(mode="json"))


class NodeSdk:
    """`@daydreamlive/sdk` in a Node process that lives as long as the test session."""

    METHODS: Mapping[Operation, str] = {
        "create": "create",
        "get_by_id": "getById",
        "get_all": "getAll",
        "update": "update",
        "delete": "delete",
    }

    def __init__(self, copy: str) -> None:
        self.name = copy
        self._lock = threading.Lock()
        self._number = 0
        self._process = subprocess.Popen(
            ["node", "runner.mjs", copy], cwd=CLIENTS, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def close(self) -> None:
        self._process.stdin.close()  # pyright: ignore[reportOptionalMemberAccess]
        self._process.wait(30)
        self._process.stdout.close()  # pyright: ignore[reportOptionalMemberAccess]

    def zod_version(self) -> str:
        """The version of the zod that this copy of the SDK really imports."""
        return self._ask({"method": "zod"})["value"]

    async def call(
        self, server_url: str, bearer: str | None, operation: Operation, space: Space = "streams", **request: Any
    ) -> Outcome:
        message = {
            "serverURL": server_url,
            "bearer": bearer,
            "space": space,
            "method": self.METHODS[operation],
            "request": _camel(request),
        }
        answer = await asyncio.to_thread(self._ask, message)
        if "error" in answer:
            error = answer["error"]
            text = error["message"] + (f" ({error['cause']})" if error["cause"] else "")
            return Outcome(failure=Failure(error["name"], error["statusCode"], error["code"], error["details"], text))
        return Outcome(value=_snake(answer["value"]))

    def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            self._number += 1
            self._process.stdin.write(json.dumps(message | {"number": self._number}) + "\n")
            self._process.stdin.flush()
            answer = json.loads(self._process.stdout.readline())
            assert answer["number"] == self._number
            return answer


def missing_clients() -> str | None:
    """Why the npm clients cannot run here, or None when they can."""
    import shutil

    if shutil.which("node") is None:
        return "Node.js is not installed"
    for package in json.loads((CLIENTS / "package.json").read_text("utf-8"))["dependencies"]:
        if not (CLIENTS / "node_modules" / package).is_dir():
            return f"{package} is not installed: run `npm ci` in tests/clients"
    return None


def _camel(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            re.sub(r"_([a-z0-9])", lambda match: match[1].upper(), key): _camel(item) for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_camel(item) for item in value]
    return value


def _snake(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            re.sub(r"(?<=[a-z0-9])([A-Z])", lambda match: "_" + match[1].lower(), key): _snake(item)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_snake(item) for item in value]
    return value
