"""The ways into the media of a stream: by an offer, by another door of the media server, or with whole pictures."""

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from sdstream.media.ports import DirectIngest, MediaStream, PicturePublisher, PictureViewer, SessionAnswer


class AnySession(Protocol):
    """A publisher's or viewer's session."""

    @property
    def session_id(self) -> str: ...


Session = TypeVar("Session", bound=AnySession)
Enter = Callable[[MediaStream], Awaitable[Session]]
"""Opens a session of one kind; raises a leaf of `RequestError` when it may not be."""


def by_whip(offer: str) -> Enter[SessionAnswer]:
    """A publisher with an SDP offer."""
    return lambda media: media.publish(offer)


def by_whep(offer: str) -> Enter[SessionAnswer]:
    """A viewer with an SDP offer."""
    return lambda media: media.watch(offer)


async def by_another_door(media: MediaStream) -> SessionAnswer:
    """A publisher whom the media server has let in, by RTMP, RTSP or SRT."""
    if not isinstance(media, DirectIngest):
        raise RuntimeError("this media back end takes publishers with an offer only")
    return media.admit()


def with_pictures(media: MediaStream) -> Awaitable[PicturePublisher]:
    """A publisher of whole pictures."""
    return media.publish_pictures()


def for_pictures(media: MediaStream) -> Awaitable[PictureViewer]:
    """A viewer who takes whole pictures."""
    return media.watch_pictures()


__all__ = ["Enter", "Session", "by_another_door", "by_whep", "by_whip", "for_pictures", "with_pictures"]
