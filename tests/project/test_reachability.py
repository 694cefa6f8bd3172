"""What RunPod's variables say about the ways in."""

import pytest

from sdstream.reachability import Place, Role, find_place, platform_settings

POD = {
    "RUNPOD_POD_ID": "abc123",
    "RUNPOD_PUBLIC_IP": "203.0.113.7",
    "RUNPOD_TCP_PORT_3478": "21478",
    "RUNPOD_TCP_PORT_70000": "30001",
}


def place(**variables: str) -> Place:
    found = find_place({**POD, **variables})
    assert found is not None
    return found


def test_without_its_variables_this_is_not_runpod() -> None:
    assert find_place({"PORT": "80", "RUNPOD_PUBLIC_IP": "203.0.113.7"}) is None
    assert platform_settings({"PORT": "80"}) == {}


def test_a_pod_is_reached_by_its_proxy() -> None:
    assert place().role is Role.POD
    assert place().public_base(8080) == "https://abc123-8080.proxy.runpod.net"


def test_a_mapped_port_of_http_is_surer_than_the_proxy_which_no_variable_tells_of() -> None:
    bases = place(RUNPOD_TCP_PORT_8080="21080").bases(8080)
    assert list(bases.values()) == ["http://203.0.113.7:21080", "https://abc123-8080.proxy.runpod.net"]


def test_a_mapped_port_has_another_number_outside() -> None:
    assert place().tcp_address(3478) == ("203.0.113.7", 21478)
    assert place().tcp_address(1935) is None


def test_a_symmetric_port_is_the_same_inside_and_outside() -> None:
    assert place().symmetric_ports == (30001,)
    assert place().tcp_address(30001) == ("203.0.113.7", 30001)
    assert place().tcp_address(70000) == ("203.0.113.7", 30001)


def test_a_port_without_a_public_address_leads_nowhere() -> None:
    assert place(RUNPOD_PUBLIC_IP="").tcp_address(3478) is None


def test_an_ipv6_address_is_bracketed() -> None:
    assert place(RUNPOD_PUBLIC_IP="2001:db8::1", RUNPOD_TCP_PORT_8080="1").public_base(8080) == "http://[2001:db8::1]:1"


def test_a_queue_worker_has_no_proxy() -> None:
    worker = place(RUNPOD_ENDPOINT_ID="end1", RUNPOD_WEBHOOK_GET_JOB="https://x/job-take/$ID")
    assert worker.role is Role.QUEUE_WORKER
    assert worker.public_base(8080) is None


def test_a_load_balancer_worker_is_reached_by_its_endpoint() -> None:
    worker = place(RUNPOD_ENDPOINT_ID="end1")
    assert worker.role is Role.LOAD_BALANCER_WORKER
    assert worker.public_base(80) == "https://end1.api.runpod.ai"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RUNPOD_TCP_PORT_1935", "soon"),
        ("RUNPOD_TCP_PORT_1935", "70001"),
        ("RUNPOD_TCP_PORT_1935", "٣"),
        ("RUNPOD_TCP_PORT_RTMP", "1935"),
        ("RUNPOD_PUBLIC_IP", "pending"),
        ("RUNPOD_POD_ID", "a/b"),
    ],
)
def test_what_cannot_be_understood_is_told_and_not_believed(name: str, value: str) -> None:
    found = place(**{name: value})
    assert [name in problem for problem in found.problems] == [True]
    assert value not in (found.public_ip, found.pod_id)
    assert found.tcp_address(1935) is None


def test_the_load_balancers_ports_are_settings_on_runpod_only() -> None:
    given = {"PORT": "80", "PORT_HEALTH": "81"}
    assert platform_settings({**POD, **given}) == {"port": "80", "health_port": "81"}
