"""Network namespaces of the laboratory: made, entered, and removed with everything that runs inside them.

Names are ``katlab-<pid>-<hex>-<host>``: the pid says whose they are, so that left-overs of a dead process are told
from a laboratory in use. The host's own links, routes and rules are never touched: every veth pair is born with both
ends inside the laboratory's namespaces.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import tempfile
import time
from pathlib import Path

from . import topology
from .command import run
from .errors import CommandFailedError
from .topology import Host

PREFIX = "katlab-"
_NAME = re.compile(r"^katlab-(?P<pid>\d+)-(?P<tag>[0-9a-f]{6})(?:-(?P<host>[a-z0-9]+))?$")
#: `ip netns exec` binds the files in here over those in /etc, for the processes of that namespace only.
_ETC_NETNS = Path("/etc/netns")
_DEAD = "dead"


def ip(*args: str, batch: list[str] | None = None) -> str:
    """Run `ip` and return its output; with `batch`, the lines are run in one process.

    Raises:
        CommandFailedError: ip ended with an error.
    """
    if batch is None:
        return run(["ip", *args])
    return run(["ip", *args, "-batch", "-"], text="\n".join(batch) + "\n")


def build(ident: str, resolver: str) -> dict[str, Host]:
    """Make the namespaces of one laboratory, joined by a bridge; return its hosts by name.

    Args:
        ident: ``katlab-<pid>-<hex>``, the start of every namespace's name.
        resolver: address written into the namespaces' own ``/etc/resolv.conf``.
    """
    hub = f"{ident}-net"
    hosts = {
        name: Host(name, f"{ident}-{name}", tuple(map(topology.v4, numbers)), tuple(map(topology.v6, numbers)))
        for name, numbers in topology.HOSTS.items()
    }
    ip(batch=[f"netns add {hub}", *(f"netns add {host.netns}" for host in hosts.values())])
    # Without snooping the bridge passes neighbour discovery on from the first packet.
    ip("-n", hub, batch=["link add br0 type bridge mcast_snooping 0", "link set br0 up", "link set lo up"])
    ip(
        batch=[
            f"link add eth0 netns {host.netns} type veth peer name v-{name} netns {hub}" for name, host in hosts.items()
        ]
    )
    ip("-n", hub, batch=[line for name in hosts for line in (f"link set v-{name} master br0", f"link set v-{name} up")])
    for name, host in hosts.items():
        commands = ["link set lo up"]
        commands += [f"address add {address}/{topology.PREFIX_V4} dev eth0" for address in host.ipv4]
        # nodad: an address under duplicate address detection can't be bound yet, and nobody else is in here.
        commands += [f"address add {address}/{topology.PREFIX_V6} dev eth0 nodad" for address in host.ipv6]
        commands += ["link set eth0 up"]
        if name == "many":
            commands.append(f"route add local {topology.MANY_NETWORK} dev lo")
        if name == "scanner":
            # Through a gateway the many addresses cost one neighbour entry; the kernel's table has room for 1,024.
            gateway = topology.v4(topology.HOSTS["many"][0])
            commands.append(f"route add {topology.MANY_NETWORK} via {gateway} dev eth0")
            # Frames to a hardware address nobody has: what a firewall that drops looks like from outside.
            commands += [
                f"neigh replace {address} lladdr 02:00:00:00:00:01 dev eth0 nud permanent"
                for address in (topology.v4(topology.FILTERED), topology.v6(topology.FILTERED))
            ]
        ip("-n", host.netns, batch=commands)
        etc = _ETC_NETNS / host.netns
        etc.mkdir(parents=True, exist_ok=True)
        (etc / "resolv.conf").write_text(f"nameserver {resolver}\noptions timeout:2 attempts:2\n")
    return hosts


def names(ident: str | None = None) -> list[str]:
    """Names of the laboratory's namespaces that exist; with `ident`, of that one laboratory."""
    found = [line.split()[0] for line in ip("netns", "list").splitlines() if line.strip()]
    return [name for name in found if _NAME.match(name) and (ident is None or name.startswith(f"{ident}-"))]


def pids(netns: str) -> list[int]:
    """Processes whose network namespace is the named one."""
    try:
        return [int(pid) for pid in ip("netns", "pids", netns).split()]
    except CommandFailedError:
        return []


def remove(ident: str) -> None:
    """Remove one laboratory: end the processes in its namespaces, then the namespaces and its files."""
    _end_processes(ident)
    for name in names(ident):
        try:
            ip("netns", "delete", name)
        except CommandFailedError:
            if name in names(ident):
                raise
        shutil.rmtree(_ETC_NETNS / name, ignore_errors=True)
    for left in _ETC_NETNS.glob(f"{ident}-*"):
        shutil.rmtree(left, ignore_errors=True)
    shutil.rmtree(state_directory(ident), ignore_errors=True)


def _end_processes(ident: str) -> None:
    for number, patience in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 3.0)):
        until = time.monotonic() + patience
        asked: set[int] = set()
        while running := {pid for name in names(ident) for pid in pids(name)} - {os.getpid()}:
            if time.monotonic() > until:
                break
            for pid in running - asked:
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    continue
            asked |= running
            time.sleep(0.02)
        else:
            return


def state_directory(ident: str) -> Path:
    """Directory that holds all files of one laboratory."""
    return Path(tempfile.gettempdir()) / ident


def make_state_directory(ident: str) -> Path:
    """Make the state directory, with a note of the process that owns it.

    Open to other users for reading, since the servers give up root.
    """
    directory = state_directory(ident)
    directory.mkdir(mode=0o755)
    (directory / "owner").write_text(f"{os.getpid()} {_birth(os.getpid())}\n")
    return directory


def clean(*, everything: bool = False) -> list[str]:
    """Remove laboratories whose owner is dead (or, with `everything`, all of them); return what was removed.

    Only namespaces, files and processes under the laboratory's own prefix are touched.
    """
    candidates = set(names())
    candidates |= {path.name for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*") if path.owner() == "root"}
    candidates |= {path.name for path in _ETC_NETNS.glob(f"{PREFIX}*")}
    idents = {f"{PREFIX}{m['pid']}-{m['tag']}" for m in map(_NAME.match, candidates) if m}
    removed = []
    for ident in sorted(idents):
        if everything or not _owner_alive(ident):
            remove(ident)
            removed.append(ident)
    return removed


def _owner_alive(ident: str) -> bool:
    try:
        pid, birth = (state_directory(ident) / "owner").read_text().split()
    except (OSError, ValueError):
        # No note yet, or no longer: another process may be just starting or ending it, so its pid alone decides.
        found = _NAME.match(ident)
        return found is not None and _birth(int(found["pid"])) != _DEAD
    return _birth(int(pid)) == birth


def _birth(pid: int) -> str:
    """Start time of a process in clock ticks since boot (proc(5), field 22): tells a reused pid from the owner."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return _DEAD
    return stat.rpartition(")")[2].split()[19]
