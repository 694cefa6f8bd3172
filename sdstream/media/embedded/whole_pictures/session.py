"""What publishers and viewers of whole pictures have in common."""

import asyncio
import secrets

from sdstream.media.ports import SessionEnd


class WholePictureSession:
    """Implements `media.ports.PictureSession`. Made and used on one event loop."""

    def __init__(self) -> None:
        self.session_id = secrets.token_urlsafe(18)
        self.end: SessionEnd | None = None
        self._ended = asyncio.Event()

    async def ended(self) -> None:
        """Wait for the end of the session."""
        await self._ended.wait()

    def finish(self, end: SessionEnd) -> bool:
        """End the session; False when it had ended before."""
        if self.end is not None:
            return False
        self.end = end
        self._ended.set()
        return True


__all__ = ["WholePictureSession"]
