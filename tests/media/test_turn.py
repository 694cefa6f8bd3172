"""Which way WebRTC media takes, and where sessions get their TURN servers from."""

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from sdstream.clock import ManualClock
from sdstream.errors import ConfigurationError, TurnUnavailable, WebRtcOff
from sdstream.media.ports import IceServer
from sdstream.media.turn import services
from sdstream.media.turn.choice import WebRtcChoice, choose_webrtc
from sdstream.media.turn.credentials import make_credentials
from sdstream.media.turn.desk import IceDesk, choose_relay
from sdstream.media.turn.services import CloudflareTurn, Remembered, StaticServers, TwilioTurn, read_ice_servers
from sdstream.reachability import Place, Role
from sdstream.settings import Settings

MAPPED = Place(Role.POD, "abc", public_ip="203.0.113.7", tcp_ports={3478: 21478})
BARE = Place(Role.POD, "abc")
TURN = {"webrtc_ice_servers": ("turn:turn.example?transport=tcp",), "turn_username": "u", "turn_credential": "secret"}
CLOUDFLARE = {"cloudflare_turn_key_id": "key", "cloudflare_turn_api_token": "token"}


def choose(place: Place | None, *, coturn: bool = True, **settings: Any) -> WebRtcChoice:
    given = {"host": "0.0.0.0", "api_keys": ("key-of-a-test",)} | settings
    return choose_webrtc(Settings.model_validate(given), place, coturn_found=coturn)


@pytest.mark.parametrize(
    ("place", "coturn", "settings", "mode"),
    [
        (None, True, {}, "udp"),
        (None, True, TURN, "udp"),
        (MAPPED, True, {}, "turn-local"),
        (MAPPED, True, TURN, "turn-external"),
        (MAPPED, True, CLOUDFLARE, "turn-external"),
        (MAPPED, False, {}, "off"),
        (BARE, True, {}, "off"),
        (BARE, True, {"turn_address": "203.0.113.9:3478"}, "turn-local"),
        (BARE, True, {"webrtc_ice_servers": ("stun:stun.example",)}, "udp"),
        (BARE, True, {"host": "127.0.0.1"}, "udp"),
    ],
)
def test_auto_takes_what_can_work(place: Place | None, coturn: bool, settings: dict[str, Any], mode: str) -> None:
    chosen = choose(place, coturn=coturn, **settings)
    assert chosen.mode == mode
    assert chosen.because
    assert chosen.problem == ""


@pytest.mark.parametrize(
    ("place", "coturn", "mode", "words"),
    [
        (MAPPED, False, "turn-local", "not installed"),
        (BARE, True, "turn-local", "expose 3478/tcp"),
        (MAPPED, True, "turn-external", "no TURN server is set"),
    ],
)
def test_what_is_asked_for_and_cannot_work_is_told(place: Place, coturn: bool, mode: str, words: str) -> None:
    assert words in choose(place, coturn=coturn, webrtc_mode=mode).problem


def test_elsewhere_than_on_runpod_coturn_has_the_host_that_the_client_calls() -> None:
    chosen = choose(None, webrtc_mode="turn-local")
    assert (chosen.mode, chosen.turn_address, chosen.problem) == ("turn-local", None, "")


def test_the_address_of_the_settings_beats_runpods() -> None:
    assert choose(MAPPED).turn_address == "203.0.113.7:21478"
    assert choose(MAPPED, turn_address="turn.example:443").turn_address == "turn.example:443"


@pytest.mark.parametrize(
    "wrong",
    [
        {"turn_username": "u"},
        {"cloudflare_turn_key_id": "key"},
        {"twilio_auth_token": "token"},
        {"turn_address": "nowhere"},
        {"turn_address": "host:port"},
        {"webrtc_mode": "tcp"},
    ],
)
def test_half_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        Settings.model_validate(wrong)


@pytest.mark.parametrize("url", ["http://x", "turn:", "stun:a b", "stun:h:70000", "turn:h?transport=sctp"])
def test_what_is_no_server_is_refused_at_start(url: str) -> None:
    with pytest.raises(ConfigurationError, match="webrtc_ice_servers"):
        IceDesk(Settings(webrtc_ice_servers=(url,)), ManualClock())


def test_a_stun_url_has_no_transport() -> None:
    with pytest.raises(ConfigurationError, match="transport"):
        IceDesk(Settings(webrtc_ice_servers=("stun:h?transport=udp",)), ManualClock())


def test_credentials_are_those_of_the_turn_rest_api() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    username, password = make_credentials("secret", 60, now)
    assert username.startswith(f"{int(now.timestamp()) + 60}:")
    assert base64.b64decode(password) == hmac.new(b"secret", username.encode(), hashlib.sha1).digest()
    assert make_credentials("secret", 60, now)[0] != username


async def test_off_is_said_with_the_reason() -> None:
    desk = IceDesk(Settings(), ManualClock(), choose(BARE))
    with pytest.raises(WebRtcOff, match="expose 3478/tcp"):
        await desk.for_client("host")
    await desk.close()


async def test_with_udp_clients_get_the_turn_servers_and_this_server_takes_no_relay() -> None:
    desk = IceDesk(Settings.model_validate(TURN), ManualClock())
    assert await desk.for_client("host") == (IceServer(("turn:turn.example?transport=tcp",), "u", "secret"),)
    assert await desk.for_us() is None
    await desk.close()


async def test_with_turn_elsewhere_this_server_takes_a_relay_too() -> None:
    desk = IceDesk(Settings.model_validate({**TURN, "webrtc_mode": "turn-external"}), ManualClock())
    assert await desk.for_us() == IceServer(("turn:turn.example?transport=tcp",), "u", "secret")
    await desk.close()


def test_a_stun_server_of_the_settings_gets_no_password() -> None:
    settings = Settings.model_validate({**TURN, "webrtc_ice_servers": ("stun:stun.example", "turns:turn.example")})
    stun, turn = asyncio.run(StaticServers(settings).servers())
    assert (stun.username, turn.username) == (None, "u")


@pytest.mark.parametrize(
    ("urls", "chosen"),
    [
        (("turn:h?transport=udp", "turn:h?transport=tcp", "turns:h"), "turn:h?transport=tcp"),
        (("stun:h", "turn:h", "turns:h:5349?transport=tcp"), "turns:h:5349?transport=tcp"),
        (("turn:h",), "turn:h"),
        (("stun:h", "turns:h?transport=udp"), None),
    ],
)
def test_the_relay_of_this_server_goes_by_tcp_if_it_can(urls: tuple[str, ...], chosen: str | None) -> None:
    found = choose_relay((IceServer(urls, "u", "p"),))
    assert (found.urls if found else None) == ((chosen,) if chosen else None)


Answer = Callable[[httpx.Request], httpx.Response]
GOOD = {
    "iceServers": [
        {"urls": ["stun:s.example:3478"]},
        {
            "urls": ["turn:t.example:3478?transport=udp", "turn:t.example:53?transport=udp", "turns:t.example:443"],
            "username": "u",
            "credential": "p",
        },
    ]
}


def client(answer: Answer) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.MockTransport(answer))


async def test_cloudflare_is_asked_as_it_documents() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(201, json=GOOD)

    async with client(answer) as http:
        servers = await CloudflareTurn("key", "token", http).servers()
    assert str(seen[0].url) == "https://rtc.live.cloudflare.com/v1/turn/keys/key/credentials/generate-ice-servers"
    assert seen[0].headers["authorization"] == "Bearer token"
    assert json.loads(seen[0].content) == {"ttl": 86400}
    # without port 53, which browsers block
    assert servers[1] == IceServer(("turn:t.example:3478?transport=udp", "turns:t.example:443"), "u", "p")


async def test_twilio_is_asked_as_it_documents() -> None:
    seen: list[httpx.Request] = []
    turn = {"url": "turn:t.example", "urls": "turn:t.example", "username": "u", "credential": "p"}

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(201, json={"ice_servers": [{"urls": "stun:s.example"}, turn], "ttl": "86400"})

    async with client(answer) as http:
        servers = await TwilioTurn("AC1", "token", http).servers()
    assert str(seen[0].url) == "https://api.twilio.com/2010-04-01/Accounts/AC1/Tokens.json"
    assert seen[0].headers["authorization"] == httpx.BasicAuth("AC1", "token")._auth_header
    assert seen[0].content == b"Ttl=86400"
    assert servers == (IceServer(("stun:s.example",)), IceServer(("turn:t.example",), "u", "p"))


def test_the_older_shape_of_one_object_is_read_too() -> None:
    given = {"urls": ["turn:t.example"], "username": "u", "credential": "p"}
    assert read_ice_servers("x", given) == (IceServer(("turn:t.example",), "u", "p"),)


def fails(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("no route", request=request)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda request: httpx.Response(401, json={"secret": "token"}), "refuses the key"),
        (lambda request: httpx.Response(500), "status 500"),
        (lambda request: httpx.Response(200, text="<html>"), "no JSON"),
        (lambda request: httpx.Response(200, json=[]), "no object"),
        (lambda request: httpx.Response(200, json={}), "without a TURN server"),
        (lambda request: httpx.Response(200, json={"iceServers": [{"urls": 7}, "x"]}), "without a TURN server"),
        (fails, "cannot be reached"),
    ],
)
async def test_a_service_that_fails_says_how_and_no_secret(answer: Answer, words: str) -> None:
    async with client(answer) as http:
        with pytest.raises(TurnUnavailable, match=words) as caught:
            await CloudflareTurn("key", "token", http).servers()
    assert "token" not in caught.value.message
    assert caught.value.retryable


async def test_a_service_that_is_mute_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "REQUEST_SECONDS", 0.05)

    async def mute(request: httpx.Request) -> httpx.Response:
        await asyncio.Event().wait()
        raise AssertionError

    async with httpx.AsyncClient(transport=httpx.MockTransport(mute)) as http:
        with pytest.raises(TurnUnavailable, match="did not answer"):
            await CloudflareTurn("key", "token", http).servers()


async def test_one_session_is_one_request() -> None:
    asked = 0

    class Service:
        async def servers(self) -> tuple[IceServer, ...]:
            nonlocal asked
            asked += 1
            await asyncio.sleep(0)
            return (IceServer(("turn:t.example",), str(asked), "p"),)

    clock = ManualClock()
    service = Remembered(Service(), clock)
    await asyncio.gather(service.servers(), service.servers(), service.servers())
    assert asked == 1
    clock.advance(services.REUSE_SECONDS)
    assert (await service.servers())[0].username == "2"


async def test_a_service_that_hangs_keeps_nobody_longer_than_one_request() -> None:
    asked: list[asyncio.Event] = []

    class Service:
        async def servers(self) -> tuple[IceServer, ...]:
            asked.append(asyncio.Event())
            await asked[-1].wait()
            raise TurnUnavailable("no")

    service = Remembered(Service(), ManualClock())
    waiting = [asyncio.create_task(service.servers()) for _ in range(5)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.sleep(0)
    asked[0].set()
    _, late = await asyncio.wait(waiting, timeout=5)
    told = [type(task.exception()) for task in waiting[1:] if task.done()]
    for task in late:
        task.cancel()
    assert (len(asked), told) == (1, [TurnUnavailable] * 4), "one request for all who came meanwhile"


async def test_a_failure_is_not_remembered() -> None:
    class Service:
        answers = iter((TurnUnavailable("no"), (IceServer(("turn:t.example",), "u", "p"),)))

        async def servers(self) -> tuple[IceServer, ...]:
            answer = next(self.answers)
            if isinstance(answer, TurnUnavailable):
                raise answer
            return answer

    service = Remembered(Service(), ManualClock())
    with pytest.raises(TurnUnavailable):
        await service.servers()
    assert await service.servers()
