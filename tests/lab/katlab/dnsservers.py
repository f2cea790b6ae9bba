"""The DNS host: Knot DNS instances for the root, `test.` and the zones, Unbound as validating resolver, a rebinder.

Zones are signed with the ldns tools once, at start: so expired and altered signatures are as easy as right ones.
"""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import dns.rdata

from . import topology, zones
from .command import environment, run
from .errors import CommandFailedError
from .server import Server, dns_sockets
from .topology import NS1, NS2, NS3, REBIND, RESOLVER, ROOT, Host, v4, v6
from .zones import Zone

ALGORITHM = "ECDSAP256SHA256"


class Dns:
    """Zones, keys and configurations of the DNS host, under one directory; `servers` are its programs.

    After `write`: `trust_anchor` is the file with the DNSKEY of `test.` (a DNS record, as Unbound and `drill` read it),
    `bind_anchor` the same as a BIND statement, as `delv` reads it.
    """

    def __init__(self, directory: Path, host: Host) -> None:
        self.directory = directory
        self.host = host
        self.keys = directory / "keys"
        self.trust_anchor = directory / "test.anchor"
        self.bind_anchor = directory / "test.anchor.conf"
        self.root_hints = directory / "root.hints"

    def write(self, children: list[Zone]) -> list[Server]:
        """Sign the zones, write every file, and return the servers, not yet started."""
        self.keys.mkdir(parents=True)
        signed = [zone for zone in children if zone.signed]
        roles = [(zone.origin, role) for zone in signed for role in ("ksk", "zsk")]
        roles += [(zone.origin, "other") for zone in signed if zone.ds == "wrong"]
        names = self._generate_keys([*roles, ("test.", "ksk"), ("test.", "zsk")])
        ds = {
            zone.origin: [self._ds(names[zone.origin, "ksk" if zone.ds == "right" else "other"])]
            for zone in signed
            if zone.ds != "none"
        }
        parent = zones.parent_zone(children, ds)
        reverse = zones.reverse_zones()
        everyday = [*children, *reverse]
        for zone in (*everyday, parent, zones.root_zone()):
            self.zone_file(zone.origin).write_text(zone.text)
            for server, text in zone.extra.items():
                self.zone_file(zone.origin, server).write_text(text)
        self._sign([*signed, parent], names)
        anchor = (self.keys / f"{names['test.', 'ksk']}.key").read_text()
        self.trust_anchor.write_text(anchor)
        key = dns.rdata.from_text("IN", "DNSKEY", anchor.partition("DNSKEY")[2].partition(";")[0])
        flags, protocol, algorithm, data = key.to_text(chunksize=0).split()
        self.bind_anchor.write_text(f'trust-anchors {{ test. static-key {flags} {protocol} {algorithm} "{data}"; }};\n')
        second = [zone for zone in everyday if "ns2.nic.test." in zone.nameservers]
        return [
            self._knot("root", ROOT, [zones.root_zone(), parent]),
            self._knot("ns1", NS1, everyday),
            self._knot("ns2", NS2, second),
            self._knot("ns3", NS3, []),
            self._rebind(),
            self._unbound(),
        ]

    def zone_file(self, origin: str, server: str = "") -> Path:
        """Where the master file of a zone lies; `server` for a server with a version of its own."""
        return self.directory / f"{origin.rstrip('.') or 'root'}{f'.{server}' if server else ''}.zone"

    def replace(self, zone: Zone) -> None:
        """Put a new version of an unsigned zone into service on both everyday servers and forget what was cached."""
        self.zone_file(zone.origin).write_text(zone.text)
        for server in ("ns1", "ns2"):
            run(["knotc", "-b", "-s", str(self._knot_directory(server) / "knot.sock"), "zone-reload", zone.origin])
        self.flush(zone.origin)

    def flush(self, zone: str = ".") -> None:
        """Have the recursive resolver forget a zone and all below it."""
        run(["unbound-control", "-c", str(self.directory / "unbound.conf"), "flush_zone", zone])

    def _generate_keys(self, roles: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
        """Make keys; (origin, role) -> base name of the key files."""
        running = {}
        for origin, role in roles:
            command = ["ldns-keygen", "-a", ALGORITHM, *(["-k"] if role != "zsk" else []), origin]
            running[origin, role] = subprocess.Popen(
                command,
                cwd=self.keys,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        names = {}
        for key, process in running.items():
            output = process.communicate()[0].decode()
            if process.returncode:
                raise CommandFailedError(["ldns-keygen", *key], process.returncode, output)
            names[key] = output.split()[-1]
        return names

    def _ds(self, key: str) -> str:
        """DS record data of a key, SHA-256 (RFC 4509)."""
        fields = run(["ldns-key2ds", "-n", "-2", f"{key}.key"], cwd=self.keys).split()
        return " ".join(fields[fields.index("DS") + 1 :])

    def _sign(self, signed: list[Zone], names: dict[tuple[str, str], str]) -> None:
        now = dt.datetime.now(dt.UTC)
        for zone in signed:
            start, end = (-60, -30) if zone.expired else (-1, 60)
            moments = [(now + dt.timedelta(days=days)).strftime("%Y%m%d%H%M%S") for days in (start, end)]
            path = self.zone_file(zone.origin)
            output = path.with_suffix(".signed")
            command = ["ldns-signzone", "-i", moments[0], "-e", moments[1], "-f", str(output), "-o", zone.origin]
            if zone.signed == "nsec3":
                # No extra iterations and no salt, as RFC 9276 wants it.
                command += ["-n", "-t", "0"]
            command += [str(path), *(str(self.keys / names[zone.origin, role]) for role in ("ksk", "zsk"))]
            run(command)
            text = output.read_text()
            for name in zone.tampered:
                text = _alter_address(text, name)
            path.write_text(text)

    def _knot_directory(self, name: str) -> Path:
        return self.directory / f"knot-{name}"

    def _knot(self, name: str, number: int, served: list[Zone]) -> Server:
        state = self._knot_directory(name)
        state.mkdir()
        lines = [
            "server:",
            f"    rundir: {state}",
            f"    identity: {name}.nic.test",
            f"    listen: [ {v4(number)}@53, {v6(number)}@53 ]",
            "    udp-workers: 1",
            "    tcp-workers: 1",
            "    background-workers: 1",
            "control:",
            f"    listen: {state}/knot.sock",
            "database:",
            f"    storage: {state}",
            "    journal-db-max-size: 16M",
            "    kasp-db-max-size: 16M",
            "    timer-db-max-size: 16M",
            "log:",
            "  - target: stderr",
            "    any: info",
            "acl:",
            "  - id: anyone",
            f"    address: [ 10.77.0.0/{topology.PREFIX_V4}, fd77::/{topology.PREFIX_V6} ]",
            "    action: transfer",
            "zone:",
        ]
        for zone in served:
            path = self.zone_file(zone.origin, name if name in zone.extra else "")
            lines += [
                f"  - domain: {zone.origin}",
                f"    file: {path}",
                "    zonefile-load: whole",
                "    journal-content: none",
            ]
            lines += ["    acl: anyone"] if zone.transfer else []
        config = state / "knot.conf"
        config.write_text("\n".join(lines if served else lines[:-1]) + "\n")
        return Server(
            name,
            self.host,
            ["knotd", "-c", str(config)],
            dns_sockets(v4(number), v6(number)),
            self.directory / f"{name}.log",
        )

    def _unbound(self) -> Server:
        self.root_hints.write_text(
            f". 3600 NS a.nic.test.\na.nic.test. 3600 A {v4(ROOT)}\na.nic.test. 3600 AAAA {v6(ROOT)}\n"
        )
        config = self.directory / "unbound.conf"
        config.write_text(f"""server:
    interface: {v4(RESOLVER)}
    interface: {v6(RESOLVER)}
    access-control: 10.77.0.0/{topology.PREFIX_V4} allow
    access-control: fd77::/{topology.PREFIX_V6} allow
    module-config: "validator iterator"
    trust-anchor-file: "{self.trust_anchor}"
    root-hints: "{self.root_hints}"
    # Built-in answers that would hide the laboratory's zones.
    local-zone: "test." nodefault
    local-zone: "10.in-addr.arpa." nodefault
    local-zone: "d.f.ip6.arpa." nodefault
    identity: "resolver.nic.test"
    num-threads: 1
    outgoing-range: 512
    # A server that was stopped and started again must be asked again soon.
    infra-host-ttl: 2
    cache-max-negative-ttl: 5
    val-bogus-ttl: 5
    val-log-level: 2
    edns-buffer-size: 1232
    chroot: ""
    username: ""
    directory: "{self.directory}"
    pidfile: ""
    use-syslog: no
    logfile: ""
    do-daemonize: no
remote-control:
    control-enable: yes
    control-interface: "{self.directory}/unbound.sock"
    control-use-cert: no
""")
        return Server(
            "resolver",
            self.host,
            ["unbound", "-d", "-c", str(config)],
            dns_sockets(v4(RESOLVER), v6(RESOLVER)),
            self.directory / "resolver.log",
        )

    def _rebind(self) -> Server:
        script = Path(__file__).with_name("rebind_server.py")
        argv = [sys.executable, str(script), v4(REBIND), v6(REBIND), v4(topology.WEB["www.bad.test"]), "127.0.0.1"]
        return Server("rebind", self.host, argv, dns_sockets(v4(REBIND), v6(REBIND)), self.directory / "rebind.log")


def _alter_address(text: str, name: str) -> str:
    """Alter the A record of a name in a signed master file, keeping its signature, which is wrong from then on."""
    lines = text.splitlines()
    changed = 0
    for i, line in enumerate(lines):
        parts = line.split()
        if len(parts) == 5 and parts[0] == name and parts[3] == "A":
            lines[i] = "\t".join([*parts[:4], v4(topology.WEB["www.bad.test"])])
            changed += 1
    if not changed:
        raise CommandFailedError(["alter", name], 1, "no A record to alter in the signed zone")
    return "\n".join(lines) + "\n"
