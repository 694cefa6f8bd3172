"""URLs in answers: absolute and as the client sees the server."""

from typing import Any

import pytest

from sdstream.api.addresses import AddressBook
from sdstream.settings import Settings


def address(settings: dict[str, Any], headers: dict[str, str], **scope: Any) -> tuple[str, str]:
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    book = AddressBook(Settings.model_validate(settings))
    found = book.of({"type": "http", "headers": raw, "scheme": "http", "server": ("10.0.0.5", 8080), **scope})
    return found.base, found.host


FORWARDED = {"host": "inner:8080", "x-forwarded-proto": "https", "x-forwarded-host": "video.example"}


@pytest.mark.parametrize(
    ("settings", "headers", "expected"),
    [
        ({}, {"host": "box:9000"}, ("http://box:9000", "box:9000")),
        ({}, {"host": "[::1]:9000"}, ("http://[::1]:9000", "[::1]:9000")),
        ({}, {}, ("http://10.0.0.5:8080", "10.0.0.5:8080")),
        ({}, FORWARDED, ("http://inner:8080", "inner:8080")),
        ({"trust_proxy_headers": True}, FORWARDED, ("https://video.example", "video.example")),
        ({"trust_proxy_headers": True}, {"host": "box"}, ("http://box", "box")),
        (
            {"trust_proxy_headers": True},
            {"host": "a", "x-forwarded-proto": "https, http", "x-forwarded-host": "outer.example, inner"},
            ("https://outer.example", "outer.example"),
        ),
        (
            {"trust_proxy_headers": True},
            {"host": "box", "x-forwarded-proto": "javascript"},
            ("http://box", "box"),
        ),
        ({"public_url": "https://v.example:8443/base/"}, FORWARDED, ("https://v.example:8443/base", "v.example:8443")),
    ],
)
def test_base_and_host(settings: dict[str, Any], headers: dict[str, str], expected: tuple[str, str]) -> None:
    assert address(settings, headers) == expected


@pytest.mark.parametrize("host", ['evil"/', "a b", "a/b", "a@b", "<x>", "a\r\nb", "", "a:b", "é"])
def test_what_cannot_be_a_host_is_not_believed(host: str) -> None:
    assert address({}, {"host": host}) == ("http://10.0.0.5:8080", "10.0.0.5:8080")


def test_an_ipv6_listener_is_bracketed() -> None:
    assert address({}, {}, server=("::1", 80)) == ("http://[::1]:80", "[::1]:80")


def test_a_unix_socket_falls_back_to_the_settings() -> None:
    assert address({}, {}, server=("/run/socket", None)) == ("http://127.0.0.1:8080", "127.0.0.1:8080")


def test_tls_is_seen_from_the_scheme() -> None:
    assert address({}, {"host": "box"}, scheme="https") == ("https://box", "box")
