"""Who may call while authentication is off: programs of this machine, and pages that this machine serves.

A loopback address keeps other machines out, but not the pages that a browser of this machine shows: any of them could
list the streams and watch the camera. A browser says in `Origin` whose page calls. Where it sends none, for a page
whose own name was made to resolve to this machine, `Host` still has that name.
"""

from urllib.parse import urlsplit

from starlette.datastructures import Headers

from sdstream.errors import Forbidden
from sdstream.settings import Settings, is_loopback

HINT = "Switch authentication on and send a key; SDSTREAM_PUBLIC_URL allows the pages of one more host."


class LocalCallers:
    """Tells callers of this machine, and of the host of `public_url`, from pages of the web."""

    def __init__(self, settings: Settings) -> None:
        self._public_host = _host_of(settings.public_url) if settings.public_url else ""

    def check(self, headers: Headers) -> None:
        """Raises `Forbidden` for a page of another host, and for a request by a name that is not this machine's."""
        host = headers.get("host", "")
        if host and not self._is_ours(_host_of(f"//{host}")):
            raise Forbidden("this server has authentication off and answers only under a loopback name", hint=HINT)
        origin = headers.get("origin")
        if origin is None:
            return
        # Applications and browser extensions have schemes of their own, which no page can take.
        is_page = origin == "null" or origin.lower().startswith(("http:", "https:"))
        if is_page and not self._is_ours(_host_of(origin)):
            raise Forbidden("this server has authentication off and takes no calls from pages of the web", hint=HINT)

    def _is_ours(self, host: str) -> bool:
        return bool(host) and (is_loopback(host) or host == self._public_host)


def _host_of(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


__all__ = ["LocalCallers"]
