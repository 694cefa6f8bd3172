"""WHIP and WHEP signalling: codes, headers, capability URLs."""

import pytest

from sdstream.api.bodies import LONGEST_SDP
from sdstream.errors import TurnUnavailable
from sdstream.media.ports import IceServer
from tests.api.conftest import OFFER, Site
from tests.api.fakes import ANSWER

SDP = {"Content-Type": "application/sdp"}
FRAGMENT = {"Content-Type": "application/trickle-ice-sdpfrag"}


async def test_whip_answers_201_with_sdp(site: Site) -> None:
    answer = await site.publish(await site.create())
    assert (answer.status_code, answer.headers["content-type"], answer.text) == (201, "application/sdp", ANSWER)


async def test_whip_tells_session_and_playback_urls(site: Site) -> None:
    stream = await site.create()
    answer = await site.publish(stream)
    session = site.streams.publishers[stream["id"]]
    assert answer.headers["location"] == f"{stream['whip_url']}/{session}"
    assert answer.headers["livepeer-playback-url"] == stream["whep_url"]
    assert answer.headers["etag"] == f'"{session}"'


async def test_the_playback_url_is_stable(site: Site) -> None:
    stream = await site.create()
    first, second = await site.publish(stream), await site.publish(stream)
    assert first.headers["livepeer-playback-url"] == second.headers["livepeer-playback-url"]


async def test_browsers_may_read_the_headers(site: Site) -> None:
    exposed = (await site.publish(await site.create())).headers["access-control-expose-headers"]
    assert {"Location", "ETag", "Link", "Livepeer-Playback-URL"} <= {name.strip() for name in exposed.split(",")}


async def test_ice_servers_are_links(site: Site) -> None:
    site.streams.ice = (
        IceServer(("stun:a.example",)),
        IceServer(("turn:b.example?transport=tcp", "turns:b.example"), "1:u", 'p"\\'),
    )
    answer = await site.publish(await site.create())
    login = '; username="1:u"; credential="p\\"\\\\"; credential-type="password"'
    assert answer.headers.get_list("link") == [
        '<stun:a.example>; rel="ice-server"',
        '<turn:b.example?transport=tcp>; rel="ice-server"' + login,
        '<turns:b.example>; rel="ice-server"' + login,
    ]
    assert site.streams.ice_hosts == ["media.example"]


async def test_a_turn_service_that_fails_changes_nothing(site: Site) -> None:
    stream = await site.create()
    site.streams.ice_problem = TurnUnavailable("Cloudflare did not answer")
    answer = await site.publish(stream)
    assert answer.status_code == 503
    assert answer.json()["code"] == "WEBRTC/TURN_UNAVAILABLE"
    assert stream["id"] not in site.streams.publishers


async def test_a_key_is_no_hindrance(site: Site) -> None:
    stream = await site.create()
    for key in ("wrong", None):
        client = site.client_with(key)
        assert (await client.post(stream["whip_url"], content=OFFER, headers=SDP)).status_code == 201
        assert (await client.post(stream["whep_url"], content=OFFER, headers=SDP)).status_code == 201


async def test_parameters_of_the_content_type_are_fine(site: Site) -> None:
    stream = await site.create()
    headers = {"Content-Type": "Application/SDP; charset=utf-8"}
    assert (await site.client.post(stream["whip_url"], content=OFFER, headers=headers)).status_code == 201


@pytest.mark.parametrize("headers", [{}, {"Content-Type": "application/json"}, {"Content-Type": "application/sdpx"}])
@pytest.mark.parametrize("url", ["whip_url", "whep_url"])
async def test_another_content_type_is_415(site: Site, url: str, headers: dict[str, str]) -> None:
    stream = await site.create()
    answer = await site.client.post(stream[url], content=OFFER, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (415, "UNSUPPORTED_MEDIA_TYPE")


@pytest.mark.parametrize("content", [b"", b" \r\n", b"\xff\xfe\xfd", b"not sdp"])
async def test_a_broken_offer_is_400(site: Site, content: bytes) -> None:
    stream = await site.create()
    answer = await site.client.post(stream["whip_url"], content=content, headers=SDP)
    assert (answer.status_code, answer.json()["code"]) == (400, "WEBRTC/INVALID_SDP")
    assert site.streams.publishers == {}


async def test_an_endless_offer_is_413(site: Site) -> None:
    stream = await site.create()
    content = OFFER.ljust(LONGEST_SDP + 1)
    assert (await site.client.post(stream["whip_url"], content=content, headers=SDP)).status_code == 413


async def test_an_unknown_stream_key_is_404(site: Site) -> None:
    answer = await site.client.post("/live/video-to-video/stk_no/whip", content=OFFER, headers=SDP)
    assert answer.status_code == 404


async def test_whep_before_a_publisher_is_404_and_later_201(site: Site) -> None:
    stream = await site.create()
    client = site.client_with(None)
    early = await client.post(stream["whep_url"], content=OFFER, headers=SDP)
    assert (early.status_code, early.json()["code"]) == (404, "STREAMS/NO_PICTURE_YET")
    await site.publish(stream)
    assert (await client.post(stream["whep_url"], content=OFFER, headers=SDP)).status_code == 201


@pytest.mark.parametrize("method", ["HEAD", "GET", "PUT"])
@pytest.mark.parametrize("url", ["whip_url", "whep_url"])
async def test_other_methods_are_405(site: Site, url: str, method: str) -> None:
    stream = await site.create()
    answer = await site.client.request(method, stream[url])
    assert (answer.status_code, answer.headers["allow"]) == (405, "OPTIONS, POST")


@pytest.mark.parametrize("url", ["whip_url", "whep_url"])
async def test_delete_ends_a_session_once(site: Site, url: str) -> None:
    stream = await site.create()
    location = (await site.publish(stream)).headers["location"]
    if url == "whep_url":
        location = (await site.client.post(stream[url], content=OFFER, headers=SDP)).headers["location"]
    first, second = await site.client.delete(location), await site.client.delete(location)
    assert (first.status_code, second.status_code) == (200, 404)
    assert second.json()["code"] == "WEBRTC/SESSION_NOT_FOUND"


@pytest.mark.parametrize("url", ["whip_url", "whep_url"])
async def test_candidates_are_handed_on(site: Site, url: str) -> None:
    stream = await site.create()
    location = (await site.publish(stream)).headers["location"]
    if url == "whep_url":
        location = (await site.client.post(stream[url], content=OFFER, headers=SDP)).headers["location"]
    answer = await site.client.patch(location, content="a=ice-ufrag:x", headers=FRAGMENT)
    assert (answer.status_code, answer.content) == (204, b"")
    assert site.streams.fragments == ["a=ice-ufrag:x"]


async def test_candidates_of_another_type_are_415(site: Site) -> None:
    location = (await site.publish(await site.create())).headers["location"]
    assert (await site.client.patch(location, content="a=x", headers=SDP)).status_code == 415
