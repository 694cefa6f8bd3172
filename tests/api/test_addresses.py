"""URLs in answers: absolute and as the client sees the server."""

from typing import Any

import pytest

from sdstream.api.addresses import AddressBook
from sdstream.reachability import Place, Role
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


@pytest.mark.parametrize(
    "host",
    ['evil"/', "a b", "a/b", "a@b", "<x>", "a\r\nb", "", "a:b", "é", "[::::]", "[%%]:80", "[1.2.3.4]"],
)
def test_what_cannot_be_a_host_is_not_believed(host: str) -> None:
    assert address({}, {"host": host}) == ("http://10.0.0.5:8080", "10.0.0.5:8080")


def test_an_ipv6_listener_is_bracketed() -> None:
    assert address({}, {}, server=("::1", 80)) == ("http://[::1]:80", "[::1]:80")


def test_a_unix_socket_falls_back_to_the_settings() -> None:
    assert address({}, {}, server=("/run/socket", None)) == ("http://127.0.0.1:8080", "127.0.0.1:8080")


def test_tls_is_seen_from_the_scheme() -> None:
    assert address({}, {"host": "box"}, scheme="https") == ("https://box", "box")


POD = Place(Role.POD, "abc", public_ip="203.0.113.7", tcp_ports={8080: 21080})
PROXY = "https://abc-8080.proxy.runpod.net"
MAPPED = "http://203.0.113.7:21080"


@pytest.mark.parametrize(
    ("settings", "headers", "base"),
    [
        ({}, {"host": "abc-8080.proxy.runpod.net"}, PROXY),
        ({}, {"host": "ABC-8080.proxy.runpod.net"}, PROXY),
        ({}, {"host": "203.0.113.7:21080"}, MAPPED),
        ({}, {"host": "172.17.0.5:8080"}, MAPPED),
        ({}, {}, MAPPED),
        ({}, {"host": 'evil"/'}, MAPPED),
        ({}, {"host": "localhost:9000"}, "http://localhost:9000"),
        ({}, {"host": "abc.runpod.internal:8080"}, "http://abc.runpod.internal:8080"),
        ({"public_url": "https://v.example"}, {"host": "203.0.113.7:21080"}, "https://v.example"),
        (
            {"trust_proxy_headers": True},
            {"host": "abc-8080.proxy.runpod.net", "x-forwarded-host": "v.example", "x-forwarded-proto": "https"},
            "https://v.example",
        ),
    ],
)
def test_on_runpod_answers_carry_a_name_by_which_others_can_come(
    settings: dict[str, Any], headers: dict[str, str], base: str
) -> None:
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    book = AddressBook(Settings.model_validate(settings), POD)
    scope = {"type": "http", "headers": raw, "scheme": "http", "server": ("172.17.0.5", 8080)}
    assert book.of(scope).base == base


def test_without_a_mapped_port_the_proxy_is_the_way_in() -> None:
    book = AddressBook(Settings(), Place(Role.POD, "abc"))
    found = book.of({"type": "http", "headers": [(b"host", b"10.0.0.1:8080")], "scheme": "http"})
    assert (found.base, found.name) == (PROXY, "abc-8080.proxy.runpod.net")


@pytest.mark.parametrize(("host", "name"), [("box:9000", "box"), ("[::1]:9000", "::1"), ("box", "box")])
def test_the_name_is_the_host_without_its_port(host: str, name: str) -> None:
    book = AddressBook(Settings())
    assert book.of({"type": "http", "headers": [(b"host", host.encode())], "scheme": "http"}).name == name
