"""A real RTMP server: node-media-server from npm, in a process of its own."""

import asyncio
import shutil
import socket
import tempfile
from pathlib import Path

from tests.support.ports import free_port
from tests.support.waiting import eventually

PROGRAM = Path(__file__).parents[1] / "clients/node_modules/node-media-server/bin/app.js"


def missing_rtmp_server() -> str:
    """Why the server cannot be started here; empty when it can."""
    if shutil.which("node") is None:
        return "node is not installed"
    return "" if PROGRAM.exists() else "node-media-server is not installed: run npm ci in tests/clients"


class RtmpServer:
    """Listens on `port`; can be killed and started again there."""

    def __init__(self) -> None:
        self.port = free_port()
        self._http_port = free_port()
        self._folder = tempfile.TemporaryDirectory(prefix="sdstream-rtmp-")
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"rtmp://127.0.0.1:{self.port}/live/secret-key"

    @property
    def play_url(self) -> str:
        """Where ffprobe reads what is published."""
        return self.url

    async def start(self) -> None:
        folder = self._folder.name
        config = Path(folder) / "config.json"
        config.write_text(
            '{"bind": "127.0.0.1", "auth": {"play": false, "publish": false},'
            f' "rtmp": {{"port": {self.port}}}, "http": {{"port": {self._http_port}}},'
            f' "store": {{"path": "{folder}/data"}}, "record": {{"path": "{folder}/record", "auto": false}}}}'
        )
        self._process = await asyncio.create_subprocess_exec(
            "node",
            str(PROGRAM),
            "--config",
            str(config),
            "--no-admin",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            cwd=folder,
        )
        await eventually(self._answers, what="node-media-server listening")

    async def kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            await process.wait()

    async def close(self) -> None:
        await self.kill()
        self._folder.cleanup()

    def _answers(self) -> bool:
        with socket.socket() as probe:
            probe.settimeout(0.5)
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


__all__ = ["RtmpServer", "missing_rtmp_server"]
