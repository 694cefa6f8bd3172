"""Fixtures of the contract tests: each SDK in turn."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.sdks import ZOD_VERSIONS, NodeSdk, Outcome, PythonSdk, Sdk, missing_clients
from tests.support.server import LiveServer


class SdkOnServer:
    """An SDK bound to the shared server and, unless told otherwise, its key."""

    def __init__(self, sdk: Sdk, server: LiveServer) -> None:
        self.sdk = sdk
        self.name = sdk.name
        self.server = server

    async def call(self, operation: Any, *, bearer: str | None = "", space: Any = "streams", **request: Any) -> Outcome:
        key = self.server.key if bearer == "" else bearer
        return await self.sdk.call(self.server.url, key, operation, space, **request)


@pytest.fixture(scope="session")
def node_sdk() -> Iterator[Callable[[str], NodeSdk]]:
    """Gives the long-lived Node process of one installed copy of the TypeScript SDK."""
    running: dict[str, NodeSdk] = {}

    def get(copy: str) -> NodeSdk:
        if reason := missing_clients():
            pytest.skip(reason)
        if copy not in running:
            running[copy] = NodeSdk(copy)
        return running[copy]

    yield get
    for sdk in running.values():
        sdk.close()


@pytest.fixture(
    params=[
        pytest.param("python", id="python"),
        *(pytest.param(copy, id=copy.removeprefix("sdk-with-"), marks=pytest.mark.node) for copy in ZOD_VERSIONS),
    ]
)
def sdk(request: pytest.FixtureRequest, server: LiveServer, node_sdk: Callable[[str], NodeSdk]) -> SdkOnServer:
    """Each SDK in turn: Python, TypeScript with zod 4.3, TypeScript with the newest zod."""
    return SdkOnServer(PythonSdk() if request.param == "python" else node_sdk(request.param), server)
