"""ICE servers as `Link` headers, as RFC 9725 section 4.6 writes them: one for each URL."""

from collections.abc import Iterable

from sdstream.media.ports import IceServer


def ice_links(servers: Iterable[IceServer]) -> list[str]:
    """`<turn:...>; rel="ice-server"; username="..."; credential="..."; credential-type="password"` for each URL."""
    links: list[str] = []
    for server in servers:
        login = ""
        if server.username is not None and server.credential is not None:
            login = f"; username={_quoted(server.username)}; credential={_quoted(server.credential)}"
            login += '; credential-type="password"'
        links += [f'<{url}>; rel="ice-server"{login}' for url in server.urls]
    return links


def _quoted(text: str) -> str:
    """A quoted string of RFC 9110; what no header may carry is left out."""
    visible = "".join(character for character in text if " " <= character <= "~")
    return '"' + visible.replace("\\", "\\\\").replace('"', '\\"') + '"'


__all__ = ["ice_links"]
