"""A network namespace that is to this machine what a RunPod pod is to the world: no UDP in or out, TCP ports that have
other numbers outside than inside.

Made of `ip netns`, a pair of virtual interfaces and nftables, by root on Linux; `why_not` says what is missing.
"""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

RULES = """
table inet pod {{
    chain arriving {{
        type filter hook input priority filter
        iifname "{inner}" meta l4proto udp counter drop
    }}
    chain leaving {{
        type filter hook output priority filter
        oifname "{inner}" meta l4proto udp counter drop
    }}
    chain mapping {{
        type nat hook prerouting priority dstnat
        {maps}
    }}
}}
"""


def why_not() -> str:
    """The reason why no pod can be made here; empty when one can."""
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    if os.geteuid() != 0:
        return "only root makes network namespaces"
    missing = [program for program in ("ip", "nft") if shutil.which(program, path=_path()) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    name = f"sdprobe{os.getpid()}"
    made = _call("ip", "netns", "add", name, check=False)
    if made.returncode != 0:
        return f"network namespaces are not allowed here: {made.stderr.strip()}"
    rules = _call("ip", "netns", "exec", name, "nft", "add", "table", "inet", "probe", check=False)
    _call("ip", "netns", "delete", name)
    return "" if rules.returncode == 0 else f"nftables does not work here: {rules.stderr.strip()}"


@dataclass(frozen=True)
class Pod:
    """`prefix` before a command runs it inside; `ports` maps inside to outside.

    `address` is the pod's, `outside` the one that the rest of this machine has on the way to it.
    """

    name: str
    ports: dict[int, int]
    address: str
    outside: str

    @property
    def prefix(self) -> tuple[str, ...]:
        return ("ip", "netns", "exec", self.name)

    @property
    def environment(self) -> dict[str, str]:
        """What RunPod tells a container with these ports."""
        mapped = {f"RUNPOD_TCP_PORT_{inside}": str(outside) for inside, outside in self.ports.items()}
        return {"RUNPOD_POD_ID": "testpod", "RUNPOD_PUBLIC_IP": self.address, **mapped}

    def dropped(self) -> int:
        """UDP packets that were stopped, in both directions."""
        listed = _call(*self.prefix, "nft", "list", "table", "inet", "pod").stdout
        words = listed.split()
        return sum(int(words[index + 2]) for index, word in enumerate(words) if word == "counter")


@contextlib.contextmanager
def make_pod(ports: dict[int, int]) -> Iterator[Pod]:
    """A pod whose TCP `ports` (inside to outside) are mapped; gone with the context."""
    name = f"sdpod{os.getpid()}"
    # Of this process, so that two runs on one machine do not take each other's addresses.
    network = f"10.213.{os.getpid() // 64 % 256}.{{}}"
    outside, inside = (network.format(os.getpid() % 64 * 4 + host) for host in (1, 2))
    inner, outer = f"pi{os.getpid()}"[:15], f"po{os.getpid()}"[:15]
    _call("ip", "netns", "add", name)
    try:
        _call("ip", "link", "add", outer, "type", "veth", "peer", "name", inner, "netns", name)
        _call("ip", "address", "add", f"{outside}/30", "dev", outer)
        _call("ip", "link", "set", outer, "up")
        _call("ip", "-n", name, "address", "add", f"{inside}/30", "dev", inner)
        _call("ip", "-n", name, "link", "set", inner, "up")
        _call("ip", "-n", name, "link", "set", "lo", "up")
        maps = "\n".join(f'iifname "{inner}" tcp dport {out} redirect to :{port}' for port, out in ports.items())
        _call("ip", "netns", "exec", name, "nft", "-f", "-", given=RULES.format(inner=inner, maps=maps))
        yield Pod(name, ports, inside, outside)
    finally:
        _call("ip", "netns", "delete", name)  # takes both interfaces with it


def _call(*command: str, given: str | None = None, check: bool = True) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        command,
        input=given,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        env={**os.environ, "PATH": _path()},
    )
    assert not check or done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done


def _path() -> str:
    """With the system's own programs, which are not on every user's path."""
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


__all__ = ["Pod", "make_pod", "why_not"]
