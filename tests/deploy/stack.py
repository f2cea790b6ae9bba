"""The services of compose.yaml, each started as its container would be (`box.py`), against a real PostgreSQL."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from kattegat.store.account import bin_dir

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
UID = {"": 10001, "postgres": 999}
PASSWORD = 'a password with "quotes", spaces and $HOME'
# What the entry point of the official image does at its first start and at every start, as its page tells.
POSTGRES = r"""
set -eu
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    printf '%s\n' first > /tmp/pwfile
    initdb --pgdata="$PGDATA" --username=postgres --pwfile=/tmp/pwfile $POSTGRES_INITDB_ARGS
    printf 'host all all all scram-sha-256\n' >> "$PGDATA/pg_hba.conf"
    pg_ctl --pgdata="$PGDATA" --wait start --options "-c listen_addresses='' -c unix_socket_directories=/run/postgresql"
    export PGHOST=/run/postgresql POSTGRES_USER=postgres
    for file in /docker-entrypoint-initdb.d/*.sh; do "$file"; done
    pg_ctl --pgdata="$PGDATA" --mode=fast --wait stop
fi
exec postgres -D "$PGDATA" -c listen_addresses='*' -c unix_socket_directories=/run/postgresql
"""


def why_not() -> str:
    """Why the machine can't run boxes, or nothing."""
    if os.geteuid() != 0:
        return "boxes need root"
    for program in ("unshare", "nsenter", "setpriv", "ip"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    done = subprocess.run(["unshare", "--mount", "--pid", "--net", "--fork", "true"], capture_output=True, text=True)
    return done.stderr.strip() if done.returncode else ""


def compose(release: str) -> dict[str, Any]:
    """compose.yaml with its variables in place."""

    def value(found: re.Match[str]) -> str:
        name, default = found[1], found[3] or ""
        return {"KAT_RELEASE": release}.get(name, default if found[2] != ":?" else "")

    text = re.sub(r"\$\{(\w+)(:[-?])?([^}]*)\}", value, (ROOT / "compose.yaml").read_text())
    document: dict[str, Any] = yaml.safe_load(text)
    return document


def install_wheel(folder: Path) -> str:
    """Builds the wheel and installs it into a virtual environment at `folder`; gives its release.

    The packages it stands on are those of this environment; Kattegat itself is what is in the wheel.
    """
    wheels = folder.with_name("wheels")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", wheels, ROOT], check=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    [wheel] = wheels.glob("kattegat-*.whl")
    [packages] = folder.glob("lib/python*/site-packages")
    subprocess.run([*pip, f"--python={folder}/bin/python", "install", "--no-deps", "--no-index", wheel], check=True)
    (packages / "others.pth").write_text("".join(f"{path}\n" for path in sys.path if path.endswith("site-packages")))
    program = folder / "bin" / "kat"
    program.write_text(re.sub(r"\A#!.*", "#!/opt/kattegat/bin/python", program.read_text()))
    return wheel.name.split("-")[1]


class Stack:
    """The services in a folder; `start` in the order of compose, `command` for one more process in a service."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.release = install_wheel(folder / "venv")
        self.document = compose(self.release)
        self.services: dict[str, dict[str, Any]] = self.document["services"]
        (folder / "secret").write_text(PASSWORD)
        (folder / "secret").chmod(0o444)
        self._numbers = itertools.count(1)
        self._running: dict[str, subprocess.Popen[str]] = {}
        # A container on no common network with another can't reach it: here that is a namespace of its own.
        self.namespaces = {name: f"kat{os.getpid()}-{name}" for name in ("inside", "outside")}
        for name in self.namespaces.values():
            subprocess.run(["ip", "netns", "add", name], check=True)
            subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)

    def namespace(self, service: str) -> str:
        """The network namespace of a service."""
        return self.namespaces["inside" if "inside" in self.services[service]["networks"] else "outside"]

    def command(self, service: str, *given: str, **options: Any) -> subprocess.Popen[str]:
        """Starts `kat ARGUMENTS` (or a program with its path) in a new box of this service."""
        found = self.services[service]
        number = next(self._numbers)
        root = self.folder / f"root-{number}"
        root.mkdir()
        binds = [[str(path), str(path), False] for path in (Path(sys.base_prefix), *self._packages())]
        binds.append([str(self.folder / "venv"), "/opt/kattegat", False])
        binds.append([str(ROOT / "deploy/container/kat"), "/opt/bin/kat", False])
        uid = UID[found.get("user", "")]
        for entry in found.get("volumes", []):
            source, target, *mode = entry.split(":")
            if source.startswith("./"):
                source = str(ROOT / source)
            else:
                # An empty named volume takes over its owner from the folder of the image.
                place = self.folder / "volumes" / source
                place.mkdir(parents=True, exist_ok=True)
                if place.stat().st_uid == 0:
                    os.chown(place, uid, uid)
                source = str(place)
            binds.append([source, target, mode != ["ro"]])
        binds += [[str(self.folder / "secret"), f"/run/secrets/{name}", False] for name in found.get("secrets", [])]
        environment = {
            "PATH": f"/opt/bin:{bin_dir()}:/usr/bin:/bin",
            "KAT_DATA_DIR": "/var/lib/kattegat",
            "KAT_LISTEN": "0.0.0.0",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
            **({"PGDATA": "/var/lib/postgresql/18/docker", "LC_ALL": "C.UTF-8"} if service == "database" else {}),
            **{name: str(value) for name, value in found.get("environment", {}).items()},
        }
        spec = {
            "root": str(root),
            "hostname": service,
            "uid": uid,
            "read_only": found["read_only"],
            "command": list(given) if given and given[0].startswith("/") else ["/opt/bin/kat", *given],
            "environment": environment,
            "binds": binds,
            "tmpfs": [[entry.split(":")[0], "1777"] for entry in found["tmpfs"]],
            "etc": {
                "hosts": "127.0.0.1 localhost database kattegat.example.org\n",
                "resolv.conf": "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n",
                "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
                "passwd": "root:x:0:0::/:/bin/sh\nkattegat:x:10001:10001::/var/lib/kattegat:/bin/sh\n"
                "postgres:x:999:999::/var/lib/postgresql:/bin/sh\n",
                "group": "root:x:0:\nkattegat:x:10001:\npostgres:x:999:\n",
            },
        }
        file = self.folder / f"spec-{number}.json"
        file.write_text(json.dumps(spec))
        enter = ["nsenter", f"--net=/run/netns/{self.namespace(service)}", "unshare", "--mount", "--uts", "--ipc"]
        enter += ["--pid", "--fork", "--kill-child", sys.executable, str(HERE / "box.py"), str(file)]
        return subprocess.Popen(enter, text=True, stdin=subprocess.DEVNULL, **options)

    @staticmethod
    def _packages() -> list[Path]:
        return [Path(path) for path in sys.path if path.endswith("site-packages")]

    def run(self, service: str, *given: str, code: int | None = 0) -> str:
        """Runs a command to its end as `docker compose exec` would; gives what it printed."""
        process = self.command(service, *given, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        out, err = process.communicate(timeout=300)
        if code is not None and process.returncode != code:
            raise AssertionError(f"{given} ended with {process.returncode}: {out[-2000:]}{err[-2000:]}")
        return out

    def log(self, service: str) -> str:
        """What a started service has said."""
        return (self.folder / f"{service}.log").read_text()

    def start(self, service: str) -> None:
        """Starts a service, as its command in compose.yaml says, after what it waits for."""
        for name, wanted in self.services[service].get("depends_on", {}).items():
            self.wait(name, wanted["condition"])
        given = ("/bin/sh", "-c", POSTGRES) if service == "database" else tuple(self.services[service]["command"])
        with (self.folder / f"{service}.log").open("w") as file:
            self._running[service] = self.command(service, *given, stdout=file, stderr=file)

    def healthy(self, service: str) -> int:
        """The exit code of the service's health check."""
        kind, program, *rest = self.services[service]["healthcheck"]["test"]
        if kind != "CMD":
            raise AssertionError(f"the health check of {service} is no plain command")
        given = (program, *rest) if program.startswith("/") else ("/usr/bin/env", program, *rest)
        process = self.command(service, *given, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return process.wait(60)

    def wait(self, service: str, condition: str) -> None:
        """Until a service that is started meets a condition of compose's depends_on."""
        if service not in self._running:
            self.start(service)
        process = self._running[service]
        if condition == "service_completed_successfully":
            if process.wait(120) != 0:
                raise AssertionError(f"{service} ended with {process.returncode}: {self.log(service)}")
            return
        end = time.monotonic() + 120
        while self.healthy(service) != 0:
            if process.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"{service} does not get healthy: {self.log(service)}")
            time.sleep(0.3)

    def stop(self, service: str) -> int:
        """Ends a service as its engine would; gives its exit code."""
        # The image of PostgreSQL asks for SIGINT.
        return self.end(self._running.pop(service), signal.SIGINT if service == "database" else signal.SIGTERM)

    @staticmethod
    def end(process: subprocess.Popen[str], number: int = signal.SIGTERM) -> int:
        """Sends a signal to process 1 of a box, which is the one child of unshare; gives the exit code."""
        for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
            os.kill(int(child), number)
        return process.wait(60)

    def close(self) -> None:
        """Ends everything."""
        for process in self._running.values():
            process.kill()
            process.wait()
        for name in self.namespaces.values():
            subprocess.run(["ip", "netns", "delete", name], check=False)
