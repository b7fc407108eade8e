"""Network namespaces for the hosts, where this user may make them: one bridge, one cable to each host.

Everything that is made has the suite's pid in its name, so that the next suite can remove what one that was killed has
left behind, and suites that run at the same time do not meet.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

NAMESPACE_PREFIX = "rota-faults-"
LINK_PREFIX = "rf"  # names of links end after 15 characters
SUBNETS = ipaddress.ip_network("10.213.0.0/16").subnets(new_prefix=24)


def ip(*args: str, check: bool = True) -> str:
    done = subprocess.run(["ip", *args], capture_output=True, text=True, check=False)
    if check and done.returncode != 0:
        raise OSError(f"ip {' '.join(args)}: {done.stderr.strip()}")
    return done.stdout


def why_not() -> str | None:
    """Return why there can be no namespaces here, or None."""
    if os.getuid() != 0:
        return "only root may make network namespaces"
    for program in ("ip", "unshare", "setpriv"):
        if shutil.which(program) is None:
            return f"{program} is missing: apt-get install -y iproute2 util-linux"
    probe = f"{NAMESPACE_PREFIX}{os.getpid()}-probe"
    try:
        ip("netns", "add", probe)
    except OSError as error:
        return str(error)
    finally:
        ip("netns", "del", probe, check=False)
    tried = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount-proc", "true"], capture_output=True, text=True, check=False
    )
    return tried.stderr.strip() or None if tried.returncode else None


class Network:
    """A bridge with an address of its own, and a cable from it into the namespace of each host."""

    def __init__(self) -> None:
        self._bridge = f"{LINK_PREFIX}{os.getpid()}"
        self._subnet = _free_subnet()
        self._addresses = self._subnet.hosts()
        self.address = str(next(self._addresses))  # where the proxies listen
        self._cables: dict[str, str] = {}  # host: the bridge's end of its cable

    def open(self) -> None:
        ip("link", "add", self._bridge, "type", "bridge")
        ip("addr", "add", f"{self.address}/24", "dev", self._bridge)
        ip("link", "set", self._bridge, "up")

    def add(self, host: str) -> str:
        """Make the namespace of ``host``, connect it, and return its name."""
        name = f"{NAMESPACE_PREFIX}{os.getpid()}-{host}"
        near, far = f"{self._bridge}a{len(self._cables)}", f"{self._bridge}b{len(self._cables)}"
        ip("netns", "add", name)
        ip("link", "add", near, "type", "veth", "peer", "name", far)
        ip("link", "set", far, "netns", name)
        ip("link", "set", near, "master", self._bridge, "up")
        ip("-n", name, "addr", "add", f"{next(self._addresses)}/24", "dev", far)
        ip("-n", name, "link", "set", far, "up")
        ip("-n", name, "link", "set", "lo", "up")
        self._cables[host] = near
        return name

    def unplug(self, host: str) -> None:
        """Pull the cable at the bridge's end: packets vanish, and nobody is told."""
        # Not by taking it off the bridge: the kernel answers for all its addresses on any link.
        ip("link", "set", self._cables[host], "down")

    def plug(self, host: str) -> None:
        ip("link", "set", self._cables[host], "up")

    def close(self) -> None:
        for host in self._cables:
            ip("netns", "del", f"{NAMESPACE_PREFIX}{os.getpid()}-{host}", check=False)
        for cable in self._cables.values():
            ip("link", "del", cable, check=False)
        ip("link", "del", self._bridge, check=False)


@contextlib.contextmanager
def network() -> Iterator[Network]:
    made = Network()
    try:
        made.open()
        yield made
    finally:
        made.close()


def _free_subnet() -> ipaddress.IPv4Network:
    taken = [
        ipaddress.ip_network(f"{address['local']}/{address['prefixlen']}", strict=False)
        for link in json.loads(ip("-json", "-4", "addr") or "[]")
        for address in link.get("addr_info", ())
        if "local" in address
    ]
    for subnet in SUBNETS:
        assert isinstance(subnet, ipaddress.IPv4Network)
        if not any(subnet.overlaps(other) for other in taken):
            return subnet
    raise OSError("all addresses that the suite would use are taken")


def remove_abandoned() -> None:
    """Remove what suites that were killed have left behind: namespaces, links, and mounts below their folders."""
    if os.getuid() != 0 or shutil.which("ip") is None:
        return
    for line in ip("netns", "list", check=False).splitlines():
        name = line.split()[0] if line else ""
        if name.startswith(NAMESPACE_PREFIX) and _is_over(name.removeprefix(NAMESPACE_PREFIX).partition("-")[0]):
            ip("netns", "del", name, check=False)
    for link in json.loads(ip("-json", "link", check=False) or "[]"):
        name = link["ifname"]
        pid = name.removeprefix(LINK_PREFIX).partition("a")[0].partition("b")[0]
        if name.startswith(LINK_PREFIX) and pid.isdigit() and _is_over(pid):
            ip("link", "del", name, check=False)


def _is_over(pid: str) -> bool:
    return pid.isdigit() and not Path("/proc", pid).exists()
