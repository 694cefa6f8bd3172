"""The server inside a worker, where no RunPod is needed: what it says about the way in."""

import pytest

from sdstream.embedded_server import EmbeddedServer
from sdstream.settings import Settings

QUEUE = {"RUNPOD_POD_ID": "w1", "RUNPOD_WEBHOOK_GET_JOB": "https://x/job-take/$ID"}
MAPPED = {"RUNPOD_PUBLIC_IP": "203.0.113.7", "RUNPOD_TCP_PORT_8080": "12345"}


def test_the_control_url_is_the_mapped_address() -> None:
    server = EmbeddedServer(Settings(host="0.0.0.0"), QUEUE | MAPPED)
    assert server.control_url == "http://203.0.113.7:12345"
    assert server.notes == ()


@pytest.mark.parametrize("environment", [QUEUE, QUEUE | {"RUNPOD_TCP_PORT_8080": "12345"}])
def test_a_worker_that_nobody_reaches_says_so(environment: dict[str, str]) -> None:
    assert "8080" in EmbeddedServer(Settings(host="0.0.0.0"), environment).notes[0]


def test_two_processes_of_one_worker_have_different_mailboxes() -> None:
    one, other = EmbeddedServer(Settings(), QUEUE), EmbeddedServer(Settings(), QUEUE)
    assert one.worker_id == other.worker_id == "w1"
    assert one.mailbox != other.mailbox
