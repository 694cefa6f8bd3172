"""The Firefox of this machine, driven by WebDriver BiDi, which it speaks by itself, with a camera that it makes up."""

import asyncio
import contextlib
import itertools
import json
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from tests.support.waiting import eventually

NO_FIREFOX = "Firefox is not installed"
LISTENING = re.compile(r"WebDriver BiDi listening on (ws://\S+)")
PREFERENCES: dict[str, bool | int | str] = {
    "media.navigator.streams.fake": True,
    "media.navigator.permission.disabled": True,
    "media.autoplay.default": 0,
    "media.peerconnection.ice.loopback": True,
    # Whatever is not on this machine is asked of a proxy that is not there.
    "network.proxy.type": 1,
    "network.proxy.http": "127.0.0.1",
    "network.proxy.http_port": 9,
    "network.proxy.ssl": "127.0.0.1",
    "network.proxy.ssl_port": 9,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "app.normandy.enabled": False,
    "app.update.disabledForTesting": True,
    "browser.safebrowsing.downloads.remote.enabled": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "extensions.update.enabled": False,
    "media.gmp-manager.updateEnabled": False,
}


def firefox() -> str | None:
    """Where Firefox is; None where there is none."""
    return next((found for name in ("firefox", "firefox-esr") if (found := shutil.which(name))), None)


class Firefox:
    """One tab. `complaints` are errors of its pages, uncaught or written to the console."""

    def __init__(self, connection: ClientConnection) -> None:
        self.complaints: list[str] = []
        self._connection = connection
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._numbers = itertools.count(1)
        self._tab = ""

    async def open(self) -> None:
        await self._ask("session.new", capabilities={})
        await self._ask("session.subscribe", events=["log.entryAdded"])
        self._tab = (await self._ask("browsingContext.getTree"))["contexts"][0]["context"]

    async def goto(self, url: str) -> None:
        """Load a page to its end."""
        await self._ask("browsingContext.navigate", context=self._tab, url=url, wait="complete")

    async def evaluate(self, expression: str) -> Any:
        """What a JavaScript expression comes to, a promise's value included, as JSON has it."""
        answer = await self._ask(
            "script.evaluate",
            expression=f"(async () => JSON.stringify(await ({expression})) ?? 'null')()",
            target={"context": self._tab},
            awaitPromise=True,
            userActivation=True,
        )
        assert answer["type"] == "success", answer["exceptionDetails"]["text"]
        return json.loads(answer["result"]["value"])

    async def wait(self, expression: str, *, seconds: float = 30.0) -> Any:
        """The first truthy value of an expression."""
        return await eventually(lambda: self.evaluate(expression), seconds=seconds, what=expression)

    async def listen(self) -> None:
        async for message in self._connection:
            event = json.loads(message)
            if "id" in event:
                self._answers.pop(event["id"]).set_result(event)
            elif event["method"] == "log.entryAdded" and event["params"]["level"] == "error":
                self.complaints.append(event["params"]["text"])

    async def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self._answers[number] = answer = asyncio.get_running_loop().create_future()
        await self._connection.send(json.dumps({"id": number, "method": method, "params": parameters}))
        reply = await asyncio.wait_for(answer, 120)
        assert reply["type"] == "success", f"{method}: {reply.get('message')}"
        return reply["result"]


@contextlib.asynccontextmanager
async def running(profile: Path) -> AsyncIterator[Firefox]:
    """A headless Firefox with a fresh profile in that folder."""
    path = firefox()
    assert path is not None, NO_FIREFOX
    await asyncio.to_thread(_write_profile, profile)
    process = await asyncio.create_subprocess_exec(
        *(path, "--headless", "--no-remote", "--profile", str(profile), "--remote-debugging-port", "0"),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(120):
            while (found := LISTENING.search((await process.stderr.readline()).decode())) is None:
                assert process.returncode is None, "Firefox ended at once"
        drain = asyncio.create_task(process.stderr.read())
        async with connect(f"{found[1]}/session", max_size=None, proxy=None) as connection:
            browser = Firefox(connection)
            listener = asyncio.create_task(browser.listen())
            await browser.open()
            yield browser
            await connection.close()
            await listener
        process.terminate()
        await drain
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        await process.wait()


def _write_profile(folder: Path) -> None:
    folder.mkdir()
    lines = (f"user_pref({json.dumps(name)}, {json.dumps(value)});" for name, value in PREFERENCES.items())
    (folder / "user.js").write_text("\n".join(lines), "utf-8")


__all__ = ["NO_FIREFOX", "Firefox", "firefox", "running"]
