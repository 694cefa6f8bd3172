"""`sdstream serve`: assemble the rooms and serve until a signal."""

from sdstream.commands.flags import with_settings
from sdstream.settings import Settings


@with_settings()
def serve(*, settings: Settings) -> int:
    """Run the server: REST, WebRTC in and out, the playground.

    Prints the address as soon as REST answers. The first Ctrl-C drains: new work is refused, sessions end, the
    store is closed. The second ends at once.
    """
    from sdstream.serve import Server  # here, so that a wrong setting is told before the rooms are imported

    return Server(settings).run()


__all__ = ["serve"]
