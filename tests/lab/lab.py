"""A small internet to scan: network namespaces with real servers, right and wrong on purpose.

    with Lab() as lab:
        lab.run(["dig", "+short", "www.good.test"])     # runs where kat's runner would run
        lab.resolver                                    # "10.77.0.53:53"

Nothing in here has a route to another machine, and nothing of the host's own network is changed.
"""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from katlab import certs, netns, topology, zones
from katlab.command import environment, search_path
from katlab.dnsservers import Dns
from katlab.door import Door
from katlab.errors import CommandFailedError, LabError, NotPossibleError, ServerNotReadyError
from katlab.mailssh import Ssh, postfix
from katlab.server import Server
from katlab.topology import Host
from katlab.webserver import Many, Web

__all__ = ["CommandFailedError", "Host", "Lab", "LabError", "NotPossibleError", "ServerNotReadyError"]

#: program -> Debian package, for the message that says what is missing
PROGRAMS = {
    "ip": "iproute2",
    "ss": "iproute2",
    "knotd": "knot",
    "knotc": "knot",
    "ldns-keygen": "ldnsutils",
    "ldns-signzone": "ldnsutils",
    "unbound": "unbound",
    "unbound-control": "unbound",
    "nginx": "nginx",
    "postfix": "postfix",
    "sshd": "openssh-server",
    "ssh-keygen": "openssh-client",
    "openssl": "openssl",
    "dig": "bind9-dnsutils",
}


class Lab:
    """One laboratory. Several can run side by side: their namespaces have names of their own.

    Attributes, valid between `start` and `stop`:
        hosts: hosts by name: scanner, dns, web, mail, ssh, many.
        names: DNS names that lead to a host, with the addresses published for each.
        servers: server programs by name: root, ns1, ns2, ns3, rebind, resolver, web, banners, mail, ssh, ssh-weak,
            many.
        directory: all files: configurations, certificates, zones, logs.
    """

    #: ``address:port`` of the recursive, validating resolver.
    resolver = f"{topology.v4(topology.RESOLVER)}:53"

    def __init__(self) -> None:
        self.ident = f"{netns.PREFIX}{os.getpid()}-{secrets.token_hex(3)}"
        self.hosts: dict[str, Host] = {}
        self.names: dict[str, tuple[str, ...]] = {}
        self.servers: dict[str, Server] = {}
        self.directory = netns.state_directory(self.ident)
        self._dns: Dns | None = None
        self._many = 0
        self._generation = 0
        self._started = False
        self._owner = os.getpid()
        self._doors: list[Door] = []

    @property
    def trust_anchor(self) -> Path:
        """File with the DNSKEY of `test.`, the one key a validator has to trust."""
        return self._need_dns().trust_anchor

    @property
    def bind_anchor(self) -> Path:
        """The trust anchor as a BIND `trust-anchors` statement, as `delv` reads it."""
        return self._need_dns().bind_anchor

    @property
    def ca(self) -> Path:
        """PEM file of the root certificate, for a trust store."""
        return self.directory / "ca" / "root.pem"

    @staticmethod
    def why_not() -> str | None:
        """Why this machine can't carry the laboratory, in one sentence; None when it can."""
        if os.geteuid() != 0:
            return "The laboratory needs root for network namespaces; run it as root, or in a container with NET_ADMIN."
        missing = sorted(
            {package for program, package in PROGRAMS.items() if not shutil.which(program, path=search_path())}
        )
        if missing:
            return (
                f"The laboratory needs Debian packages that are not installed; run: apt-get install {' '.join(missing)}"
            )
        probe = f"{netns.PREFIX}{os.getpid()}-{secrets.token_hex(3)}"
        try:
            netns.ip("netns", "add", f"{probe}-net")
            try:
                netns.ip("netns", "exec", f"{probe}-net", "true")
            finally:
                netns.ip("netns", "delete", f"{probe}-net")
        except CommandFailedError as error:
            return f"The laboratory can't make network namespaces here; run it in a privileged container ({error})"
        return None

    def start(self) -> None:
        """Build the network, write all files, start every server but `many`, and wait until all of them answer.

        Left-overs of laboratories whose process died are removed first.

        Raises:
            NotPossibleError: the machine can't carry it (see `why_not`).
            LabError: something did not start; what there was is taken down again.
        """
        reason = self.why_not()
        if reason:
            raise NotPossibleError(reason)
        if self._started:
            raise LabError("The laboratory is running already; call stop() first.")
        netns.clean()
        atexit.register(self.stop)
        self._started = True
        try:
            self._build()
        except BaseException:
            self.stop()
            raise

    def _build(self) -> None:
        netns.make_state_directory(self.ident)
        self.hosts = netns.build(self.ident, topology.v4(topology.RESOLVER))
        self.names = topology.published_names()
        authority = certs.Authority(self.directory / "ca")
        mail_pair = authority.issue("mail", "mail.good.test")
        ssh = Ssh(self.directory / "ssh", self.hosts["ssh"])
        children = zones.child_zones(mail_tlsa=certs.tlsa_spki_sha256(mail_pair.cert), ssh_sshfp=ssh.sshfp)
        mail = postfix(self.directory / "mail", self.hosts["mail"], mail_pair)
        # Postfix is the slowest to start: it begins while the zones are signed.
        self._launch(mail)
        self._dns = Dns(self.directory / "dns", self.hosts["dns"])
        (self.directory / "dns").mkdir()
        written = [
            *self._dns.write(children),
            *Web(self.directory / "web", self.hosts["web"], authority).write(),
            *ssh.write(),
        ]
        self._launch(*written)
        for server in (*written, mail):
            server.wait_ready()
        many = Many(self.directory / "many", self.hosts["many"], authority).write()
        self.servers |= {server.name: server for server in many}
        self._wait_resolving("www.good.test", topology.v4(topology.WEB["www.good.test"]))

    def _launch(self, *servers: Server) -> None:
        for server in servers:
            self.servers[server.name] = server
            server.launch()

    def _wait_resolving(self, name: str, address: str) -> None:
        until = time.monotonic() + 20
        while True:
            answer = self.run(["dig", "+short", "+tries=1", "+time=2", name]).stdout.split()
            if address in answer:
                return
            if time.monotonic() > until:
                raise ServerNotReadyError("resolver", f"does not resolve {name}", self.servers["resolver"].tail())
            time.sleep(0.05)

    def stop(self) -> None:
        """Take everything down: processes, namespaces, files. Does nothing when it isn't running."""
        # A forked child inherits the exit handler, but the laboratory is its parent's.
        if not self._started or os.getpid() != self._owner:
            return
        for door in self._doors:
            door.close()
        self._doors.clear()
        netns.remove(self.ident)
        for server in self.servers.values():
            if server.process is not None:
                server.process.wait()
                server.process = None
        self.servers.clear()
        self._started = False
        self._many = 0
        atexit.unregister(self.stop)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _command(self, args: list[str], ns: str, env: Mapping[str, str] | None) -> tuple[list[str], dict[str, str]]:
        if ns not in self.hosts:
            raise LabError(f"The laboratory has no host {ns!r}; take one of {', '.join(topology.HOSTS)}.")
        return ["ip", "netns", "exec", self.hosts[ns].netns, *args], dict(env) if env is not None else environment()

    def run(self, args: list[str], ns: str = "scanner", **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command on a host and wait for it; options as of `subprocess.run`, by default captured text."""
        command, env = self._command(args, ns, options.pop("env", None))
        defaults: dict[str, Any] = {"text": True, "check": False, "env": env}
        if "stdout" not in options and "stderr" not in options:
            defaults["capture_output"] = True
        if "input" not in options:
            defaults["stdin"] = subprocess.DEVNULL
        done: subprocess.CompletedProcess[str] = subprocess.run(command, **{**defaults, **options})
        return done

    def popen(self, args: list[str], ns: str = "scanner", **options: Any) -> subprocess.Popen[Any]:
        """Start a command on a host; options as of `subprocess.Popen`. `stop` ends it if it still runs then."""
        command, env = self._command(args, ns, options.pop("env", None))
        return subprocess.Popen(command, **{"env": env, **options})

    def _chosen(self, name: str) -> list[Server]:
        """The server of that name; or all servers of the host of that name (but `many`, which counts by itself)."""
        if name in self.hosts:
            chosen = [server for server in self.servers.values() if server.host.name == name]
            if chosen:
                return chosen
        if name in self.servers:
            return [self.servers[name]]
        known = sorted({*self.servers, *(server.host.name for server in self.servers.values())})
        raise LabError(f"The laboratory has no server {name!r}; take one of {', '.join(known)}.")

    def stop_server(self, name: str) -> None:
        """Stop a server, or all servers of a host: ``stop_server("dns")`` stops the resolver and all name servers."""
        for server in self._chosen(name):
            server.stop()

    def start_server(self, name: str) -> None:
        """Start what `stop_server` stopped and wait until it listens; what runs already is left alone."""
        stopped = [server for server in self._chosen(name) if not server.running]
        for server in stopped:
            server.launch()
        for server in stopped:
            server.wait_ready()

    def flush(self, zone: str = ".") -> None:
        """Have the recursive resolver forget what it knows about a zone and everything below."""
        self._need_dns().flush(zone)

    def many(self, count: int) -> dict[str, str]:
        """Have hosts h001.many.test to h<count>.many.test, each with a web server (80, 443) at its own address.

        Returns name -> address. Called again, it changes the number of names.
        """
        if not 0 <= count <= topology.MANY_MAX:
            raise LabError(f"The laboratory has room for 0 to {topology.MANY_MAX} of the many hosts, not {count}.")
        dns = self._need_dns()
        self.start_server("many")
        self._generation += 1
        dns.replace(zones.many_zone(count, self._generation))
        for index in range(1, self._many + 1):
            self.names.pop(topology.many_name(index), None)
        self._many = count
        added = {topology.many_name(index): topology.many_address(index) for index in range(1, count + 1)}
        self.names |= {name: (address,) for name, address in added.items()}
        return added

    def door(self, port: int, *, ns: str = "scanner") -> int:
        """Open a way from a host's loopback to this machine's: for a runner that has to reach the kat server.

        Connections to ``127.0.0.1:<returned port>`` inside the namespace come out at ``127.0.0.1:<port>`` outside.
        """
        if ns not in self.hosts:
            raise LabError(f"The laboratory has no host {ns!r}; take one of {', '.join(topology.HOSTS)}.")
        door = Door(self.hosts[ns].netns, port)
        self._doors.append(door)
        return door.port

    def _need_dns(self) -> Dns:
        if self._dns is None:
            raise LabError("The laboratory isn't running; call start() first.")
        return self._dns
