"""The address by which a client called, as a further ICE candidate in the answer to it.

A container, or a machine that a provider gives its public address by NAT, does not know where it is reached; who called
it does. Where the client used a name there may be a proxy behind it, and nothing is added.
"""

import ipaddress
import re

_HOST = re.compile(
    r"a=candidate:\S+ (?P<component>\d+) (?P<transport>\S+) (?P<priority>\d+) (?P<address>\S+) "
    r"(?P<port>\d+) typ host(?P<rest>.*)"
)
LESS = 1 << 16
"""So much lower is the priority of what was added: 256 steps of local preference, so that own addresses come first."""


def with_called_address(answer: str, host: str) -> str:
    """`answer` with each host candidate of the family of `host`, an IP address, a second time at that address.

    The answer itself for a `host` that is a name, or that is among its candidates.
    """
    try:
        called = ipaddress.ip_address(host)
    except ValueError:
        return answer
    if called.is_unspecified or "%" in host:  # nowhere, or on a link of the client's own
        return answer
    lines = answer.split("\r\n")
    found = {line: match for line in lines if (match := _HOST.fullmatch(line)) is not None}
    addresses = {match["address"] for match in found.values()}
    if str(called) in addresses:
        return answer
    written: list[str] = []
    ports: set[tuple[str, str, str]] = set()
    """Of this section: two candidates may share a port, and the one at `host` is one."""
    for line in lines:
        written.append(line)
        if line.startswith("m="):
            ports.clear()
        match = found.get(line)
        if match is None or not _is_of_family(match["address"], called.version):
            continue
        port = match["component"], match["transport"].lower(), match["port"]
        if port not in ports:
            ports.add(port)
            priority = max(1, int(match["priority"]) - LESS)
            place = f"{match['transport']} {priority} {called} {match['port']}"
            written.append(f"a=candidate:called{port[1]} {port[0]} {place} typ host{match['rest']}")
    return "\r\n".join(written)


def _is_of_family(address: str, version: int) -> bool:
    try:
        return ipaddress.ip_address(address).version == version
    except ValueError:  # a name, such as those of mDNS
        return False


__all__ = ["with_called_address"]
