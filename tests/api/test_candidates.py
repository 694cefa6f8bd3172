"""The address by which a client called, among the candidates of the answer."""

from collections.abc import Callable

import pytest

from sdstream.api.candidates import with_called_address
from tests.api.conftest import OFFER, Site

OWN = "a=candidate:0a1b 1 udp 2130706431 172.17.0.2 40001 typ host"
CALLED = "a=candidate:calledudp 1 udp 2130640895 203.0.113.7 40001 typ host"
TCP = "a=candidate:5 1 tcp 1671430143 172.17.0.2 8189 typ host tcptype passive"
RELAY = "a=candidate:9 1 udp 16777215 198.51.100.1 50000 typ relay raddr 172.17.0.2 rport 40001"


def answer(*lines: str) -> str:
    return "\r\n".join(["v=0", "m=video 9 UDP/TLS/RTP/SAVPF 96", *lines, "a=end-of-candidates", ""])


def test_each_host_candidate_is_told_at_the_called_address_too() -> None:
    expected = answer(
        OWN, CALLED, TCP, "a=candidate:calledtcp 1 tcp 1671364607 203.0.113.7 8189 typ host tcptype passive"
    )
    assert with_called_address(answer(OWN, TCP), "203.0.113.7") == expected


def test_each_section_has_its_own() -> None:
    two = answer(OWN).replace("a=end-of-candidates", "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\n" + OWN)
    assert with_called_address(two, "203.0.113.7").count(CALLED) == 2


def test_two_sockets_on_one_port_are_one_at_the_called_address() -> None:
    other = OWN.replace("172.17.0.2", "10.0.0.2")
    assert with_called_address(answer(OWN, other), "203.0.113.7").count("203.0.113.7") == 1


@pytest.mark.parametrize("host", ["172.17.0.2", "video.example.org", "localhost", "2001:db8::1", "0.0.0.0"])
def test_an_address_that_is_told_already_and_a_name_add_nothing(host: str) -> None:
    assert with_called_address(answer(OWN), host) == answer(OWN)


def test_what_a_relay_has_is_not_at_the_called_address() -> None:
    assert with_called_address(answer(RELAY), "203.0.113.7") == answer(RELAY)


async def told(site: Site, base: str) -> str:
    stream = await site.create()
    client = site.client_with(None, base)
    path = stream["whip_url"].partition("/live/")[2]
    response = await client.post(f"/live/{path}", content=OFFER, headers={"Content-Type": "application/sdp"})
    assert response.status_code == 201
    return response.text


async def test_a_whip_answer_names_the_address_that_was_called(make_site: Callable[..., Site]) -> None:
    assert " 203.0.113.7 " in await told(make_site(), "http://203.0.113.7:8080")


async def test_addresses_of_the_settings_are_told_alone(make_site: Callable[..., Site]) -> None:
    site = make_site(webrtc_addresses=("198.51.100.2",))
    assert " 203.0.113.7 " not in await told(site, "http://203.0.113.7:8080")


async def test_on_runpod_the_called_address_is_no_way_in_for_udp(
    make_site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNPOD_POD_ID", "abc")
    assert " 203.0.113.7 " not in await told(make_site(), "http://203.0.113.7:8080")
