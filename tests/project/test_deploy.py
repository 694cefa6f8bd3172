"""`sdstream deploy`: exact payloads, and a fake of RunPod's API that says what came."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from sdstream import deployment
from sdstream.cli import run
from sdstream.deployment import Common, EndpointPlan, PodPlan, read_variables
from sdstream.errors import ConfigurationError
from sdstream.settings import Settings

KEY = "rpa_a_key_that_nobody_may_see"
IMAGE = "registry.example/sdstream:0.1.0"
CARD = "NVIDIA GeForce RTX 4090"


def pod(**values: Any) -> dict[str, Any]:
    return PodPlan(Common("demo", IMAGE, **values), CARD).payload(Settings())


def test_a_pod_has_its_ports_its_volume_and_a_host_that_can_start_the_image() -> None:
    assert pod(volumes=("vol1",), data_centers=("EU-RO-1",), variables={"SDSTREAM_LOG_LEVEL": "debug"}) == {
        "name": "demo",
        "image": IMAGE,
        "gpu": {"id": CARD, "count": 1, "minCudaVersion": "13.0"},
        "cloud": "SECURE",
        "disk": 50,
        "ports": ["8080/http", "3478/tcp"],
        "env": {"MODE": "pod", "SDSTREAM_LOG_LEVEL": "debug"},
        "dataCenterIds": ["EU-RO-1"],
        "mounts": {"network": [{"volumeId": "vol1", "path": "/workspace"}]},
    }


def test_hosts_are_as_old_as_the_image_admits() -> None:
    endpoint = EndpointPlan(Common("demo", IMAGE, min_cuda_version="12.6"), ("ADA_24",)).payload(Settings())
    assert [body["gpu"]["minCudaVersion"] for body in (pod(min_cuda_version="12.6"), endpoint)] == ["12.6", "12.6"]


def test_ports_follow_the_variables() -> None:
    body = pod(variables={"SDSTREAM_PORT": "9000", "SDSTREAM_TURN_PORT": "3479"}, tcp_ports=(1935, 70000))
    assert body["ports"] == ["9000/http", "3479/tcp", "1935/tcp", "70000/tcp"]


def test_a_queue_maps_the_ports_by_which_a_session_is_reached() -> None:
    body = EndpointPlan(Common("demo", IMAGE), ("ADA_24",)).payload(Settings())
    assert (body["type"], body["env"], body["ports"]) == ("QUEUE", {"MODE": "serverless"}, ["8080/tcp", "3478/tcp"])
    assert body["scaling"]["type"] == "QUEUE_DELAY"
    assert body["timeout"] > 1000 * Settings().session_max_seconds, "a session must reach its summary"
    assert body["workers"] == {"min": 0, "max": 3, "idleTimeout": 60}


MEDIAMTX = {"SDSTREAM_MEDIA_BACKEND": "mediamtx", "SDSTREAM_MEDIAMTX_RTMP_PORT": "1935"}


def test_under_mediamtx_its_ports_are_mapped_and_webrtcs_is_symmetric() -> None:
    assert pod(variables=MEDIAMTX)["ports"] == ["8080/http", "70000/tcp", "1935/tcp"]
    endpoint = EndpointPlan(Common("demo", IMAGE, variables=MEDIAMTX), ("ADA_24",)).payload(Settings())
    assert endpoint["ports"] == ["8080/tcp", "70000/tcp", "1935/tcp"]


def test_a_port_that_runpod_would_fill_in_cannot_be_mapped() -> None:
    with pytest.raises(ConfigurationError, match="SDSTREAM_PORT must be written as a port's number"):
        pod(variables={"SDSTREAM_PORT": "{{ RUNPOD_SECRET_port }}"})


def test_a_load_balancer_asks_on_port_80() -> None:
    body = EndpointPlan(Common("demo", IMAGE), ("ADA_24",), "LOAD_BALANCER").payload(Settings())
    assert body["env"] == {"MODE": "pod", "PORT": "80", "PORT_HEALTH": "80"}
    assert body["ports"] == ["80/http", "3478/tcp"]
    assert body["scaling"]["type"] == "REQUEST_COUNT"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"image": "registry.example:5000/sdstream"}, "name a tag"),
        ({"image": "sdstream:latest"}, "latest"),
        ({"name": " "}, "name"),
        ({"disk": 5}, "disk"),
        ({"min_cuda_version": "13"}, "min_cuda_version"),
        ({"min_cuda_version": ""}, "min_cuda_version"),
        ({"gpu_count": 0}, "gpu_count"),
        ({"image": "a name:1"}, "name a tag"),
        ({"image": "sdstream:"}, "name a tag"),
        ({"image": "sdstream@sha256:"}, "name a tag"),
        ({"tcp_ports": (0,)}, "tcp"),
        ({"tcp_ports": (65536,)}, "tcp"),
        ({"volumes": ("",)}, "volume: is given and empty"),
        ({"data_centers": ("",)}, "data_center: is given and empty"),
        ({"registry": ""}, "registry: is given and empty"),
        ({"variables": {"SDSTREAM_PORT": "0"}}, "SDSTREAM_PORT must be written as a port's number"),
        ({"volumes": ("a", "b")}, "one network volume"),
        ({"volumes": ("a",), "data_centers": ("EU-RO-1", "EU-CZ-1")}, "one data centre"),
        ({"variables": {f"A{number}": "" for number in range(51)}}, "50 variables"),
        ({"variables": {"SDSTREAM_PROT": "1"}}, "did you mean SDSTREAM_PORT"),
        ({"variables": {"SDSTREAM_MAX_STREAMS": "none"}}, "(?i)max_streams"),
    ],
)
def test_what_would_fail_there_is_refused_here(values: dict[str, Any], words: str) -> None:
    given: dict[str, Any] = {"name": "demo", "image": IMAGE} | values
    with pytest.raises(ConfigurationError, match=words):
        PodPlan(Common(**given), CARD).payload(Settings())


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"workers_min": -1}, "workers_min: 0 to"),
        ({"workers_max": 10**6}, "workers_max: 0 to"),
        ({"idle_timeout": 0}, "idle_timeout: 1 to"),
        ({"idle_timeout": 3601}, "idle_timeout: 1 to 3600"),
        ({"timeout": 0}, "timeout: 5 to"),
        ({"timeout": -5}, "timeout: 5 to"),
        ({"timeout": 10**9}, "timeout: 5 to"),
        ({"excluded": ("",)}, "exclude: is given and empty"),
    ],
)
def test_an_endpoint_of_numbers_that_cannot_be_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        EndpointPlan(Common("demo", IMAGE), ("ADA_24",), **values).payload(Settings())


@pytest.mark.parametrize("port", ["x", "", "0", "99999", "-1", "8O"])
def test_a_load_balancers_own_port_is_a_ports_number(port: str) -> None:
    common = Common("demo", IMAGE, variables={"PORT": port})
    with pytest.raises(ConfigurationError, match="env: PORT must be"):
        EndpointPlan(common, ("ADA_24",), "LOAD_BALANCER").payload(Settings())


def test_a_volume_is_for_the_secure_cloud_only() -> None:
    with pytest.raises(ConfigurationError, match="secure"):
        PodPlan(Common("demo", IMAGE, volumes=("a",)), CARD, "COMMUNITY").payload(Settings())


@pytest.mark.parametrize("text", ["NAME", "=x", "1A=x", "A B=x"])
def test_variables_are_written_name_equals_value(text: str) -> None:
    with pytest.raises(ConfigurationError, match="NAME=VALUE"):
        read_variables([text])


def test_a_secret_of_runpod_is_passed_on_unread() -> None:
    variables = read_variables(["SDSTREAM_API_KEYS={{ RUNPOD_SECRET_key }}", "SDSTREAM_PORT={{ RUNPOD_SECRET_port }}"])
    common = Common("demo", IMAGE, variables={"SDSTREAM_API_KEYS": variables["SDSTREAM_API_KEYS"]})
    assert PodPlan(common, CARD).payload(Settings())["env"]["SDSTREAM_API_KEYS"] == "{{ RUNPOD_SECRET_key }}"


class FakeApi:
    """RunPod's REST API as far as `deploy` uses it; `answer` is given to every request."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, Any]] = []
        self.answer: tuple[int, bytes] = (201, b'{"id": "made1", "status": "PROVISIONING"}')
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.seen.append((self.path, self.headers["Authorization"], body))
                status, content = outer.answer
                if status == 0:
                    return  # the connection ends
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v2"


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApi]:
    fake = FakeApi()
    thread = threading.Thread(target=fake.server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    monkeypatch.setattr(deployment, "API", fake.url)
    monkeypatch.setenv("RUNPOD_API_KEY", KEY)
    yield fake
    fake.server.shutdown()
    fake.server.server_close()
    thread.join(5)


@pytest.fixture
def deploy(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    def call(*arguments: str) -> tuple[int, str]:
        code = run(["deploy", *arguments, "--image", IMAGE])
        said = capsys.readouterr()
        return code, said.out + said.err

    return call


def test_a_dry_run_prints_what_would_be_posted_and_posts_nothing(
    api: FakeApi, deploy: Callable[..., tuple[int, str]]
) -> None:
    code, said = deploy("pod", "--gpu", CARD, "--name", "demo", "--dry-run")
    assert code == 0
    assert json.loads(said) == pod()
    assert api.seen == []
    deploy("pod", "--gpu", CARD, "--name", "demo")
    assert api.seen == [("/v2/pods", f"Bearer {KEY}", pod())]


def test_it_says_where_the_new_thing_will_be(api: FakeApi, deploy: Callable[..., tuple[int, str]]) -> None:
    code, said = deploy("pod", "--gpu", CARD)
    assert code == 0
    assert "https://made1-8080.proxy.runpod.net" in said
    assert "https://api.runpod.ai/v2/made1/run" in deploy("endpoint", "--gpu", "ADA_24")[1]
    balanced = deploy("endpoint", "--gpu", "ADA_24", "--load-balancer")[1]
    assert "https://made1.api.runpod.ai" in balanced
    assert "needs RunPod's API key" in balanced, "RunPod refuses a request without one before it reaches a worker"
    assert [path for path, _, _ in api.seen] == ["/v2/pods", "/v2/serverless", "/v2/serverless"]


@pytest.mark.parametrize(
    ("status", "content", "words"),
    [
        (401, b"{}", "refuses the key"),
        (400, b'{"error": "no such GPU"}', "no such GPU"),
        (500, f"key {KEY} is odd".encode(), "key [redacted] is odd"),
        (201, b"<html>", "no JSON"),
        (201, b"[]", "no id"),
        (201, b'{"id": "\\u001b[31mred"}', "no id"),
        (400, b"\x1b]0;title\x07 and \xc2\x9b31m", r"status 400: \x1b]0;title\x07 and \x9b31m"),
    ],
)
def test_a_failure_is_told_in_runpods_words_and_without_the_key(
    api: FakeApi, deploy: Callable[..., tuple[int, str]], status: int, content: bytes, words: str
) -> None:
    api.answer = (status, content)
    code, said = deploy("pod", "--gpu", CARD)
    assert code == 1
    assert words in said
    assert KEY not in said
    assert said.replace("\n", "").isprintable()


def test_no_free_host_is_told_with_what_may_be_asked_for_instead(
    api: FakeApi, deploy: Callable[..., tuple[int, str]]
) -> None:
    api.answer = (400, b'{"detail": "There are no longer any instances available.", "status": 400}')
    assert "--data-center" in deploy("pod", "--gpu", CARD, "--data-center", "EU-RO-1")[1]
    api.answer = (400, b'{"detail": "No such card.", "status": 400}')
    assert "--data-center" not in deploy("pod", "--gpu", CARD, "--data-center", "EU-RO-1")[1]


def test_an_answer_that_never_comes_may_have_made_something(
    api: FakeApi, deploy: Callable[..., tuple[int, str]]
) -> None:
    api.answer = (0, b"")
    code, said = deploy("pod", "--gpu", CARD)
    assert code == 1
    assert "It may have been made all the same" in said
    assert KEY not in said


@pytest.mark.parametrize("key", ["rpa_äö", "rpa a", "rpa_a\nEvil: 1"])
def test_what_is_no_key_is_not_sent_and_not_shown(
    key: str, api: FakeApi, deploy: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNPOD_API_KEY", key)
    code, said = deploy("pod", "--gpu", CARD)
    assert (code, api.seen) == (2, [])
    assert "RUNPOD_API_KEY: must be a key" in said
    assert key not in said


def test_a_key_from_a_file_may_end_with_its_line(
    api: FakeApi, deploy: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNPOD_API_KEY", KEY + "\n")
    assert deploy("pod", "--gpu", CARD)[0] == 0
    assert api.seen[0][1] == f"Bearer {KEY}"


@pytest.mark.parametrize("what", ["pod", "endpoint"])
def test_a_card_without_a_name_is_refused(what: str, deploy: Callable[..., tuple[int, str]]) -> None:
    assert deploy(what, "--gpu", "", "--dry-run")[0] == 2


def test_without_a_key_nothing_is_asked(
    monkeypatch: pytest.MonkeyPatch, deploy: Callable[..., tuple[int, str]]
) -> None:
    monkeypatch.delenv("RUNPOD_API_KEY", raising=False)
    code, said = deploy("pod", "--gpu", CARD)
    assert (code, "RUNPOD_API_KEY is not set" in said) == (2, True)


@pytest.mark.parametrize("arguments", [("pod",), ("pod", "--gpu", "a", "--gpu", "b"), ("endpoint",), ("island",)])
def test_a_card_and_a_kind_must_be_named(arguments: tuple[str, ...], deploy: Callable[..., tuple[int, str]]) -> None:
    assert deploy(*arguments, "--dry-run")[0] == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("pod", "--gpu", "ADA_24"), "ADA_24 is a pool"),
        (("endpoint", "--gpu", CARD), "is no pool"),
        (("pod", "--gpu", CARD, "--workers-max", "5"), "--workers-max is for endpoints"),
        (("pod", "--gpu", CARD, "--load-balancer"), "--load-balancer is for endpoints"),
        (("endpoint", "--gpu", "ADA_24", "--cloud", "community"), "--cloud is for pods"),
    ],
)
def test_what_belongs_to_the_other_kind_is_refused(
    arguments: tuple[str, ...], words: str, deploy: Callable[..., tuple[int, str]]
) -> None:
    code, said = deploy(*arguments, "--dry-run")
    assert (code, words in said) == (2, True), said


def test_a_pool_that_may_be_misspelt_is_asked_about_and_taken(deploy: Callable[..., tuple[int, str]]) -> None:
    code, said = deploy("endpoint", "--gpu", "ADA_42", "--dry-run")
    assert code == 0
    assert "did you mean 'ADA_24'" in said
    assert '"ADA_42"' in said


@pytest.mark.parametrize(("what", "gpu"), [("pod", CARD), ("endpoint", "ADA_24")])
def test_cards_that_no_server_would_use_are_told(what: str, gpu: str, deploy: Callable[..., tuple[int, str]]) -> None:
    code, said = deploy(what, "--gpu", gpu, "--gpu-count", "2", "--dry-run")
    assert (code, "a server uses one card, and 2 are paid for" in said) == (0, True)
    assert "paid for" not in deploy(what, "--gpu", gpu, "--dry-run")[1]


def test_a_cloud_whose_hosts_may_have_no_address_is_told(deploy: Callable[..., tuple[int, str]]) -> None:
    code, said = deploy("pod", "--gpu", CARD, "--cloud", "community", "--dry-run")
    assert (code, "may have no public IP" in said) == (0, True)
    assert "public IP" not in deploy("pod", "--gpu", CARD, "--dry-run")[1]


def test_a_load_balancers_port_is_the_servers() -> None:
    common = Common("demo", IMAGE, variables={"SDSTREAM_PORT": "9000"})
    assert EndpointPlan(common, ("ADA_24",), "LOAD_BALANCER").payload(Settings())["ports"][0] == "9000/http"
